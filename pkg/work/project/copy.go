package project

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

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// ReasonNotEmpty is the reason of the error for a directory that is not empty.
const ReasonNotEmpty dreamcore.Reason = "project.not-empty"

// headName is a file that every Git repository has. A directory that contains
// one, with a few others, is a repository even if it is not called .git.
const headName = "head"

// LeftOut reports whether a file of a project must not be copied out of the
// stores, and why. Git runs commands that the configuration of a repository
// names, so a game that contains a repository could run commands as the person
// who looks at it. Files in a directory that is left out have no reason.
func LeftOut(name string) (reason string, out bool) {
	if parent := path.Dir(name); parent != "." && history.Reserved(parent) {
		return "", true
	}
	switch {
	case history.Reserved(name):
		return "Git reserves the name", true
	case strings.ToLower(path.Base(name)) == headName:
		return "Git would take its directory for a repository", true
	}
	return "", false
}

// CopyOut copies the files that Files yields, except those of LeftOut, into the
// directory dest, which it makes if it is missing, and returns the copied files.
// A directory that is not empty is CodeConflict unless force is set; then files
// of the same name are replaced and others stay. A link in dest is replaced if it
// has the name of a file, and refused if it has that of a directory: nothing is
// ever written outside of dest. Permissions are 0644, or 0755 for programs,
// reduced by the umask. CodeTooLarge: more than tree.MaxCopyBytes.
func CopyOut(ctx context.Context, p *volume.Project, dest string, force bool) (copied []tree.Entry, err error) {
	if err := os.MkdirAll(dest, 0o755); err != nil {
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
	left := int64(tree.MaxCopyBytes)
	for f, err := range p.Files(ctx) {
		if err != nil {
			return copied, fmt.Errorf("copy the project: %w", err)
		}
		if _, out := LeftOut(f.Path); out {
			continue
		}
		n, err := copyFile(ctx, p, root, f, left)
		if errors.Is(err, tree.ErrTooLarge) {
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

func copyFile(ctx context.Context, p *volume.Project, dest *os.Root, f tree.Entry, limit int64) (n int64, err error) {
	src, _, err := p.Open(f.Path)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	dir, err := tree.MakeSharedDirs(dest, path.Dir(f.Path), false)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	mode := fs.FileMode(0o644)
	if f.Mode&0o100 != 0 {
		mode = 0o755
	}
	err = tree.ReplaceFile(dir, path.Base(f.Path), mode, func(dst *os.File) error {
		n, err = tree.Copy(ctx, dst, src, limit)
		return err
	})
	return n, err
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
		return &dreamcore.Error{Code: dreamcore.CodeConflict, Reason: ReasonNotEmpty, Message: dest + " is not empty", Hint: "choose another directory"}
	default:
		return destError(dest, err)
	}
}

// destError returns the error for the operator's own directory.
func destError(path string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("copy the project: %w", err)
	}
	hint := "check the directory with ls -ld and df -h, or choose another"
	if errors.Is(err, tree.ErrNotPlain) {
		hint = "a link or another file is in the place of a directory: remove it, or choose another directory"
	}
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("cannot copy the game to %q", path), Hint: hint, Err: err}
}
