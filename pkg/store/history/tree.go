package history

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// The tree walks of go-git refuse a whole tree for one name with a line break,
// and treat a missing subtree as an empty one. Names here come from a sandbox and
// never become paths of the host.

// pair is a file or a link in two versions, with its whole path as its name; a
// side is nil if it has no file there.
type pair struct{ from, to *object.TreeEntry }

// errBeyond reports a version beyond the limits on trees. New and adopted versions
// are within them, but a repository may be older than the limits.
var errBeyond = errors.New("beyond the limits on the files of a project")

// treeWalk walks two trees at once.
type treeWalk struct {
	ctx   context.Context
	repo  *repo
	visit func(pair)
	names int // entries read so far, of both trees
	meter dreamcore.TreeMeter
}

// compare calls visit for each file that differs between two trees. The zero hash
// stands for an empty tree. The error is errBeyond if the trees exceed the limits
// of a project; visit was called for all files before that.
func (r *repo) compare(ctx context.Context, from, to plumbing.Hash, visit func(pair)) error {
	c := &treeWalk{ctx: ctx, repo: r, visit: visit}
	return c.trees(from, to, "", 1)
}

func (c *treeWalk) trees(from, to plumbing.Hash, dir string, depth int) error {
	if from == to {
		return nil
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if depth > MaxDepth+1 {
		return errBeyond
	}
	before, err := c.entries(from)
	if err != nil {
		return err
	}
	after, err := c.entries(to)
	if err != nil {
		return err
	}
	old := make(map[string]object.TreeEntry, len(before))
	for _, e := range before {
		old[e.Name] = e
	}
	for _, e := range after {
		b := old[e.Name]
		delete(old, e.Name)
		if b == e {
			continue
		}
		if err := c.entry(b, e, dir, e.Name, depth); err != nil {
			return err
		}
	}
	for _, e := range before {
		if _, gone := old[e.Name]; !gone {
			continue
		}
		if err := c.entry(e, object.TreeEntry{}, dir, e.Name, depth); err != nil {
			return err
		}
	}
	return nil
}

// entry compares two entries with the same name; the zero entry is a missing one.
func (c *treeWalk) entry(b, e object.TreeEntry, dir, name string, depth int) error {
	if c.meter.Add(len(dir), name) != "" {
		return errBeyond
	}
	path := join(dir, name)
	from, fromTree := side(b, path)
	to, toTree := side(e, path)
	if from != nil || to != nil {
		c.visit(pair{from, to})
	}
	return c.trees(fromTree, toTree, path, depth+1)
}

// side returns a file, or the tree of a directory.
func side(e object.TreeEntry, path string) (*object.TreeEntry, plumbing.Hash) {
	switch e.Mode {
	case filemode.Empty:
		return nil, plumbing.ZeroHash
	case filemode.Dir:
		return nil, e.Hash
	}
	e.Name = path
	return &e, plumbing.ZeroHash
}

// entries counts and returns the entries of a tree, which may be the zero hash.
func (c *treeWalk) entries(tree plumbing.Hash) ([]object.TreeEntry, error) {
	if tree.IsZero() {
		return nil, nil
	}
	entries, err := c.repo.entries(tree)
	if c.names += len(entries); err == nil && c.names > 2*MaxFiles {
		err = errBeyond
	}
	return entries, err
}

// entries returns the entries of a tree.
func (r *repo) entries(tree plumbing.Hash) (entries []object.TreeEntry, err error) {
	raw, err := r.readTree(tree)
	if err != nil {
		return nil, err
	}
	for rest := raw; len(rest) > 0; {
		e := object.TreeEntry{}
		if e, rest, err = nextEntry(rest); err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// readTree returns the content of a tree. Its size is checked before it is read.
func (r *repo) readTree(tree plumbing.Hash) ([]byte, error) {
	o, err := r.store.EncodedObject(plumbing.TreeObject, tree)
	if err != nil {
		return nil, err
	}
	if o.Size() > maxTreeBytes {
		return nil, errBeyond
	}
	src, err := o.Reader()
	if err != nil {
		return nil, err
	}
	raw, err := readExactly(src, o.Size())
	return raw, errors.Join(err, src.Close())
}

var errTree = errors.New("a tree is damaged")

// nextEntry returns the first entry of a tree, and the rest of the tree.
func nextEntry(raw []byte) (e object.TreeEntry, rest []byte, err error) {
	head, rest, ok := bytes.Cut(raw, []byte{0})
	mode, name, ok2 := bytes.Cut(head, []byte{' '})
	if !ok || !ok2 || len(rest) < len(e.Hash) {
		return e, nil, errTree
	}
	if len(name) > dreamcore.MaxNameBytes {
		return e, nil, errBeyond
	}
	e.Name = string(name)
	copy(e.Hash[:], rest)
	if e.Mode, err = filemode.New(string(mode)); err != nil {
		return e, nil, errTree
	}
	return e, rest[len(e.Hash):], nil
}

// sizes looks up the sizes of objects. It must not be used concurrently.
type sizes struct {
	repo *repo
	buf  *bufio.Reader
	zip  io.ReadCloser
}

func (r *repo) sizes() *sizes { return &sizes{repo: r, buf: bufio.NewReaderSize(nil, 512)} }

// of returns the size of an object in bytes. The library's EncodedObjectSize
// leaves the file of a loose object open until a garbage collection: a version
// with many files would use up the descriptors of the process.
func (s *sizes) of(hash plumbing.Hash) (size int64, err error) {
	f, err := os.Open(loosePath(filepath.Join(s.repo.dir, objectsDir), hash))
	if errors.Is(err, fs.ErrNotExist) {
		return s.repo.store.EncodedObjectSize(hash) // in a pack
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s.buf.Reset(f)
	if s.zip == nil {
		s.zip, err = zlib.NewReader(s.buf)
	} else {
		err = s.zip.(zlib.Resetter).Reset(s.buf, nil)
	}
	if err == nil {
		_, size, err = readHeader(s.zip)
	}
	return size, err
}
