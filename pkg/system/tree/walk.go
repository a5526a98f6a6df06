package tree

import (
	"context"
	"errors"
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
	Mode     fs.FileMode // type and permissions
	Size     int64       // bytes of a file
	Modified time.Time
	Link     string // the target of a link

	dir   *os.Root // nil except during Walk
	inode inode    // of a file that has other names; else zero
}

type inode struct{ dev, number uint64 }

// Links finds files with several names, which a copy makes as many files: without a bound,
// the copy could be many times larger than its source. The zero value is ready.
type Links struct {
	seen  map[inode]bool
	bytes int64
}

// maxLinked is how many bytes the further names of files may add to a copy, and linkCost
// what each takes beside its content.
const (
	maxLinked = 64 << 20
	linkCost  = 4 << 10
)

// Excess reports whether an entry is a further name of a file for which there is no room.
// Without Links there is always room.
func (l *Links) Excess(e Entry) bool {
	if l == nil || e.inode == (inode{}) {
		return false
	}
	if !l.seen[e.inode] {
		if l.seen == nil {
			l.seen = map[inode]bool{}
		}
		l.seen[e.inode] = true
		return false
	}
	cost := (e.Size+linkCost-1)/linkCost*linkCost + linkCost
	if l.bytes+cost > maxLinked {
		return true
	}
	l.bytes += cost
	return false
}

// Open opens the content of a regular file; directories and links have none. It
// may be called only while Walk is at the entry. The caller must close the
// content.
func (e Entry) Open() (io.ReadCloser, error) {
	if !e.Mode.IsRegular() {
		return io.NopCloser(strings.NewReader("")), nil
	}
	f, _, err := OpenRegular(e.dir, path.Base(e.Path))
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Unreadable returns the reason for which an entry of a mode is skipped that could not be
// read: ForbiddenReason only if the mode forbids it to its owner, as a sandbox can.
func Unreadable(mode fs.FileMode, err error) string {
	need := fs.FileMode(0o400)
	if mode.IsDir() {
		need = 0o500
	}
	if errors.Is(err, fs.ErrPermission) && mode.Perm()&need != need {
		return ForbiddenReason
	}
	return UnreadableReason
}

// Skip is called for each path that is left out of a tree, with the reason.
type Skip func(path, reason string)

// NoSkip ignores the paths that are left out.
func NoSkip(path, reason string) {}

// Reasons for which Walk skips entries; the other ones are limits of a tree.
const (
	SpecialReason    = "it is neither a file, a link nor a directory" // a socket, a device or a FIFO
	LinkedReason     = "it is a further name of a file, and such names have more than 64 MiB"
	ForbiddenReason  = "its permissions do not allow to read it" // which a sandbox can set
	UnreadableReason = "it cannot be read"
)

// Walk yields everything in root that can be copied: a directory before its
// contents, names in order. It leaves out .git at the top and what a running job
// added (see AddedByJob) without a call of skip. It leaves out FIFOs, devices,
// sockets, what cannot be read and what exceeds the limits on depth and paths,
// and calls skip for each. Links are not followed. The walk ends after an error:
// that of ctx, one of the disk, or CodeTooLarge for more than MaxEntries names.
func Walk(ctx context.Context, root *os.Root, skip Skip) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		w := &walker{ctx: ctx, yield: yield, skip: skip, left: MaxEntries}
		w.run(root)
	}
}

// Files yields the regular files of a project, directory by directory, names in
// order. It leaves out names that start with a dot, links, FIFOs, devices,
// sockets and what cannot be opened. The walk ends after an error: that of ctx,
// or CodeTooLarge for more than MaxEntries names. By the end of the walk,
// leftOut counts what exceeds the limits on depth and paths; a directory counts
// as one, with everything in it. The entries cannot be opened.
func Files(ctx context.Context, root *os.Root, leftOut *int) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		w := &walker{ctx: ctx, yield: yield, skip: NoSkip, left: MaxEntries, visible: true}
		w.run(root)
		*leftOut += w.leftOut
	}
}

type walker struct {
	ctx     context.Context
	yield   func(Entry, error) bool
	skip    Skip
	left    int // names
	visible bool
	meter   dreamcore.TreeMeter
	leftOut int // what exceeds a limit
}

func (w *walker) run(root *os.Root) {
	top, err := root.OpenRoot(".")
	if err != nil {
		w.yield(Entry{}, DiskError("open the directory", err))
		return
	}
	w.dir(top, "", 1, fs.ModeDir|0o700)
}

// dir walks through one directory and closes it. It returns false when the walk
// has ended.
func (w *walker) dir(root *os.Root, prefix string, depth int, mode fs.FileMode) bool {
	defer root.Close()
	names, err := w.names(root, prefix, mode)
	if err != nil {
		w.yield(Entry{}, err)
		return false
	}
	for _, name := range names {
		if err := w.ctx.Err(); err != nil {
			w.yield(Entry{}, err)
			return false
		}
		if !w.entry(root, prefix, name, depth) {
			return false
		}
	}
	return true
}

// names returns the names in a directory that belong to the walk.
func (w *walker) names(root *os.Root, prefix string, mode fs.FileMode) ([]string, error) {
	names, err := ReadNames(root, &w.left)
	if errors.Is(err, fs.ErrPermission) {
		w.skip(prefix, Unreadable(mode, err))
		return nil, nil
	}
	if err != nil {
		return nil, ListError(err)
	}
	return slices.DeleteFunc(names, func(name string) bool {
		return w.visible && strings.HasPrefix(name, ".") || prefix == "" && name == ".git"
	}), nil
}

func (w *walker) entry(root *os.Root, prefix, name string, depth int) bool {
	info, err := root.Lstat(name)
	if err != nil {
		return true // removed meanwhile
	}
	mode, full := info.Mode(), prefix+name
	if w.visible && !mode.IsRegular() && !mode.IsDir() {
		return true
	}
	if reason := w.meter.Add(max(len(prefix)-1, 0), name); reason != "" {
		return w.leaveOut(prefix, name, reason)
	}
	e := Entry{Path: full, Mode: mode.Type() | mode.Perm(), Modified: info.ModTime()}
	if !w.visible {
		e.dir = root
	}
	switch {
	case mode.IsRegular():
		e.Size = info.Size()
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
			e.inode = inode{st.Dev, st.Ino}
		}
		return w.yield(e, nil)
	case mode&fs.ModeSymlink != 0:
		if e.Link, err = root.Readlink(name); err != nil {
			w.skip(full, Unreadable(mode, err))
			return true
		}
		return dreamcore.IsSkillsLink(full, e.Link) || w.yield(e, nil)
	case !mode.IsDir():
		w.skip(full, SpecialReason)
		return true
	case AddedByJob(root, name, full):
		return true
	case depth >= MaxDepth:
		return w.leaveOut(prefix, name, "too many nested directories")
	}
	sub, err := OpenDir(root, name)
	if err != nil {
		w.skip(full, Unreadable(mode, err))
		return true
	}
	if !w.visible && !w.yield(e, nil) {
		sub.Close()
		return false
	}
	return w.dir(sub, full+"/", depth+1, mode)
}

// leaveOut counts an entry that exceeds a limit, and goes on. A walk may leave
// out a great many of them, so the path that skip gets is short.
func (w *walker) leaveOut(prefix, name, reason string) bool {
	const most = 100 // bytes of either
	if len(prefix) > most {
		prefix = prefix[:most] + "…/"
	}
	if len(name) > most {
		name = name[:most] + "…"
	}
	w.leftOut++
	w.skip(prefix+name, reason)
	return true
}
