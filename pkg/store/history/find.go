package history

import (
	"context"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Messages for a version that does not exist, in the words of the contract.
const (
	NotInitialized = "Git not initialized"
	NoSuchCommit   = "Commit not found"
)

// CheckHash returns an error with CodeInvalid unless hash is 7 to 40 hexadecimal
// digits.
func CheckHash(hash string) error {
	if len(hash) < shortLength || len(hash) > 40 || strings.Trim(hash, hexDigits+"ABCDEF") != "" {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid commit hash", Hint: "give 7 to 40 hexadecimal digits, as the log shows them"}
	}
	return nil
}

// find returns the version whose hash begins with prefix. Only versions that the
// log could show are found, not every object.
func (s *Store) find(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, prefix string) (*repo, *object.Commit, error) {
	if err := CheckHash(prefix); err != nil {
		return nil, nil, err
	}
	r, err := s.open(user, project)
	if err != nil {
		return nil, nil, err
	}
	if r == nil {
		return nil, nil, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: NotInitialized, Hint: "the project has no version yet: change one of its files, or generate a game"}
	}
	prefix = strings.ToLower(prefix)
	var found *object.Commit
	err = r.walk(ctx, func(hash plumbing.Hash, c *object.Commit) bool {
		if strings.HasPrefix(hash.String(), prefix) {
			found = c
		}
		return found == nil
	})
	switch {
	case err != nil:
		return nil, nil, r.unreadable(ctx, err)
	case found == nil:
		return nil, nil, errNoCommit(nil)
	}
	return r, found, nil
}

func errNoCommit(cause error) error {
	return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: NoSuchCommit, Hint: "use a hash that the log shows", Err: cause}
}
