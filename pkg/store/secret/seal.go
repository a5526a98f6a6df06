package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"filippo.io/age"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// maxSealedBytes is more than the size of any secret: JSON may encode one byte as
// six.
const maxSealedBytes = 8 << 20

// write seals the values into the file of the secret. It must be called with dir
// locked.
func (s *Store) write(dir *os.Root, name string, values map[string]string, overwrite bool) error {
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
	put := statefile.Create
	if overwrite {
		put = statefile.Replace
	}
	err = put(dir, name+extension, fileMode, statefile.Bytes(sealed.Bytes()))
	if errors.Is(err, fs.ErrExist) {
		return &dreamcore.Error{
			Code:    dreamcore.CodeConflict,
			Message: "secret " + name + " already exists",
			Hint:    "delete it first with: dreamcore secret delete " + name + "; or replace it with --force",
			Err:     err,
		}
	}
	if err != nil {
		return fileError("write secret "+name, s.path(name), err)
	}
	return nil
}

// read opens the sealed file of the secret.
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
	again := fmt.Sprintf("restore %s from a backup, or create the secret again: dreamcore secret delete %s, then %s",
		s.path(name), name, recreate(name))
	plain, err := age.Decrypt(bytes.NewReader(sealed), s.identities...)
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return nil, errSetup("secret "+name+" is sealed for another identity",
			"use the identity it was sealed for; or create it again: dreamcore secret delete "+name+", then "+recreate(name), err)
	}
	var values map[string]string
	if err != nil {
		// age quotes the file, which may be a secret that an operator put there
		// without sealing it.
		err = errors.New("it is not an age file, or a part of it is missing")
	} else if text, readErr := io.ReadAll(io.LimitReader(plain, maxSealedBytes)); readErr != nil {
		err = readErr
	} else {
		err = decode(text, &values)
		clear(text)
	}
	if err != nil {
		return nil, errSetup("secret "+name+" is damaged", again, err)
	}
	return values, nil
}

// decode is json.Unmarshal with an error that does not quote the secret.
func decode(text []byte, values *map[string]string) error {
	if json.Unmarshal(text, values) != nil || checkValues(*values) != nil {
		return errors.New("it is not an object of keys and values")
	}
	return nil
}

func recreate(name string) string {
	if name == AnthropicSecret || name == InternalSecret {
		return "dreamcore setup"
	}
	return "dreamcore secret create " + name + " KEY=value"
}

// checkSealed refuses a file that another user could have written: sealing needs
// only the public key, so being able to open a file proves nothing about its
// author.
func checkSealed(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errSetup("the sealed secret "+f.Name()+" is not a regular file", "inspect it with: ls -ld "+f.Name()+"; and move it away", nil)
	}
	return checkAccess(info, "the sealed secret", f.Name(), "chown", "chmod 600")
}

func readSealed(path string) ([]byte, error) {
	// O_NONBLOCK: opening a FIFO must not block.
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
