package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// MaxCopyBytes bounds what CopyOut writes: a sparse file in a sandbox costs
// nothing there and is written in full here.
const MaxCopyBytes = 4 << 30

// CopyOut copies the files that Files lists into the directory dest, makes it
// where it is missing, and returns the copied files. What stock git could take
// for a repository is left out too. A destination that is
// not empty is CodeConflict unless force is set; then files of the same name
// are replaced and others stay. Links in the destination are replaced where a
// file goes, and refused where a directory should be: nothing is ever written
// outside of dest. Permissions are 0644, or 0755 for programs, less the umask.
// CodeTooLarge: more than MaxCopyBytes.
func (p *Project) CopyOut(ctx context.Context, dest string, force bool) (copied []File, err error) {
	if err := os.MkdirAll(dest, sharedMode); err != nil {
		return nil, destError(dest, err)
	}
	root, err := os.OpenRoot(dest)
	if err != nil {
		return nil, destError(dest, err)
	}
	defer root.Close()
	if !force {
		if err := checkEmpty(root, dest); err != nil {
			return nil, err
		}
	}
	left := int64(MaxCopyBytes)
	for f, err := range p.Files(ctx) {
		if err != nil {
			return copied, fmt.Errorf("copy the project: %w", err)
		}
		if gitName(f.Path) || strings.EqualFold(path.Base(f.Path), "HEAD") {
			continue // stock git would take a directory for a repository, and run what that says
		}
		n, err := p.copyFile(ctx, root, f, left)
		if errors.Is(err, errTooLarge) {
			return copied, &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: "the project is larger than 4 GiB", Hint: "remove what is not part of the game", Err: err}
		}
		if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
			continue // removed or replaced meanwhile
		}
		if err != nil {
			return copied, destError(filepath.Join(dest, f.Path), err)
		}
		f.Size = n
		left -= n
		copied = append(copied, f)
	}
	return copied, nil
}

var errTooLarge = errors.New("too many bytes")

// copyFile writes one file beside its place and moves it there: a rename
// replaces a link instead of following it.
func (p *Project) copyFile(ctx context.Context, dest *os.Root, f File, limit int64) (n int64, err error) {
	src, _, err := p.Open(f.Path)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	dir, err := makePublicDirs(dest, path.Dir(f.Path), 0)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	mode := fs.FileMode(0o644)
	if f.Mode&0o100 != 0 {
		mode = 0o755
	}
	temp := ".dreamcore-" + uuid.NewString()
	dst, err := dir.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return 0, err
	}
	n, err = copyBytes(ctx, dst, src, limit)
	err = errors.Join(err, dst.Close())
	if err == nil {
		err = dir.Rename(temp, path.Base(f.Path))
	}
	if err != nil {
		return n, errors.Join(err, dir.Remove(temp))
	}
	return n, nil
}

func copyBytes(ctx context.Context, dst io.Writer, src io.Reader, limit int64) (total int64, err error) {
	const chunk = 1 << 20
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, err := io.CopyN(dst, src, chunk)
		total += n
		switch {
		case total > limit:
			return total, errTooLarge
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

// makePublicDirs is openDirs that makes what is missing, with a mode whatever
// the umask; 0: as the umask wants it.
func makePublicDirs(root *os.Root, name string, mode fs.FileMode) (*os.Root, error) {
	dir, err := root.OpenRoot(".")
	if name == "." {
		return dir, err
	}
	for element := range strings.SplitSeq(name, "/") {
		if err != nil {
			return nil, err
		}
		var next *os.Root
		if err = dir.Mkdir(element, sharedMode); err == nil && mode != 0 {
			err = dir.Chmod(element, mode)
		}
		if err == nil || errors.Is(err, fs.ErrExist) {
			next, err = openDir(dir, element)
		}
		dir.Close()
		dir = next
	}
	return dir, err
}

func checkEmpty(root *os.Root, dest string) error {
	d, err := root.Open(".")
	if err != nil {
		return destError(dest, err)
	}
	defer d.Close()
	switch _, err := d.Readdirnames(1); err {
	case io.EOF:
		return nil
	case nil:
		return &dreamcore.Error{Code: dreamcore.CodeConflict, Message: dest + " is not empty", Hint: "choose another directory, or write into it with --force"}
	default:
		return destError(dest, err)
	}
}

// destError is about the operator's own directory.
func destError(path string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("copy the project: %w", err)
	}
	hint := "check the directory with ls -ld and df -h, or choose another"
	if errors.Is(err, errNotPlain) {
		hint = "a link or another file is in the place of a directory: remove it, or choose another directory"
	}
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("cannot copy the game to %q", path), Hint: hint, Err: err}
}
