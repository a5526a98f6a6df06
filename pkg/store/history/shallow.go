package history

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// shallowFile lists the commits whose parents are not in the repository, one
// hash on each line: Git reads them as commits without parents. So the oldest
// versions can be removed while the other ones keep their hashes.
const (
	shallowFile     = "shallow"
	maxShallowBytes = 8 << 20 // for more than maxAdoptCommits
)

// shallow returns the commits whose parents were pruned, or were not in the
// adopted history. The map is not nil.
func (r *repo) shallow() (map[plumbing.Hash]bool, error) {
	raw, err := os.ReadFile(filepath.Join(r.dir, shallowFile))
	if statefile.IgnoreMissing(err) != nil {
		return nil, err
	}
	return decodeShallow(string(raw))
}

func decodeShallow(text string) (map[plumbing.Hash]bool, error) {
	shallow := map[plumbing.Hash]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if !isHash(line) {
			return nil, errors.New(shallowFile + " has a line that is not a hash")
		}
		shallow[plumbing.NewHash(line)] = true
	}
	return shallow, nil
}

func encodeShallow(shallow map[plumbing.Hash]bool) string {
	lines := make([]string, 0, len(shallow))
	for hash := range shallow {
		lines = append(lines, hash.String()+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// setShallow replaces the list. The list is on the disk when setShallow returns:
// no object may be removed before that. It must be called with the lock held.
func (r *repo) setShallow(shallow map[plumbing.Hash]bool) error {
	if len(shallow) == 0 {
		return statefile.IgnoreMissing(os.Remove(filepath.Join(r.dir, shallowFile)))
	}
	return statefile.ReplaceFile(filepath.Join(r.dir, shallowFile), fileMode, statefile.Bytes([]byte(encodeShallow(shallow))))
}

// walk calls visit for the versions of the project, the newest first, until
// visit returns false. It needs no lock: a version that is pruned meanwhile ends
// the walk as if it had been pruned before.
func (r *repo) walk(ctx context.Context, visit func(plumbing.Hash, *object.Commit) (more bool)) error {
	shallow, err := r.shallow()
	if err != nil {
		return err
	}
	next, err := r.head()
	if err != nil {
		return err
	}
	for !next.IsZero() {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := object.GetCommit(r.store, next)
		if errors.Is(err, plumbing.ErrObjectNotFound) && r.prunedSince(shallow) {
			return nil
		}
		if err != nil {
			return err
		}
		if !visit(next, c) {
			return nil
		}
		next = firstParent(c, shallow)
	}
	return nil
}

// firstParent returns the version before c, or the zero hash if c is the first
// one or the version before it was pruned.
func firstParent(c *object.Commit, shallow map[plumbing.Hash]bool) plumbing.Hash {
	if len(c.ParentHashes) == 0 || shallow[c.Hash] {
		return plumbing.ZeroHash
	}
	return c.ParentHashes[0]
}

// prunedSince reports whether versions were pruned since the list was read.
func (r *repo) prunedSince(shallow map[plumbing.Hash]bool) bool {
	now, err := r.shallow()
	return err == nil && !maps.Equal(now, shallow)
}
