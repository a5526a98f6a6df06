package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// note is a reason to leave files out of a version.
type note struct {
	reason string
	count  int
	first  string // path
}

func (n note) String() string { return fmt.Sprintf("%s: %d, such as %q", n.reason, n.count, n.first) }

// snapshot stores the files of a project as Git objects.
type snapshot struct {
	ctx       context.Context
	objects   *writer
	old       *index    // of the newest commit
	next      *index    // of this one
	started   time.Time // before anything was read
	namesLeft int       // names that may still be read
	bytesLeft int64     // that may still be stored
	meter     dreamcore.TreeMeter
	stale     bool   // next differs from old
	notes     []note // one for each reason
}

func newSnapshot(ctx context.Context, objects *writer, old *index) *snapshot {
	return &snapshot{ctx: ctx, objects: objects, old: old, next: newIndex(), started: time.Now(), namesLeft: MaxFiles, bytesLeft: MaxTotalBytes}
}

// sortName returns the key that Git sorts by: directories end in a slash.
func sortName(e object.TreeEntry) string {
	if e.Mode == filemode.Dir {
		return e.Name + "/"
	}
	return e.Name
}

// errReplaced reports a name that was replaced since it was examined.
var errReplaced = tree.ErrNotPlain

// skip notes that path is left out of the version.
func (s *snapshot) skip(path, reason string) {
	i := slices.IndexFunc(s.notes, func(n note) bool { return n.reason == reason })
	if i < 0 {
		i = len(s.notes)
		s.notes = append(s.notes, note{reason: reason, first: clip(path)})
	}
	s.notes[i].count++
}

// clip shortens a path for a note.
func clip(path string) string {
	const most = 200 // bytes
	if len(path) <= most {
		return path
	}
	return path[:most] + "…"
}

// dir stores a directory and closes it. files reports whether it has any file.
func (s *snapshot) dir(root *os.Root, path string, depth int) (tree plumbing.Hash, files bool, err error) {
	defer root.Close()
	names, err := s.names(root, path)
	if err != nil {
		return tree, false, err
	}
	items := make([]object.TreeEntry, 0, len(names))
	for _, name := range names {
		if err := s.ctx.Err(); err != nil {
			return tree, false, err
		}
		i, ok, err := s.item(root, path, name, depth)
		if err != nil {
			return tree, false, err
		}
		if ok {
			items = append(items, i)
		}
	}
	if len(items) == 0 && path != "" {
		return tree, false, nil
	}
	slices.SortFunc(items, func(a, b object.TreeEntry) int { return strings.Compare(sortName(a), sortName(b)) })
	tree, err = s.objects.put(plumbing.TreeObject, encodeTree(items), s.old.trees[path])
	if err != nil {
		return tree, false, &ownError{err}
	}
	s.next.trees[path] = tree
	return tree, len(items) > 0, nil
}

// item stores one entry of a directory. ok is false if the entry is left out:
// because of its kind, or because it vanished or changed its kind meanwhile.
func (s *snapshot) item(root *os.Root, dir, name string, depth int) (i object.TreeEntry, ok bool, err error) {
	if name != gitDir {
		if reason := s.meter.Add(len(dir), name); reason != "" {
			s.skip(join(clip(dir), clip(name)), reason)
			return i, false, nil
		}
	}
	path := join(dir, name)
	info, err := root.Lstat(name)
	if err != nil {
		return i, false, s.tolerate(path, err)
	}
	i.Name = name
	switch mode := info.Mode(); {
	case reserved(name, mode&fs.ModeSymlink != 0):
		if name != ".git" {
			s.skip(path, "Git reserves the name")
		}
		return i, false, nil
	case mode.IsRegular():
		i.Mode = filemode.Regular
		if mode&0o100 != 0 {
			i.Mode = filemode.Executable
		}
		i.Hash, ok, err = s.file(root, name, path, info)
	case mode&fs.ModeSymlink != 0:
		i.Mode = filemode.Symlink
		i.Hash, ok, err = s.link(root, name, path)
	case mode.IsDir():
		i.Mode = filemode.Dir
		if depth >= MaxDepth {
			s.skip(path, "too many directories inside each other")
			return i, false, nil
		}
		var sub *os.Root
		if sub, err = tree.OpenSameDir(root, name, info); err == nil {
			i.Hash, ok, err = s.dir(sub, path, depth+1)
		}
	default:
		s.skip(path, "it is not a file, directory or link")
	}
	if err != nil {
		return i, false, s.tolerate(path, err)
	}
	return i, ok, nil
}

// tolerate returns nil for an error that the project causes: the version goes on
// without path. An error of the host ends the version.
func (s *snapshot) tolerate(path string, err error) error {
	var own *ownError
	switch {
	case errors.As(err, &own), s.ctx.Err() != nil:
		return err
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errReplaced), errors.Is(err, syscall.EINVAL):
		return nil
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENXIO):
		s.skip(path, tree.UnreadableReason)
		return nil
	}
	return err
}

// ownError is an error of writing the history. The project never causes it, even
// if it looks like an error of reading.
type ownError struct{ err error }

func (e *ownError) Error() string { return e.err.Error() }
func (e *ownError) Unwrap() error { return e.err }

// file stores a regular file, or uses its hash from the index.
func (s *snapshot) file(root *os.Root, name, path string, info fs.FileInfo) (hash plumbing.Hash, ok bool, err error) {
	st := statOf(info)
	if st.size > MaxFileBytes {
		s.skip(path, "larger than 256 MiB")
		return hash, false, nil
	}
	if s.bytesLeft -= st.size; s.bytesLeft < 0 {
		s.bytesLeft += st.size
		s.skip(path, "the project is larger than 4 GiB")
		return hash, false, nil
	}
	old := s.old.files[path]
	if !old.hash.IsZero() && !old.racy && old.stat == st {
		s.next.files[path] = old
		return old.hash, true, nil
	}
	s.stale = true
	const tries = 3
	for try := 1; ; try++ {
		hash, st, err = s.read(root, name, info, old.hash)
		if errors.Is(err, errShort) && try < tries {
			if info, err = root.Lstat(name); err != nil {
				return hash, false, err
			}
			continue
		}
		if errors.Is(err, errShort) {
			s.skip(path, "it changes all the time")
			return hash, false, nil
		}
		break
	}
	if err != nil {
		return hash, false, err
	}
	if isAttributes(name) && (st.size > smallBytes || !saneAttributes(s.objects.content)) {
		s.skip(path, "its lines are too long for Git")
		return hash, false, nil
	}
	s.next.files[path] = entry{stat: st, racy: st.isRacy(s.started), hash: hash}
	return hash, true, nil
}

// read stores the content of a file that was examined before.
func (s *snapshot) read(root *os.Root, name string, before fs.FileInfo, known plumbing.Hash) (hash plumbing.Hash, st stat, err error) {
	// O_NONBLOCK: opening must not wait for a FIFO that replaced the file
	// meanwhile. SameFile refuses a FIFO or a link.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return hash, st, tree.Replaced(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return hash, st, err
	}
	st = statOf(info)
	if !os.SameFile(before, info) || info.Size() > MaxFileBytes {
		return hash, st, errReplaced
	}
	src := &source{r: f, spend: func(int64) error { return s.ctx.Err() }}
	hash, err = s.objects.putBlob(src, st.size, known)
	if err != nil && src.err == nil && !errors.Is(err, errShort) {
		err = &ownError{err}
	}
	return hash, st, err
}

// source remembers the errors of reading, and those of spend, which is called with
// the number of bytes that were read.
type source struct {
	r     io.Reader
	spend func(n int64) error
	err   error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if spent := s.spend(int64(n)); spent != nil {
		err = spent
	}
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// link stores a symbolic link as its target. The target is not followed.
func (s *snapshot) link(root *os.Root, name, path string) (hash plumbing.Hash, ok bool, err error) {
	target, err := root.Readlink(name)
	if err != nil || dreamcore.IsSkillsLink(path, target) {
		return hash, false, err
	}
	hash, err = s.objects.put(plumbing.BlobObject, []byte(target), plumbing.ZeroHash)
	if err != nil {
		return hash, false, &ownError{err}
	}
	return hash, true, nil
}

// names returns the names in a directory, at most s.namesLeft of them.
func (s *snapshot) names(root *os.Root, path string) ([]string, error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, s.tolerate(path, err)
	}
	defer d.Close()
	const batch = 1024
	var names []string
	for {
		found, err := d.Readdirnames(min(batch, s.namesLeft+1))
		if len(found) > s.namesLeft {
			s.skip(path, "the project has more than 100000 files")
			found = found[:s.namesLeft]
			err = io.EOF
		}
		s.namesLeft -= len(found)
		names = append(names, found...)
		if err == io.EOF {
			slices.Sort(names)
			return names, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// encodeTree returns the content of a Git tree: for each entry the mode in octal,
// a space, the name, NUL, the 20 bytes of the hash.
func encodeTree(items []object.TreeEntry) []byte {
	var b []byte
	for _, i := range items {
		b = fmt.Appendf(b, "%o %s\x00", uint32(i.Mode), i.Name)
		b = append(b, i.Hash[:]...)
	}
	return b
}
