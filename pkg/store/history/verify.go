package history

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// fault is a reason to leave out a part of a foreign history. Any other error is
// one of the host.
type fault struct{ text string }

func (f *fault) Error() string { return f.text }

func faultf(format string, args ...any) error { return &fault{fmt.Sprintf(format, args...)} }

func isFault(err error) bool {
	_, ok := errors.AsType[*fault](err)
	return ok
}

// foreignCommit is a commit that the verifier has seen.
type foreignCommit struct {
	tree    plumbing.Hash
	parents []plumbing.Hash
	shallow bool  // its parents are not in the repository
	decided bool  // fault is final
	fault   error // nil if it and all its ancestors are sound and stored
}

// verifier walks a foreign history from the oldest commit to the newest and
// stores its sound objects.
type verifier struct {
	src     *foreign
	objects *writer
	commits map[plumbing.Hash]*foreignCommit
	trees   map[plumbing.Hash]extent
	blobs   map[plumbing.Hash]stored
}

// walk decides about a commit and all its ancestors, parents first.
func (v *verifier) walk(newest plumbing.Hash) error {
	for stack := []plumbing.Hash{newest}; len(stack) > 0; {
		hash := stack[len(stack)-1]
		c, known := v.commits[hash]
		if !known {
			c = v.parse(hash)
			if c.fault != nil && !isFault(c.fault) {
				return c.fault
			}
			v.commits[hash] = c
		}
		if known || c.decided {
			if err := v.decide(hash, c); err != nil {
				return err
			}
			stack = stack[:len(stack)-1]
			continue
		}
		for _, p := range c.parents {
			if v.commits[p] == nil {
				stack = append(stack, p)
			}
		}
	}
	return nil
}

// parse reads a commit. Its content is read again once its parents are decided:
// together, commits may be larger than the memory.
func (v *verifier) parse(hash plumbing.Hash) *foreignCommit {
	c := &foreignCommit{}
	if len(v.commits) >= maxAdoptCommits {
		return &foreignCommit{decided: true, fault: faultf("it has more than %d versions", maxAdoptCommits)}
	}
	raw, err := v.src.read(hash, plumbing.CommitObject, maxCommitBytes)
	if err == nil {
		err = c.parse(raw)
	}
	if err != nil {
		return &foreignCommit{decided: true, fault: err}
	}
	if c.shallow = v.src.shallow[hash] && len(c.parents) > 0; c.shallow {
		c.parents = nil
	}
	c.fault = faultf("commit %s is its own ancestor", hash) // until it is decided
	return c
}

// decide sets the fault of a commit whose parents are decided, and stores it if
// it is sound.
func (v *verifier) decide(hash plumbing.Hash, c *foreignCommit) error {
	if c.decided {
		return nil
	}
	c.decided = true
	for _, p := range c.parents {
		if before := v.commits[p]; before.fault != nil {
			c.fault = before.fault
			return nil
		}
	}
	_, err := v.tree(c.tree, 1, above{})
	if isFault(err) {
		err = faultf("commit %s: %v", Short(hash.String()), err)
	}
	var raw []byte
	if err == nil {
		raw, err = v.src.read(hash, plumbing.CommitObject, maxCommitBytes)
		v.src.bytesLeft += int64(len(raw)) // parse has spent it
	}
	if err == nil {
		err = v.put(plumbing.CommitObject, raw)
	}
	c.fault = err
	if isFault(err) {
		return nil
	}
	return err
}

// put stores a sound object. It returns a fault if there are too many objects.
func (v *verifier) put(t plumbing.ObjectType, content []byte) error {
	if err := v.src.spend(objectCost); err != nil {
		return err
	}
	_, err := v.objects.put(t, content, plumbing.ZeroHash)
	return err
}

// leads reports whether first parents lead from newest to old.
func (v *verifier) leads(newest, old plumbing.Hash) bool {
	for range len(v.commits) {
		c := v.commits[newest]
		if newest == old || c == nil || len(c.parents) == 0 {
			break
		}
		newest = c.parents[0]
	}
	return newest == old
}

// ancestors returns a commit and all its ancestors.
func (v *verifier) ancestors(newest plumbing.Hash) map[plumbing.Hash]bool {
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

// extent is the size of a tree when it is checked out, where each tree and file
// counts as often as it is named: a few trees that name one another can stand for
// more files than there are atoms.
type extent struct {
	names, height int
	paths         int   // bytes of all paths below it, relative to it
	longest       int   // path below it
	bytes         int64 // of all files
	fault         error // nil if the tree is sound
}

// above is the size of the trees in memory that lead to another one.
type above struct{ names, bytes int }

// tree stores a tree and everything below it.
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
	if err := v.src.ctx.Err(); err != nil {
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
	entries, err := parseTree(raw, MaxFiles-up.names)
	if err != nil {
		return e, faultf("tree %s: %v", Short(hash.String()), err)
	}
	up = above{up.names + len(entries), up.bytes + len(raw)}
	for _, i := range entries {
		var sub extent
		switch i.Mode {
		case filemode.Dir:
			sub, err = v.tree(i.Hash, depth+1, up)
		case filemode.Submodule: // it is in another repository
		default:
			sub.bytes, err = v.blob(i)
		}
		if err == nil {
			err = e.add(len(i.Name), sub)
		}
		if err != nil {
			return e, err
		}
	}
	return e, v.put(plumbing.TreeObject, raw)
}

// add counts an entry whose name has the given number of bytes. It returns a
// fault if the tree exceeds a limit.
func (e *extent) add(name int, sub extent) error {
	below := 0 // a slash and the path below the entry
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

// stored is a file that the verifier has seen.
type stored struct {
	size  int64
	fault error // nil if the file is sound
}

// blob stores the content of a file or the target of a link.
func (v *verifier) blob(e object.TreeEntry) (size int64, err error) {
	known, ok := v.blobs[e.Hash]
	if !ok {
		if err = v.src.spend(objectCost); err == nil {
			known.size, err = v.src.copyBlob(e.Hash, v.objects)
		}
		if err != nil && !isFault(err) {
			return 0, err
		}
		known.fault = err
		v.blobs[e.Hash] = known
	}
	isLink := e.Mode == filemode.Symlink
	switch {
	case known.fault != nil:
		return 0, known.fault
	case isLink && known.size > dreamcore.MaxPathBytes:
		return 0, faultf("it has a link to more than %d bytes", dreamcore.MaxPathBytes)
	case isLink || !isAttributes(e.Name):
		return known.size, nil
	}
	raw, err := v.src.read(e.Hash, plumbing.BlobObject, smallBytes)
	if err != nil {
		return 0, err
	}
	if !saneAttributes(raw) {
		return 0, faultf("%q has lines that are too long for Git", e.Name)
	}
	return known.size, nil
}

// saneAttributes reports whether git fsck accepts content as a file of
// attributes.
func saneAttributes(content []byte) bool {
	const maxLine = 2048
	for line := range bytes.Lines(content) {
		if len(line) >= maxLine {
			return false
		}
	}
	return true
}
