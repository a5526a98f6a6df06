package volume

import (
	"context"
	"errors"
	"fmt"
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

// Bounds of a walk through a project.
const (
	MaxEntries = dreamcore.MaxTreeNames // names that are looked at, of any kind
	MaxDepth   = dreamcore.MaxTreeDepth // directories inside each other; deeper ones are left out
	maxPath    = dreamcore.MaxPathBytes // of a path from outside
)

// File is a regular file of a project.
type File struct {
	Path     string // relative to the project, with slashes; any bytes but NUL
	Size     int64  // bytes
	Modified time.Time
	Mode     fs.FileMode // permission bits
}

// Files walks through the regular files of the project, directory by
// directory, names in order. It leaves out everything that starts with a dot,
// links, FIFOs, devices, sockets, and what cannot be opened. The walk ends
// after an error: ctx's, or CodeTooLarge for a project of more than MaxEntries
// names. What is beyond the limits on depth and paths is left out.
func (p *Project) Files(ctx context.Context) iter.Seq2[File, error] {
	return p.FilesLeftOut(ctx, new(int))
}

// FilesLeftOut is Files that also counts in leftOut, by the end of the walk, what
// is beyond the limits on depth and paths. A directory counts once, for all that
// is in it.
func (p *Project) FilesLeftOut(ctx context.Context, leftOut *int) iter.Seq2[File, error] {
	if p.swaps {
		return p.whole(ctx, leftOut)
	}
	return func(yield func(File, error) bool) {
		root, err := p.root.OpenRoot(".")
		if err != nil {
			yield(File{}, diskError("open the project", err))
			return
		}
		w := &walk{ctx: ctx, yield: yield, left: MaxEntries, leftOut: leftOut}
		w.dir(root, "", 1)
	}
}

// whole is Files of a project whose directory may be replaced while it is
// walked through: then some of its files are gone, and the walk begins anew in
// the one that took its place.
func (p *Project) whole(ctx context.Context, leftOut *int) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		var all []File
		var failed error
		for try := 1; ; try++ {
			root := p.again()
			if root == nil {
				var err error
				if root, err = p.root.OpenRoot("."); err != nil {
					yield(File{}, diskError("open the project", err))
					return
				}
			}
			walked := &Project{closer: closer{root: root}, path: p.path, swaps: true}
			all, failed, *leftOut = nil, nil, 0
			w := &walk{ctx: ctx, left: MaxEntries, leftOut: leftOut, yield: func(f File, err error) bool {
				if err != nil {
					failed = err
					return false
				}
				all = append(all, f)
				return true
			}}
			if inner, err := root.OpenRoot("."); err != nil {
				failed = diskError("open the project", err)
			} else {
				w.dir(inner, "", 1)
			}
			next := walked.again()
			root.Close()
			if next == nil || try == swapTries || ctx.Err() != nil {
				if next != nil {
					next.Close()
				}
				break
			}
			next.Close()
		}
		for _, f := range all {
			if !yield(f, nil) {
				return
			}
		}
		if failed != nil {
			yield(File{}, failed)
		}
	}
}

type walk struct {
	ctx   context.Context
	yield func(File, error) bool
	left  int // entries
	meter dreamcore.TreeMeter

	leftOut *int // counts what is beyond the limits
}

// dir walks through one directory and closes it. It returns false when the
// walk has ended.
func (w *walk) dir(root *os.Root, prefix string, depth int) bool {
	defer root.Close()
	names, err := w.names(root)
	if err != nil {
		w.yield(File{}, err)
		return false
	}
	for _, name := range names {
		if err := w.ctx.Err(); err != nil {
			w.yield(File{}, err)
			return false
		}
		info, err := root.Lstat(name)
		if err != nil || !info.Mode().IsRegular() && !info.IsDir() {
			continue // removed meanwhile, or neither a file nor a directory
		}
		switch {
		case w.meter.Add(max(len(prefix)-1, 0), name) != "", info.IsDir() && depth == MaxDepth:
			*w.leftOut++
		case info.Mode().IsRegular():
			f := File{Path: prefix + name, Size: info.Size(), Modified: info.ModTime(), Mode: info.Mode().Perm()}
			if !w.yield(f, nil) {
				return false
			}
		default:
			sub, err := openDir(root, name)
			if err == nil && !w.dir(sub, prefix+name+"/", depth+1) {
				return false
			}
		}
	}
	return true
}

// names returns the names in a directory that do not start with a dot.
func (w *walk) names(root *os.Root) ([]string, error) {
	names, err := readNames(root, &w.left)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, nil // a sandbox may take our permission away
	case errors.Is(err, errTooManyNames):
		return nil, &dreamcore.Error{
			Code:    dreamcore.CodeTooLarge,
			Message: "the project has more than 100000 files",
			Hint:    "remove what is not part of the game, such as node_modules",
		}
	case err != nil:
		return nil, diskError("list the project", err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, ".") }), nil
}

// readNames returns the names in a directory, in order, and takes their number
// from left. It is errTooManyNames as soon as there is nothing left.
func readNames(root *os.Root, left *int) (names []string, err error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	const batch = 1024
	for {
		found, err := d.Readdirnames(batch)
		if *left -= len(found); *left < 0 {
			return nil, errTooManyNames
		}
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

// Open opens a regular file of the project for reading, without ever waiting
// or following a link. name is relative, with slashes. CodeInvalid: it leaves
// the project; CodeNotFound: there is no regular file of that name. The caller
// must close the file.
func (p *Project) Open(name string) (*os.File, fs.FileInfo, error) {
	clean, err := cleanPath(name)
	if err != nil {
		return nil, nil, err
	}
	f, info, err := openBelow(p.root, clean)
	if err != nil {
		// Its directory may have been replaced and be on its way out.
		if root := p.again(); root != nil {
			f, info, err = openBelow(root, clean)
			root.Close()
		}
	}
	if err != nil {
		return nil, nil, fileError(err)
	}
	return f, info, nil
}

// openBelow opens the regular file at a clean relative path below root.
func openBelow(root *os.Root, clean string) (*os.File, fs.FileInfo, error) {
	dir, err := openDirs(root, path.Dir(clean))
	if err != nil {
		return nil, nil, err
	}
	defer dir.Close()
	return openRegular(dir, path.Base(clean))
}

// cleanPath returns the shortest form of a path from outside, and refuses one
// that leaves the project or is the project itself.
func cleanPath(name string) (string, error) {
	clean := path.Clean(name)
	if name == "" || len(name) > maxPath || clean == "." || !fs.ValidPath(strings.ToValidUTF8(clean, "_")) || strings.ContainsRune(clean, 0) {
		return "", &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid file path", Hint: "use a path inside the project, such as index.html or assets/a.png"}
	}
	return clean, nil
}

// openDirs opens the directory at a clean relative path below root, one
// element at a time. "." opens root once more.
func openDirs(root *os.Root, name string) (*os.Root, error) {
	dir, err := root.OpenRoot(".")
	if name == "." {
		return dir, err
	}
	for element := range strings.SplitSeq(name, "/") {
		if err != nil {
			return nil, err
		}
		var next *os.Root
		next, err = openDir(dir, element)
		dir.Close()
		dir = next
	}
	return dir, err
}

// openRegular opens the regular file name, one path element, in dir.
func openRegular(dir *os.Root, name string) (*os.File, fs.FileInfo, error) {
	before, err := dir.Lstat(name)
	if err != nil {
		return nil, nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, nil, &fs.PathError{Op: "open", Path: name, Err: errNotPlain}
	}
	// O_NONBLOCK: opening must not wait for a FIFO that was put there
	// meanwhile; the comparison refuses it, and links too.
	f, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, replaced(err)
	}
	after, err := f.Stat()
	if err == nil && !os.SameFile(before, after) {
		err = &fs.PathError{Op: "open", Path: name, Err: errNotPlain}
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, after, nil
}

// ReadFile returns a file of a volume, of at most limit bytes. CodeNotFound:
// there is no such volume or no regular file of that name; CodeTooLarge: it is
// larger; CodeInvalid: the name leaves the volume.
func (s *Store) ReadFile(volume, name string, limit int64) ([]byte, error) {
	root, err := s.volume(volume)
	if err != nil {
		return nil, err
	}
	p := &Project{closer: closer{root: root, release: func() {}}}
	defer p.Close()
	f, info, err := p.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, diskError("read "+name, err)
	}
	if int64(len(content)) > limit || info.Size() > limit {
		return nil, &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: fmt.Sprintf("%s is larger than %d bytes", name, limit), Hint: "shorten it"}
	}
	return content, nil
}

// fileError tells a client about a file that it asked for. All that a sandbox
// can arrange means that there is no such file; the rest is our fault.
func fileError(err error) error {
	for _, cause := range []error{
		fs.ErrNotExist, fs.ErrPermission, errNotPlain,
		syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.ENXIO, syscall.EINVAL,
	} {
		if errors.Is(err, cause) {
			return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "File not found", Hint: "list the files of the project with list_files", Err: err}
		}
	}
	return diskError("open the file", err)
}
