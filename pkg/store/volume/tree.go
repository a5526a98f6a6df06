package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Entry is a directory, a regular file or a symbolic link of a tree.
type Entry struct {
	Path     string      // relative to the tree, with slashes; any bytes but NUL
	Mode     fs.FileMode // its kind and permissions
	Size     int64       // bytes of a file
	Modified time.Time
	Link     string // where a link points to

	dir *os.Root
}

// Open opens a regular file for reading. It may be called while Walk is at the
// entry. The caller must close the file.
func (e Entry) Open() (*os.File, error) {
	f, _, err := openRegular(e.dir, path.Base(e.Path))
	return f, err
}

// Skip is told what is left out of a tree, and why.
type Skip func(path, reason string)

const tooDeep = "too many directories inside each other"

// Walk goes through everything in root that can be copied: a directory comes
// before what is in it, names in order. .git at the top is left out without a
// word, and so is the link to the skills that a running job has in a project.
// FIFOs, devices, sockets, what cannot be read and what is beyond the limits on
// depth and paths is left out, and skip is told. Links are not followed. The walk
// ends after an error: ctx's, one of the disk, or CodeTooLarge for more than
// MaxEntries names.
func Walk(ctx context.Context, root *os.Root, skip Skip) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		w := &treeWalk{ctx: ctx, skip: skip, yield: yield, left: MaxEntries}
		top, err := root.OpenRoot(".")
		if err != nil {
			yield(Entry{}, diskError("open the directory", err))
			return
		}
		w.dir(top, "", 1)
	}
}

type treeWalk struct {
	ctx   context.Context
	skip  Skip
	yield func(Entry, error) bool
	left  int
	meter dreamcore.TreeMeter
}

func (w *treeWalk) dir(root *os.Root, prefix string, depth int) bool {
	defer root.Close()
	names, err := w.names(root, prefix)
	if err != nil {
		w.yield(Entry{}, err)
		return false
	}
	for _, name := range names {
		if err := w.ctx.Err(); err != nil {
			w.yield(Entry{}, err)
			return false
		}
		if prefix == "" && name == ".git" {
			continue
		}
		if reason := w.meter.Add(max(len(prefix)-1, 0), name); reason != "" {
			w.skip(clipPath(prefix, name), reason)
			continue
		}
		if !w.entry(root, name, prefix+name, depth) {
			return false
		}
	}
	return true
}

// clipPath is a path for a note. A walk may leave out very many of them, so it
// is short.
func clipPath(prefix, name string) string {
	const most = 100 // bytes of either
	if len(prefix) > most {
		prefix = prefix[:most] + "…/"
	}
	if len(name) > most {
		name = name[:most] + "…"
	}
	return prefix + name
}

func (w *treeWalk) entry(root *os.Root, name, full string, depth int) bool {
	info, err := root.Lstat(name)
	if err != nil {
		return true // removed meanwhile
	}
	e := Entry{Path: full, Mode: info.Mode().Type() | info.Mode().Perm(), Modified: info.ModTime(), dir: root}
	switch {
	case info.Mode().IsRegular():
		e.Size = info.Size()
		return w.yield(e, nil)
	case info.Mode()&fs.ModeSymlink != 0:
		if e.Link, err = root.Readlink(name); err != nil {
			w.skip(full, "the link cannot be read")
			return true
		}
		if dreamcore.IsSkillsLink(full, e.Link) {
			return true
		}
		return w.yield(e, nil)
	case !info.IsDir():
		w.skip(full, "it is neither a file, a link nor a directory")
		return true
	case isJobs(root, name, full):
		return true
	case depth >= MaxDepth:
		w.skip(full, tooDeep)
		return true
	}
	sub, err := openDir(root, name)
	if err != nil {
		w.skip(full, "the directory cannot be opened")
		return true
	}
	if !w.yield(e, nil) {
		sub.Close()
		return false
	}
	return w.dir(sub, full+"/", depth+1)
}

func (w *treeWalk) names(root *os.Root, prefix string) ([]string, error) {
	names, err := readNames(root, &w.left)
	switch {
	case errors.Is(err, fs.ErrPermission):
		w.skip(prefix, "the directory cannot be read")
		return nil, nil
	case err != nil && !errors.Is(err, errTooManyNames):
		return nil, diskError("list a directory", err)
	}
	return names, err
}

// Digest is a hash over trees: two are equal when their entries are, in kind,
// permissions, names, targets of links and content. Times do not count.
type Digest struct {
	sum   hash.Hash
	Files int
	Bytes int64
}

// NewDigest returns the digest of an empty tree.
func NewDigest() *Digest { return &Digest{sum: sha256.New()} }

// Add adds the next entry, as Walk comes by it; content is the SHA-256 of a
// file.
func (d *Digest) Add(e Entry, size int64, content []byte) {
	mode := e.Mode
	if mode&fs.ModeSymlink != 0 {
		mode = fs.ModeSymlink // links have no permissions
	} else if mode.IsRegular() {
		d.Files++
		d.Bytes += size
	}
	fmt.Fprintf(d.sum, "%d %d %q %q %x\n", mode, size, e.Path, e.Link, content)
}

// String returns 64 hexadecimal digits.
func (d *Digest) String() string { return hex.EncodeToString(d.sum.Sum(nil)) }

// DigestOf reads a whole tree.
func DigestOf(ctx context.Context, root *os.Root, skip Skip) (*Digest, error) {
	d := NewDigest()
	left := int64(MaxCopyBytes)
	for e, err := range Walk(ctx, root, skip) {
		if err != nil {
			return nil, err
		}
		var content []byte
		size := int64(0)
		if e.Mode.IsRegular() {
			f, err := e.Open()
			if err != nil {
				skip(e.Path, "it cannot be read")
				continue
			}
			h := sha256.New()
			size, err = copyBytes(ctx, h, f, left)
			f.Close()
			if err != nil {
				return nil, tooLarge(diskErrorOf("read "+e.Path, err))
			}
			left -= size
			content = h.Sum(nil)
		}
		d.Add(e, size, content)
	}
	return d, nil
}

func diskErrorOf(action string, err error) error {
	if errors.Is(err, errTooLarge) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return diskError(action, err)
}

func tooLarge(err error) error {
	if errors.Is(err, errTooLarge) {
		return &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: "the project is larger than 4 GiB", Hint: "remove what is not part of the game", Err: err}
	}
	return err
}

// Filler writes a tree into an empty directory that nobody else writes to.
type Filler struct {
	root     *os.Root
	uid, gid int
	left     int64
	names    int
	dirs     []Entry // their modes come last
	meter    dreamcore.TreeMeter
}

// NewFiller fills root for a user. Finish must be called at the end.
func NewFiller(root *os.Root, uid, gid int) *Filler {
	return &Filler{root: root, uid: uid, gid: gid, left: MaxCopyBytes, names: MaxEntries}
}

// Bound sets other bounds than those of a project. It is called before Put.
func (f *Filler) Bound(names int, bytes int64) { f.names, f.left = names, bytes }

// Put writes an entry, with the content of src when it is a file, and returns
// the size and SHA-256 of that. Directories that are missing on the way are
// made. CodeInvalid: the path leaves the tree or goes through a link;
// CodeTooLarge: there is more than MaxCopyBytes or MaxEntries, or what Bound has set.
func (f *Filler) Put(ctx context.Context, e Entry, src io.Reader) (size int64, sum []byte, err error) {
	clean, err := cleanPath(e.Path)
	if err != nil {
		return 0, nil, err
	}
	if f.names--; f.names < 0 {
		return 0, nil, errTooManyNames
	}
	if dir, name := path.Split(clean); strings.Count(clean, "/") >= MaxDepth || f.meter.Add(max(len(dir)-1, 0), name) != "" {
		return 0, nil, badPath(e.Path)
	}
	dir, err := f.parent(path.Dir(clean))
	if err != nil {
		return 0, nil, fillError(e.Path, err)
	}
	defer dir.Close()
	name := path.Base(clean)
	switch {
	case e.Mode.IsDir():
		err = f.mkdir(dir, name)
		e.Path = clean
		f.dirs = append(f.dirs, e)
	case e.Mode&fs.ModeSymlink != 0:
		if err = dir.Symlink(e.Link, name); err == nil {
			err = dir.Lchown(name, f.uid, f.gid)
		}
	case e.Mode.IsRegular():
		size, sum, err = f.file(ctx, dir, name, e, src)
	default:
		err = errNotPlain
	}
	return size, sum, fillError(e.Path, err)
}

func fillError(name string, err error) error {
	for _, cause := range []error{errNotPlain, fs.ErrExist, syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EISDIR, syscall.EINVAL} {
		if errors.Is(err, cause) {
			return badPath(name)
		}
	}
	return tooLarge(err)
}

func (f *Filler) mkdir(dir *os.Root, name string) error {
	err := dir.Mkdir(name, privateMode)
	if errors.Is(err, fs.ErrExist) {
		info, err := dir.Lstat(name)
		if err == nil && !info.IsDir() {
			err = errNotPlain
		}
		return err
	}
	if err == nil {
		err = errors.Join(dir.Chmod(name, sharedMode), dir.Lchown(name, f.uid, f.gid))
	}
	return err
}

func (f *Filler) parent(name string) (*os.Root, error) {
	dir, err := f.root.OpenRoot(".")
	if name == "." {
		return dir, err
	}
	for element := range strings.SplitSeq(name, "/") {
		if err != nil {
			return nil, err
		}
		var next *os.Root
		next, err = openDir(dir, element)
		if errors.Is(err, fs.ErrNotExist) {
			if err = f.mkdir(dir, element); err == nil {
				next, err = openDir(dir, element)
			}
		}
		dir.Close()
		dir = next
	}
	return dir, err
}

func (f *Filler) file(ctx context.Context, dir *os.Root, name string, e Entry, src io.Reader) (size int64, sum []byte, err error) {
	dst, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return 0, nil, err
	}
	h := sha256.New()
	size, err = copyBytes(ctx, io.MultiWriter(dst, h), src, f.left)
	f.left -= size
	err = errors.Join(err, dst.Chown(f.uid, f.gid), dst.Chmod(e.Mode.Perm()), dst.Close())
	if err == nil {
		err = dir.Chtimes(name, e.Modified, e.Modified)
	}
	return size, h.Sum(nil), err
}

// Finish gives the directories their permissions and times.
func (f *Filler) Finish() error {
	for _, e := range slices.Backward(f.dirs) {
		dir, err := openDirs(f.root, e.Path)
		if err == nil {
			err = errors.Join(dir.Chtimes(".", e.Modified, e.Modified), dir.Chmod(".", e.Mode.Perm()), dir.Close())
		}
		if err != nil {
			return fillError(e.Path, err)
		}
	}
	return nil
}
