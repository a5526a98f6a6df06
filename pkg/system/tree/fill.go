package tree

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Filler writes a tree into an empty directory that nothing else writes to.
type Filler struct {
	root  *os.Root
	owner Owner
	left  int64
	names int
	dirs  []Entry // directories get their modes and times in Finish
	meter dreamcore.TreeMeter
}

// NewFiller returns a Filler that fills root with files of owner. Finish must be
// called at the end.
func NewFiller(root *os.Root, owner Owner) *Filler {
	return &Filler{root: root, owner: owner, left: MaxCopyBytes, names: MaxEntries}
}

// SetLimits replaces the limits of a project. It must be called before Put.
func (f *Filler) SetLimits(names int, bytes int64) { f.names, f.left = names, bytes }

// Put writes an entry, with the content of src if it is a file, and returns the
// size and SHA-256 of the content. It makes the directories that are missing on
// the way. CodeInvalid: the path leaves the tree or goes through a link;
// CodeTooLarge: the tree exceeds MaxCopyBytes or MaxEntries, or the limits set
// by SetLimits.
func (f *Filler) Put(ctx context.Context, e Entry, src io.Reader) (size int64, sum []byte, err error) {
	clean, err := CleanPath(e.Path)
	if err != nil {
		return 0, nil, err
	}
	if f.names--; f.names < 0 {
		return 0, nil, errTooManyNames
	}
	if dir, name := path.Split(clean); strings.Count(clean, "/") >= MaxDepth || f.meter.Add(max(len(dir)-1, 0), name) != "" {
		return 0, nil, BadPath(e.Path)
	}
	dir, err := MakeOwnedDirs(f.root, path.Dir(clean), f.owner)
	if err != nil {
		return 0, nil, fillError(e.Path, err)
	}
	defer dir.Close()
	name := path.Base(clean)
	switch {
	case e.Mode.IsDir():
		var made *os.Root // or the one that is there
		if made, err = MakeOwnedDirs(dir, name, f.owner); err == nil {
			err = made.Close()
		}
		if e.Path = clean; err == nil {
			f.dirs = append(f.dirs, e)
		}
	case e.Mode&fs.ModeSymlink != 0:
		if err = dir.Symlink(e.Link, name); err == nil {
			err = dir.Lchown(name, f.owner.UID, f.owner.GID)
		}
	case e.Mode.IsRegular():
		size, sum, err = f.file(ctx, dir, name, e, src)
	default:
		err = ErrNotPlain
	}
	return size, sum, fillError(e.Path, err)
}

func (f *Filler) file(ctx context.Context, dir *os.Root, name string, e Entry, src io.Reader) (size int64, sum []byte, err error) {
	dst, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return 0, nil, err
	}
	h := sha256.New()
	out := &sparse{f: dst}
	size, err = Copy(ctx, io.MultiWriter(out, h), src, f.left)
	f.left -= size
	err = errors.Join(err, dst.Truncate(out.at), dst.Chown(f.owner.UID, f.owner.GID), dst.Chmod(e.Mode.Perm()), dst.Close())
	if err == nil {
		err = dir.Chtimes(name, e.Modified, e.Modified)
	} else {
		err = errors.Join(err, dir.Remove(name)) // no part of a file
	}
	return size, h.Sum(nil), err
}

// sparse writes a file from its beginning and leaves holes where there are only zeros: a
// file of a sandbox may have holes that are larger than its disk.
type sparse struct {
	f  *os.File
	at int64
}

// Write implements io.Writer. At the end, the file must be truncated to at.
func (s *sparse) Write(p []byte) (n int, err error) {
	const block = 4 << 10
	for len(p) > 0 {
		part := p[:min(len(p), block-int(s.at%block))]
		if part[0] != 0 || !bytes.Equal(part[1:], part[:len(part)-1]) {
			if _, err := s.f.WriteAt(part, s.at); err != nil {
				return n, err
			}
		}
		s.at, n, p = s.at+int64(len(part)), n+len(part), p[len(part):]
	}
	return n, nil
}

// Finish sets the permissions and times of the directories.
func (f *Filler) Finish() error {
	for _, e := range slices.Backward(f.dirs) {
		dir, err := OpenDirs(f.root, e.Path)
		if err == nil {
			err = errors.Join(dir.Chtimes(".", e.Modified, e.Modified), dir.Chmod(".", e.Mode.Perm()), dir.Close())
		}
		if err != nil {
			return fillError(e.Path, err)
		}
	}
	return nil
}
