package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"filippo.io/age"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// maxSealedBytes is more than any secret takes: JSON may write one byte as
// six.
const maxSealedBytes = 8 << 20

// write seals the values into the file of the secret. The caller holds the
// lock of the directory.
func (s *Store) write(name string, values map[string]string, overwrite bool) error {
	plain, err := json.Marshal(values)
	if err != nil {
		return fmt.Errorf("encode secret %s: %w", name, err)
	}
	defer clear(plain)
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, s.recipient)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return fmt.Errorf("seal secret %s: %w", name, err)
	}
	err = writeFile(s.dir, name+extension, sealed.Bytes(), overwrite)
	if errors.Is(err, fs.ErrExist) {
		return &dreamcore.Error{
			Code:    dreamcore.CodeConflict,
			Message: "secret " + name + " exists already",
			Hint:    "delete it first with: dreamcore secret delete " + name + "; or replace it with --force",
			Err:     err,
		}
	}
	if err != nil {
		return fileError("write secret "+name, s.path(name), err)
	}
	return nil
}

// read opens the file of the secret.
func (s *Store) read(name string) (map[string]string, error) {
	sealed, err := readSealed(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotFound(name, err)
	}
	if _, ours := errors.AsType[*dreamcore.Error](err); ours {
		return nil, err
	}
	if err != nil {
		return nil, fileError("read secret "+name, s.path(name), err)
	}
	again := fmt.Sprintf("put %s back from a backup, or make the secret again: dreamcore secret delete %s, then %s",
		s.path(name), name, remake(name))
	plain, err := age.Decrypt(bytes.NewReader(sealed), s.identities...)
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return nil, &dreamcore.Error{
			Code:    dreamcore.CodeSetup,
			Message: "secret " + name + " is sealed for another identity",
			Hint:    "use the identity it was made with; or make it again: dreamcore secret delete " + name + ", then " + remake(name),
			Err:     err,
		}
	}
	var values map[string]string
	if err != nil {
		// age quotes the file, which may be a secret that someone put there
		// by hand without sealing it.
		err = errors.New("it is no age file, or a part of it is missing")
	} else if text, readErr := io.ReadAll(io.LimitReader(plain, maxSealedBytes)); readErr != nil {
		err = readErr
	} else {
		err = decode(text, &values)
		clear(text)
	}
	if err != nil {
		return nil, &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "secret " + name + " is damaged", Hint: again, Err: err}
	}
	return values, nil
}

// decode is json.Unmarshal with an error that does not quote the secret.
func decode(text []byte, values *map[string]string) error {
	if json.Unmarshal(text, values) != nil || checkValues(*values) != nil {
		return errors.New("it does not hold an object of keys and values")
	}
	return nil
}

func remake(name string) string {
	if name == AnthropicSecret || name == InternalSecret {
		return "dreamcore setup"
	}
	return "dreamcore secret create " + name + " KEY=value"
}

// checkSealed refuses a file that somebody else could have put there: sealing
// needs the public key only, so that it opens tells nothing about who wrote it.
func checkSealed(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the sealed secret " + f.Name() + " is not a regular file",
			Hint: "see what it is with: ls -ld " + f.Name() + "; and move it away",
		}
	case ok && foreign(st.Uid):
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: fmt.Sprintf("the sealed secret %s belongs to another user (uid %d)", f.Name(), st.Uid),
			Hint: fmt.Sprintf("chown %d %s", os.Geteuid(), f.Name()),
		}
	case info.Mode().Perm()&0o077 != 0:
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: fmt.Sprintf("the sealed secret %s is open to other users (mode %04o)", f.Name(), info.Mode().Perm()),
			Hint: "chmod 600 " + f.Name(),
		}
	}
	return nil
}

func readSealed(path string) ([]byte, error) {
	// O_NONBLOCK: a FIFO in this place must not make us wait.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := checkSealed(f); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, maxSealedBytes))
}

// writeFile writes a file so that after a crash it is there whole, as it was
// before, or not at all. Without overwrite, fs.ErrExist says that it is there.
func writeFile(dir, name string, data []byte, overwrite bool) (err error) {
	f, err := os.CreateTemp(dir, tempPrefix+"*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if rmErr := os.Remove(f.Name()); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	path := filepath.Join(dir, name)
	if overwrite {
		err = os.Rename(f.Name(), path)
	} else {
		err = os.Link(f.Name(), path) // unlike rename it replaces nothing
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// sweep removes what writeFile left when it was killed. The caller holds the
// lock of the directory.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fileError("list the secrets", dir, err)
	}
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); strings.HasPrefix(e.Name(), tempPrefix) {
			if err := os.Remove(path); err != nil {
				return fileError("remove the unfinished file "+path, path, err)
			}
		}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
