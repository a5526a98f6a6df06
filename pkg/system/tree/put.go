package tree

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Copy copies src to dst, until the end of src or of ctx. More than limit bytes
// are ErrTooLarge.
func Copy(ctx context.Context, dst io.Writer, src io.Reader, limit int64) (total int64, err error) {
	const chunk = 1 << 20
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, err := io.CopyN(dst, src, chunk)
		total += n
		switch {
		case total > limit:
			return total, ErrTooLarge
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

// ReplaceFile puts a new file in the place of name, a single path element in
// dir: fill writes a temporary file, which is then renamed. A link of that name
// is replaced and not followed. mode is reduced by the umask.
func ReplaceFile(dir *os.Root, name string, mode fs.FileMode, fill func(*os.File) error) error {
	return replace(dir, name, func(temp string) error {
		f, err := dir.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		return errors.Join(fill(f), f.Close())
	})
}

// replace makes something under a temporary name and renames it to name.
func replace(dir *os.Root, name string, make func(temp string) error) error {
	temp := ".dreamcore-" + uuid.NewString()
	err := make(temp)
	if err == nil {
		err = dir.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, IgnoreMissing(dir.Remove(temp)))
	}
	return nil
}

// ReasonExists is the reason of an error of PutFile for a file that exists.
const ReasonExists dreamcore.Reason = "tree.exists"

// PutFile writes an entry below root, a directory of the operator. A file is
// replaced as a whole or not at all; a directory is made. Both are readable by
// everyone, sandboxes included, and writable by their owner alone, independent of
// the umask and the mode of the entry; a program stays executable. Links on the way are
// refused. CodeConflict: the file exists and force is not set; CodeInvalid: the
// path leaves root, goes through a link or names a directory.
func PutFile(ctx context.Context, root *os.Root, e Entry, src io.Reader, force bool) error {
	clean, err := CleanPath(e.Path)
	if err != nil {
		return err
	}
	dir, err := MakeSharedDirs(root, path.Dir(clean), true)
	if err != nil {
		return putError(e.Path, err)
	}
	defer dir.Close()
	name := path.Base(clean)
	before, err := dir.Lstat(name)
	switch {
	case err == nil && before.IsDir() != e.Mode.IsDir():
		return BadPath(e.Path)
	case e.Mode.IsDir() && err == nil:
		return nil
	case e.Mode.IsDir():
		err := dir.Mkdir(name, sharedMode)
		if err == nil {
			err = dir.Chmod(name, sharedMode)
		}
		return putError(e.Path, err)
	case err == nil && !force:
		return &dreamcore.Error{Code: dreamcore.CodeConflict, Reason: ReasonExists, Message: e.Path + " exists already"}
	case e.Mode&fs.ModeSymlink != 0:
		return putError(e.Path, replace(dir, name, func(temp string) error { return dir.Symlink(e.Link, temp) }))
	}
	mode := fs.FileMode(0o644)
	if e.Mode&0o100 != 0 {
		mode = 0o755
	}
	return putError(e.Path, ReplaceFile(dir, name, fileMode, func(f *os.File) error {
		_, err := Copy(ctx, f, src, MaxCopyBytes)
		return errors.Join(err, f.Chmod(mode), f.Sync())
	}))
}

func putError(name string, err error) error {
	if err = fillError(name, err); err == nil {
		return nil
	}
	if _, ok := errors.AsType[*dreamcore.Error](err); ok || errors.Is(err, context.Canceled) {
		return err
	}
	return DiskError("write "+name, err)
}
