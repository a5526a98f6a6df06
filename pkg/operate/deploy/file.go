package deploy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	securejoin "github.com/cyphar/filepath-securejoin"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// at returns the path on this machine for a path of the installation. Below a
// Root, symbolic links in the path are followed as they would be in the image;
// the last element is not followed.
func (p *Plan) at(path string) (string, error) {
	if p.o.Root == "" {
		return path, nil
	}
	dir, err := securejoin.SecureJoin(p.o.Root, filepath.Dir(path))
	if err != nil {
		return "", fileFault("resolve", path, err)
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// lstat is os.Lstat for a path of the installation. fi is nil if nothing exists there.
func (p *Plan) lstat(path string) (host string, fi fs.FileInfo, err error) {
	if host, err = p.at(path); err != nil {
		return "", nil, err
	}
	fi, err = os.Lstat(host)
	if errors.Is(err, fs.ErrNotExist) {
		return host, nil, nil
	}
	if err != nil {
		return host, nil, fileFault("look at", host, err)
	}
	return host, fi, nil
}

// proper reports whether the permissions are mode and the owner is root. The
// owner is not checked if it cannot be set.
func (p *Plan) proper(fi fs.FileInfo, mode fs.FileMode) bool {
	if fi.Mode().Perm() != mode {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return !p.owned || ok && st.Uid == 0 && st.Gid == 0
}

// readFile reads a file of the installation.
func (p *Plan) readFile(path string) ([]byte, error) {
	host, err := p.at(path)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(host)
	if err != nil {
		return nil, fileFault("read", host, err)
	}
	return raw, nil
}

// protect sets the permissions and the owner that proper checks.
func (p *Plan) protect(host string, mode fs.FileMode) error {
	err := os.Chmod(host, mode)
	if err == nil && p.owned {
		err = os.Chown(host, 0, 0)
	}
	return err
}

// directory returns the action that creates a directory with its permissions.
func (p *Plan) directory(path string, mode fs.FileMode) action {
	return action{
		name: "directory " + path,
		item: func() Item { return Item{Kind: "directory", Path: path, Mode: octal(mode)} },
		check: func(context.Context) (Status, error) {
			host, fi, err := p.lstat(path)
			if err != nil || fi == nil {
				return Created, err
			}
			if fi.Mode()&fs.ModeSymlink != 0 {
				// The operator may keep it on another disk. Its target has the permissions.
				if fi, err = os.Stat(host); err != nil {
					return "", fileFault("look at", host, err)
				}
			}
			if !fi.IsDir() {
				return "", occupied(host, "a directory")
			}
			return unchangedIf(p.proper(fi, mode)), nil
		},
		apply: func(context.Context) (string, error) {
			host, err := p.at(path)
			if err == nil {
				err = p.mkdir(host)
			}
			if err == nil {
				err = p.protect(host, mode)
			}
			if err != nil {
				return "", fileFault("create the directory", host, err)
			}
			return "", nil
		},
	}
}

// unchangedIf returns the status of an existing file: same means that it is as the
// plan wants it, with its content, owner and mode.
func unchangedIf(same bool) Status {
	if same {
		return Unchanged
	}
	return Changed
}

// mkdir creates a directory and its parents with mode 0755 regardless of the
// umask: every user finds programs through them.
func (p *Plan) mkdir(dir string) error {
	if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := p.mkdir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// file returns the action that writes a text file. With keep, an existing file is
// never changed.
func (p *Plan) file(name, path string, mode fs.FileMode, content func() []byte, keep bool) action {
	return action{
		name: name,
		item: func() Item {
			it := Item{Kind: "file", Path: path, Mode: octal(mode), Content: string(content())}
			if _, fi, err := p.lstat(path); keep && err == nil && fi != nil {
				it.Content, it.Note = "", "it exists and is not changed"
			}
			return it
		},
		check: func(context.Context) (Status, error) {
			host, fi, err := p.lstat(path)
			switch {
			case err != nil || fi == nil:
				return Created, err
			case keep:
				return Unchanged, nil
			case !fi.Mode().IsRegular():
				return "", occupied(host, "a file")
			}
			have, err := p.readFile(path)
			if err != nil {
				return "", err
			}
			return unchangedIf(bytes.Equal(have, content()) && p.proper(fi, mode)), nil
		},
		apply: func(context.Context) (string, error) {
			return path, p.install(path, mode, bytes.NewReader(content()))
		},
	}
}

func (p *Plan) accountFile() action {
	return p.file("account file", AccountFile, 0o644, p.accountLines, false)
}

func (p *Plan) configFile() action {
	return p.file(configStep, ConfigFile, 0o600, p.configuration, true)
}

// program returns the action that copies an executable file. source is a path on
// this machine, also with a Root.
func (p *Plan) program(name, path, source string) action {
	return action{
		name: name,
		item: func() Item { return Item{Kind: "program", Path: path, Mode: octal(0o755), Source: source} },
		check: func(context.Context) (Status, error) {
			host, fi, err := p.lstat(path)
			if err != nil || fi == nil {
				return Created, err
			}
			if fi.IsDir() {
				return "", occupied(host, "a file")
			}
			have, err := digest(host)
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // a dangling link is replaced
				return "", err
			}
			want, err := digest(source)
			if err != nil {
				return "", err
			}
			// A link to the program is replaced by a copy: moving the source must not
			// break the service.
			return unchangedIf(have == want && fi.Mode().IsRegular() && p.proper(fi, 0o755)), nil
		},
		apply: func(context.Context) (string, error) {
			src, err := os.Open(source)
			if err != nil {
				return "", fileFault("open", source, err)
			}
			defer src.Close()
			return path, p.install(path, 0o755, src)
		},
	}
}

// digest returns the SHA-256 digest of a file on this machine, in hex.
func digest(host string) (string, error) {
	f, err := os.Open(host)
	if err != nil {
		return "", fileFault("read", host, err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fileFault("read", host, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// configLink returns the action that links the configuration into the state
// directory, where commands at the terminal read it. It replaces a file only if
// no content is lost: the configuration must begin with the file's content.
func (p *Plan) configLink() action {
	path := filepath.Join(p.o.Settings.State, "config.yaml")
	return action{
		name: "link " + path,
		item: func() Item { return Item{Kind: "link", Path: path, Source: ConfigFile} },
		check: func(context.Context) (Status, error) {
			host, fi, err := p.lstat(path)
			if err != nil || fi == nil {
				return Created, err
			}
			if fi.Mode()&fs.ModeSymlink != 0 {
				to, err := os.Readlink(host)
				return unchangedIf(err == nil && to == ConfigFile), nil
			}
			want, err := p.effective()
			if err != nil {
				return "", err
			}
			if have, err := os.ReadFile(host); err != nil || !bytes.HasPrefix(want, have) {
				return "", occupied(host, "a link to "+ConfigFile)
			}
			return Changed, nil
		},
		apply: func(context.Context) (string, error) { return "", p.relink(path, ConfigFile) },
	}
}

// relink replaces the file at path by a symbolic link.
func (p *Plan) relink(path, target string) error {
	host, err := p.at(path)
	if err != nil {
		return err
	}
	tmp := host + ".new"
	if err = os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fileFault("link", host, err)
	}
	if err = os.Symlink(target, tmp); err == nil {
		err = os.Rename(tmp, host)
	}
	if err != nil {
		_ = os.Remove(tmp) // the error below says what has failed; the next run removes it
		return fileFault("link", host, err)
	}
	return nil
}

// install writes a file atomically: temporary file, fsync, rename. A process
// that runs the old file keeps it.
func (p *Plan) install(path string, mode fs.FileMode, content io.Reader) (err error) {
	host, err := p.at(path)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fileFault("write", host, err)
		}
	}()
	if err := p.mkdir(filepath.Dir(host)); err != nil {
		return err
	}
	return statefile.ReplaceFile(host, mode, func(f *os.File) error {
		_, err := io.Copy(f, content)
		if err == nil && p.owned {
			err = f.Chown(0, 0)
		}
		return err
	})
}

func octal(m fs.FileMode) string { return fmt.Sprintf("%04o", m) }

func fileFault(action, path string, err error) error {
	reason, hint := ReasonFile, "check "+path
	switch {
	case errors.Is(err, fs.ErrPermission):
		reason, hint = ReasonNeedsRoot, ""
	case statefile.IsFull(err):
		hint = "free some space on the disk of " + path
	case errors.Is(err, syscall.EROFS):
		reason, hint = ReasonReadOnly, "make "+path+" writable"
	}
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Reason: reason, Message: "cannot " + action + " " + path, Hint: hint, Err: err}
}

func occupied(path, want string) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeConflict, Reason: ReasonOccupied, Message: path + " is in the way: " + want + " belongs there",
		Hint: "move it away: mv " + path + " " + path + ".old",
	}
}
