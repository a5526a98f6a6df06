package history

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// Limits of a foreign history. A project that contains one at its first version
// gets less than an operator who imports it: the history takes the host's disk
// and time, and nothing asked for it.
const (
	maxAdoptCommits  = 100_000
	maxAdoptBytes    = 8 << 30 // read, with deltas and the objects that they result in
	maxEmbeddedBytes = 512 << 20
	maxEmbeddedTime  = time.Minute
	gitDir           = ".git"
	headFile         = "HEAD"
	maxRefBytes      = 4096
	maxSymbolicRefs  = 5
	maxPackedRefs    = 8 << 20
	maxCommitBytes   = 1 << 20
	maxTreeBytes     = dreamcore.MaxTreePaths + 28*MaxFiles // 28: mode and hash of an entry
	maxInMemoryBytes = 32 << 20                             // of an object that results from a delta
	maxParents       = 100                                  // of a commit; the largest merge of Linux has 66
	objectCost       = 4 << 10                              // bytes on the host's disk of the smallest object
)

// Adopted is the result of Adopt.
type Adopted struct {
	Head     string // the newest commit that was adopted; "" if none was
	Versions int    // number of adopted commits, side branches included
	LeftOut  int    // commits of the branch that are newer than Head
	Reason   string // why commits were left out; "" if none were
}

// Adopt takes over the history in git, the directory .git of an old project: the
// commits of its branch with their hashes, authors, dates and messages. Only
// HEAD, references and objects are read, below an os.Root and without following
// links; configuration, hooks, alternates, replacements and filters
// have no effect. Every object is verified by its hash and must pass the checks
// of git fsck. If the history has a fault, the versions before it are adopted. The history that the project already has here is kept: it can be
// continued by the foreign one, not replaced. The error is ctx's, one of the
// disk, or CodeBusy; a fault of git is not an error.
func (s *Store) Adopt(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, git *os.Root) (Adopted, error) {
	r, err := makeRepo(ctx, s.path(user, project))
	if err != nil {
		return Adopted{}, diskError("prepare the history", err)
	}
	leave, err := s.slot(ctx, user)
	if err != nil {
		return Adopted{}, diskError("take over the history", err)
	}
	defer leave()
	unlock, err := lock(ctx, r.dir)
	if err != nil {
		return Adopted{}, diskError("lock the history", err)
	}
	defer unlock()
	if err := r.sweep(); err != nil {
		return Adopted{}, diskError("prepare the history", err)
	}
	head, err := r.head()
	if err != nil {
		return Adopted{}, r.damaged(err)
	}
	if err := r.forgetSize(); err != nil {
		return Adopted{}, diskError("take over the history", err)
	}
	a, err := r.adopt(ctx, git, head, maxAdoptBytes)
	if err != nil {
		return a, diskError("take over the history", err)
	}
	return a, nil
}

// begin adopts the history inside a project that has no version yet. It returns
// the newest commit and its tree, zero if there is no history, and notes the
// commits that were left out in snap. It must be called with the lock held.
func (r *repo) begin(ctx context.Context, root *os.Root, snap *snapshot) (head, tree plumbing.Hash, err error) {
	a, err := r.adoptEmbedded(ctx, root)
	if err != nil {
		return head, tree, err
	}
	if a.Reason != "" {
		snap.skip(gitDir, "versions of its own history: "+a.Reason)
	}
	if a.Head == "" {
		return head, tree, nil
	}
	head = plumbing.NewHash(a.Head)
	tree, err = r.treeOf(head)
	return head, tree, err
}

// adoptEmbedded adopts the history in root/.git, within tighter limits.
func (r *repo) adoptEmbedded(ctx context.Context, root *os.Root) (Adopted, error) {
	before, err := root.Lstat(gitDir)
	if err != nil || !before.IsDir() {
		return Adopted{}, nil
	}
	git, err := tree.OpenSameDir(root, gitDir, before)
	if err != nil {
		return Adopted{}, nil // removed or replaced meanwhile
	}
	defer git.Close()
	limited, cancel := context.WithTimeout(ctx, maxEmbeddedTime)
	defer cancel()
	a, err := r.adopt(limited, git, plumbing.ZeroHash, maxEmbeddedBytes)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		return Adopted{Reason: "it takes too long to read"}, nil
	}
	return a, err
}

// adopt adopts the history in git, of which it reads at most the given bytes.
// head is the newest commit of r. It must be called with the lock held.
func (r *repo) adopt(ctx context.Context, git *os.Root, head plumbing.Hash, bytes int64) (a Adopted, err error) {
	src := openForeign(ctx, git, bytes)
	defer src.close()
	newest, err := src.head()
	if err != nil {
		return Adopted{Reason: err.Error()}, ctx.Err()
	}
	if newest.IsZero() {
		return a, nil // a repository without a commit
	}
	v := &verifier{
		src: src, objects: newWriter(r.dir),
		commits: map[plumbing.Hash]*foreignCommit{}, trees: map[plumbing.Hash]extent{}, blobs: map[plumbing.Hash]stored{},
	}
	if err := v.walk(newest); err != nil {
		return a, err
	}
	found := newest
	for c := v.commits[found]; c.fault != nil; c = v.commits[found] {
		if a.LeftOut++; a.Reason == "" {
			a.Reason = c.fault.Error()
		}
		if len(c.parents) == 0 || a.LeftOut > len(v.commits) {
			return a, nil
		}
		found = c.parents[0]
	}
	if here, err := r.contains(ctx, found); here && err == nil {
		a.Head = head.String()
		return a, nil
	}
	if !head.IsZero() && !v.leads(found, head) {
		return Adopted{LeftOut: a.LeftOut, Reason: "the project has other versions here"}, nil
	}
	shallow, err := r.shallow()
	if err != nil {
		return Adopted{}, err
	}
	versions := v.ancestors(found)
	for hash := range versions {
		if v.commits[hash].shallow {
			shallow[hash] = true
		}
	}
	if err := r.setShallow(shallow); err != nil {
		return Adopted{}, err
	}
	if err := r.advance(found, v.objects); err != nil {
		return Adopted{}, err
	}
	a.Head, a.Versions = found.String(), len(versions)
	return a, nil
}

// contains reports whether old is the newest version or one before it.
func (r *repo) contains(ctx context.Context, old plumbing.Hash) (found bool, err error) {
	err = r.walk(ctx, func(hash plumbing.Hash, _ *object.Commit) bool {
		found = hash == old
		return !found
	})
	return found, err
}

// isGone reports whether a file of a foreign repository is missing or is not a
// regular file.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errReplaced) }
