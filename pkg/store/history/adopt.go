package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Bounds of a history from outside. A project that brings one along at its
// first version gets less than an operator who imports it: it takes the host's
// disk and time, and nobody has asked for it.
const (
	maxAdoptCommits  = 100_000
	maxAdoptBytes    = 8 << 30 // that are read, deltas and what they make included
	maxBroughtBytes  = 512 << 20
	maxBroughtTime   = time.Minute
	gitDir           = ".git"
	headFile         = "HEAD"
	maxRefBytes      = 4096
	maxSymbolicRefs  = 5
	maxPackedRefs    = 8 << 20
	maxCommitBytes   = 1 << 20
	maxTreeBytes     = dreamcore.MaxTreePaths + 28*MaxFiles // the mode and the hash of each entry
	maxInMemoryBytes = 32 << 20                             // of an object that is made from a delta
	maxParents       = 100                                  // of a commit; the largest merge of Linux has 66
	maxHeldBytes     = 4 << 20                              // of commits whose parents are looked at first
	objectCost       = 4 << 10                              // that an object takes on the host's disk, however small it is
)

// Adopted says what has become of a history from outside.
type Adopted struct {
	Head     string // the newest commit that was taken over; "": none was
	Versions int    // how many commits that are, side branches included
	LeftOut  int    // commits of the branch that are newer than Head
	Reason   string // why something was left out; "": nothing was
}

// Adopt takes over the history in git, the directory .git that an old project
// has: the commits of its branch with their hashes, authors, dates and
// messages. Of git only HEAD, references and objects are read, below an
// os.Root and without following links; configuration, hooks, alternates,
// replacements and filters count for nothing. Every object is verified by its
// hash and must be one that git fsck has nothing to say about. From a history
// with a fault, the versions before it are taken. What the project has here
// already is kept: a history that goes on from it is taken, another one is not.
// The errors are of our own side: ctx's, or one of the disk.
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

// brought takes over the history that a project has in itself when its first
// version is made, if it has one. The repository is locked.
func (r *repo) brought(ctx context.Context, root *os.Root) (Adopted, error) {
	before, err := root.Lstat(gitDir)
	if err != nil || !before.IsDir() {
		return Adopted{}, nil // none, or nothing that could be one
	}
	git, err := openDir(root, gitDir, before)
	if err != nil {
		return Adopted{}, nil // taken away meanwhile
	}
	defer git.Close()
	limited, cancel := context.WithTimeout(ctx, maxBroughtTime)
	defer cancel()
	a, err := r.adopt(limited, git, plumbing.ZeroHash, maxBroughtBytes)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		return Adopted{Reason: "it takes too long to read"}, nil
	}
	return a, err
}

// adopt is Adopt in a repository that is locked and whose newest commit is head.
func (r *repo) adopt(ctx context.Context, git *os.Root, head plumbing.Hash, bytes int64) (Adopted, error) {
	src, err := openForeign(ctx, git, bytes)
	if err != nil {
		return Adopted{}, err
	}
	defer src.close()
	newest, err := src.head()
	if err != nil {
		return Adopted{Reason: err.Error()}, ctx.Err()
	}
	if newest.IsZero() {
		return Adopted{}, nil // a repository without a commit
	}
	v := &verifier{ctx: ctx, src: src, objects: newWriter(r.dir), commits: map[plumbing.Hash]*foreignCommit{}, trees: map[plumbing.Hash]extent{}, blobs: map[plumbing.Hash]stored{}}
	if err := v.walk(newest); err != nil {
		return Adopted{}, err
	}
	a := Adopted{}
	found := newest
	seen := map[plumbing.Hash]bool{}
	for c := v.commits[found]; c == nil || c.fault != nil; c = v.commits[found] {
		a.LeftOut++
		if c != nil && a.Reason == "" {
			a.Reason = c.fault.Error()
		}
		seen[found] = true
		if c == nil || len(c.parents) == 0 || seen[c.parents[0]] {
			return a, nil
		}
		found = c.parents[0]
	}
	if r.contains(ctx, found) {
		a.Head = head.String()
		return a, nil
	}
	if !head.IsZero() && !v.leads(found, head) {
		return Adopted{LeftOut: a.LeftOut, Reason: "the project has other versions here"}, nil
	}
	if err := r.cutAt(v.cut(found)); err != nil {
		return Adopted{}, err
	}
	if err := r.advance(found, v.objects); err != nil {
		return Adopted{}, err
	}
	a.Head, a.Versions = found.String(), v.reach(found)
	return a, nil
}

// cutAt adds commits to those whose parents are not in the repository.
func (r *repo) cutAt(more []plumbing.Hash) error {
	if len(more) == 0 {
		return nil
	}
	cut, err := r.shallow()
	if err != nil {
		return err
	}
	if cut == nil {
		cut = map[plumbing.Hash]bool{}
	}
	for _, hash := range more {
		cut[hash] = true
	}
	return r.setShallow(cut)
}

// contains reports whether old is a version that led to newest, or that itself.
func (r *repo) contains(ctx context.Context, old plumbing.Hash) bool {
	found := false
	err := r.walk(ctx, func(hash plumbing.Hash, _ *object.Commit) bool {
		found = hash == old
		return !found
	})
	return err == nil && found
}

// foreignCommit is what is known of a commit that was looked at.
type foreignCommit struct {
	tree    plumbing.Hash
	parents []plumbing.Hash
	cut     bool  // its parents are not in the repository
	fault   error // nil: it and all before it are sound and stored
}

// verifier goes through a history, from the oldest commit to the newest, and
// stores what is sound.
type verifier struct {
	ctx     context.Context
	src     *foreign
	objects *writer
	commits map[plumbing.Hash]*foreignCommit
	trees   map[plumbing.Hash]extent
	blobs   map[plumbing.Hash]stored
}

// fault is a reason not to take something over; any other error is ours.
type fault struct{ text string }

func (f *fault) Error() string { return f.text }

func faultf(format string, args ...any) error { return &fault{fmt.Sprintf(format, args...)} }

func isFault(err error) bool {
	_, ok := errors.AsType[*fault](err)
	return ok
}

// walk looks at a commit after all that it comes from.
func (v *verifier) walk(newest plumbing.Hash) error {
	type step struct {
		hash   plumbing.Hash
		parsed bool
		raw    []byte // nil: not read yet, or too much was held
	}
	stack := []step{{hash: newest}}
	held := 0 // bytes of all raw
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		c := v.commits[top.hash]
		switch {
		case c == nil && len(v.commits) >= maxAdoptCommits:
			v.commits[top.hash] = &foreignCommit{fault: faultf("it has more than %d versions", maxAdoptCommits)}
			stack = stack[:len(stack)-1]
		case c == nil:
			c = &foreignCommit{fault: faultf("commit %s comes from itself", top.hash)} // until it is known
			v.commits[top.hash] = c
			raw, err := v.src.read(top.hash, plumbing.CommitObject, maxCommitBytes)
			if err == nil {
				err = c.parse(raw)
			}
			if c.cut = err == nil && v.src.shallow[top.hash] && len(c.parents) > 0; c.cut {
				c.parents = nil
			}
			if err != nil {
				if !isFault(err) {
					return err
				}
				c.fault = err
				c.parents = nil
				stack = stack[:len(stack)-1]
				continue
			}
			top.parsed = true
			if held+len(raw) <= maxHeldBytes {
				top.raw = raw
				held += len(raw)
			}
			for _, p := range c.parents {
				if v.commits[p] == nil {
					stack = append(stack, step{hash: p})
				}
			}
		default:
			if top.parsed {
				held -= len(top.raw)
				if err := v.settle(top.hash, c, top.raw); err != nil {
					return err
				}
			}
			stack = stack[:len(stack)-1]
		}
	}
	return nil
}

// settle decides about a commit whose parents are decided. raw is nil where it
// has to be read again.
func (v *verifier) settle(hash plumbing.Hash, c *foreignCommit, raw []byte) error {
	for _, p := range c.parents {
		if before := v.commits[p]; before == nil || before.fault != nil {
			c.fault = faultf("commit %s comes from one that cannot be taken", Short(hash.String()))
			if before != nil && before.fault != nil {
				c.fault = before.fault
			}
			return nil
		}
	}
	if _, err := v.tree(c.tree, 1, above{}); err != nil {
		if !isFault(err) {
			return err
		}
		c.fault = faultf("commit %s: %v", Short(hash.String()), err)
		return nil
	}
	var err error
	if raw == nil {
		raw, err = v.src.read(hash, plumbing.CommitObject, maxCommitBytes)
	}
	if err == nil {
		err = v.put(plumbing.CommitObject, raw)
	}
	if err != nil {
		if !isFault(err) {
			return err
		}
		c.fault = err
		return nil
	}
	c.fault = nil
	return nil
}

// put stores a sound object. A fault: there are too many.
func (v *verifier) put(t plumbing.ObjectType, content []byte) error {
	if err := v.src.spend(objectCost); err != nil {
		return err
	}
	_, err := v.objects.put(t, content, plumbing.ZeroHash)
	return err
}

// leads tells whether old is one of the commits that newest comes from.
func (v *verifier) leads(newest, old plumbing.Hash) bool {
	for seen := map[plumbing.Hash]bool{}; !seen[newest]; {
		if newest == old {
			return true
		}
		seen[newest] = true
		c := v.commits[newest]
		if c == nil || len(c.parents) == 0 {
			return false
		}
		newest = c.parents[0]
	}
	return false
}

// reach counts the commits that lead to one, itself included.
func (v *verifier) reach(newest plumbing.Hash) int { return len(v.before(newest)) }

// cut returns those of the commits that lead to newest, or it, whose parents
// were not in the repository.
func (v *verifier) cut(newest plumbing.Hash) (cut []plumbing.Hash) {
	for hash := range v.before(newest) {
		if v.commits[hash].cut {
			cut = append(cut, hash)
		}
	}
	return cut
}

// before returns the commits that lead to one, itself included.
func (v *verifier) before(newest plumbing.Hash) map[plumbing.Hash]bool {
	seen := map[plumbing.Hash]bool{newest: true}
	for todo := []plumbing.Hash{newest}; len(todo) > 0; {
		c := v.commits[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		for _, p := range c.parents {
			if !seen[p] {
				seen[p] = true
				todo = append(todo, p)
			}
		}
	}
	return seen
}

// extent is how much a sound tree holds, each tree and file as often as it is
// named: a few trees that name one another can stand for more files than there
// are atoms. A fault says that it is none.
type extent struct {
	names, height int
	paths         int   // bytes of all paths below it, from it
	longest       int   // path below it
	bytes         int64 // of all files
	fault         error
}

// above is what is held in memory of the trees that lead to another.
type above struct{ names, bytes int }

// tree stores a tree and all below it.
func (v *verifier) tree(hash plumbing.Hash, depth int, up above) (extent, error) {
	if known, ok := v.trees[hash]; ok {
		if known.fault == nil && depth+known.height-1 > MaxDepth {
			return known, faultf("too many directories inside each other")
		}
		return known, known.fault
	}
	if depth > MaxDepth {
		return extent{}, faultf("too many directories inside each other")
	}
	if err := v.ctx.Err(); err != nil {
		return extent{}, err
	}
	e, err := v.newTree(hash, depth, up)
	if err != nil && !isFault(err) {
		return e, err
	}
	e.fault = err
	v.trees[hash] = e
	return e, err
}

func (v *verifier) newTree(hash plumbing.Hash, depth int, up above) (extent, error) {
	e := extent{height: 1}
	raw, err := v.src.read(hash, plumbing.TreeObject, int64(maxTreeBytes-up.bytes))
	if err != nil {
		return e, err
	}
	items, err := parseTree(raw, MaxFiles-up.names)
	if err != nil {
		return e, faultf("tree %s: %v", Short(hash.String()), err)
	}
	up = above{up.names + len(items), up.bytes + len(raw)}
	for _, i := range items {
		var sub extent
		switch i.kind {
		case aDir:
			if sub, err = v.tree(i.hash, depth+1, up); err != nil {
				return e, err
			}
		case aFile, aLink:
			if sub.bytes, err = v.blob(i); err != nil {
				return e, err
			}
		}
		if err := e.add(len(i.name), sub); err != nil {
			return e, err
		}
	}
	return e, v.put(plumbing.TreeObject, raw)
}

// add counts an entry with a name of so many bytes. A fault: it is too much.
func (e *extent) add(name int, sub extent) error {
	below := 0 // a slash and the path in it
	if sub.names > 0 {
		below = 1 + sub.longest
	}
	e.names += 1 + sub.names
	e.height = max(e.height, sub.height+1)
	e.paths += name + sub.names*(name+1) + sub.paths
	e.longest = max(e.longest, name+below)
	e.bytes += sub.bytes
	switch {
	case e.names > MaxFiles:
		return faultf("it has more than %d files", MaxFiles)
	case e.longest > dreamcore.MaxPathBytes:
		return faultf("it has a path of more than %d bytes", dreamcore.MaxPathBytes)
	case e.paths > dreamcore.MaxTreePaths:
		return faultf("its paths are longer than %d MiB together", dreamcore.MaxTreePaths>>20)
	case e.bytes > MaxTotalBytes:
		return faultf("its files are larger than %d GiB together", int64(MaxTotalBytes)>>30)
	}
	return nil
}

// stored is a file that was looked at.
type stored struct {
	size  int64
	fault error
}

// blob stores the content of a file.
func (v *verifier) blob(i foreignItem) (size int64, err error) {
	known, ok := v.blobs[i.hash]
	if !ok {
		if err = v.src.spend(objectCost); err == nil {
			known.size, err = v.src.copyBlob(i.hash, v.objects)
		}
		if err != nil && !isFault(err) {
			return 0, err
		}
		known.fault = err
		v.blobs[i.hash] = known
	}
	switch {
	case known.fault != nil:
		return 0, known.fault
	case i.kind == aLink && known.size > dreamcore.MaxPathBytes:
		return 0, faultf("it has a link to more than %d bytes", dreamcore.MaxPathBytes)
	case i.kind == aLink || !isAttributes(i.name):
		return known.size, nil
	}
	raw, err := v.src.read(i.hash, plumbing.BlobObject, smallBytes)
	if err != nil {
		return 0, err
	}
	if !saneAttributes(raw) {
		return 0, faultf("%q has lines that are too long for Git", i.name)
	}
	return known.size, nil
}

func saneAttributes(content []byte) bool {
	const maxLine = 2048
	for line := range bytes.Lines(content) {
		if len(line) >= maxLine {
			return false
		}
	}
	return true
}

// isGone tells whether a file of a foreign repository is not there, or not one.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errMoved) }

// begin takes over what history a project without versions brings along. It
// returns the newest commit and its tree, zero for none, and notes what was
// left out.
func (r *repo) begin(ctx context.Context, root *os.Root, snap *snapshot) (head, tree plumbing.Hash, err error) {
	a, err := r.brought(ctx, root)
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
