package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// What is said of a version that is not there, in the words of the contract.
const (
	NotInitialized = "Git not initialized"
	NoSuchCommit   = "Commit not found"
)

var hashForm = regexp.MustCompile(`^[0-9a-fA-F]+$`)

// CheckHash refuses what is no hash or beginning of one: 7 to 40 hexadecimal
// digits. CodeInvalid.
func CheckHash(hash string) error {
	if len(hash) < shortLength || len(hash) > 40 || !hashForm.MatchString(hash) {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid commit hash", Hint: "give 7 to 40 hexadecimal digits, as the log shows them"}
	}
	return nil
}

// find returns the version whose hash begins with prefix: one that the log
// shows, or could show. Objects that no version leads to are none.
func (s *Store) find(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, prefix string) (*repo, *object.Commit, error) {
	if err := CheckHash(prefix); err != nil {
		return nil, nil, err
	}
	r, err := openRepo(s.path(user, project))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: NotInitialized, Hint: "the project has no version yet: change a file of it, or make a game"}
	}
	if err != nil {
		return nil, nil, diskError("open the history", err)
	}
	wanted, odd, err := decodePrefix(prefix)
	if err != nil {
		return nil, nil, err
	}
	var found *object.Commit
	err = r.walk(ctx, func(hash plumbing.Hash, c *object.Commit) bool {
		if hasPrefix(hash, wanted, odd) {
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
	return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: NoSuchCommit, Hint: "take a hash that the log shows", Err: cause}
}

// decodePrefix turns hexadecimal digits into bytes; of an odd number, the last
// one is returned by itself as the upper half of a byte.
func decodePrefix(prefix string) (whole []byte, odd int, err error) {
	odd = -1
	if len(prefix)%2 == 1 {
		if _, err := fmt.Sscanf(prefix[len(prefix)-1:], "%1x", &odd); err != nil {
			return nil, 0, err
		}
		prefix = prefix[:len(prefix)-1]
	}
	_, err = fmt.Sscanf(prefix, "%x", &whole)
	return whole, odd, err
}

func hasPrefix(hash plumbing.Hash, whole []byte, odd int) bool {
	return string(hash[:len(whole)]) == string(whole) && (odd < 0 || int(hash[len(whole)]>>4) == odd)
}

// Saved is a regular file as a version has it.
type Saved struct {
	Path string // relative to the project, with slashes
	Size int64  // bytes
	repo *repo
	hash plumbing.Hash

	commit plumbing.Hash // the version
}

// Write writes the content of the file. It is read only now: together the
// files of a version may be larger than the memory.
func (f Saved) Write(w io.Writer) error {
	blob, err := object.GetBlob(f.repo.store, f.hash)
	if err != nil {
		return f.repo.missing(context.Background(), f.commit, err)
	}
	r, err := blob.Reader()
	if err != nil {
		return f.repo.damaged(err)
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, r.Close())
}

// Files returns the regular files of a version whose path wanted accepts, and
// the hash of the version. hash is 7 to 40 hexadecimal digits. CodeInvalid: it
// is not; CodeNotFound: there is no such version.
func (s *Store) Files(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, hash string, wanted func(path string) bool) (files []Saved, full string, err error) {
	r, c, err := s.find(ctx, user, project, hash)
	if err != nil {
		return nil, "", err
	}
	var leaves []*leaf
	err = r.compare(ctx, plumbing.ZeroHash, c.TreeHash, func(p pair) {
		if (p.to.mode == filemode.Regular || p.to.mode == filemode.Executable) && wanted(p.to.path) {
			leaves = append(leaves, p.to)
		}
	})
	if err != nil {
		return nil, "", r.missing(ctx, c.Hash, err)
	}
	sizes := r.sizes()
	for _, l := range leaves {
		size, err := sizes.of(l.hash)
		if err != nil {
			return nil, "", r.missing(ctx, c.Hash, err)
		}
		files = append(files, Saved{Path: l.path, Size: size, repo: r, hash: l.hash, commit: c.Hash})
	}
	return files, c.Hash.String(), nil
}

// unreadable tells a history that cannot be read from somebody who gave up.
func (r *repo) unreadable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("read the history: %w", context.Cause(ctx))
	}
	if errors.Is(err, errBeyond) {
		return &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: "the version is larger than a project may be", Hint: "take another version", Err: err}
	}
	return r.damaged(err)
}
