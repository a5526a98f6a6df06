package secret

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// A mounted directory holds secrets that something else keeps, such as a Secret of
// Kubernetes: a file NAME.KEY for each value, in plain text. A line break at its end
// does not count. Names of files that begin with a dot are ignored.

// maxMounted bounds the files of a mounted directory.
const maxMounted = 4096

// currentMount is the link that Kubernetes replaces to change all files at once.
const currentMount = "..data"

// WithMounted returns the store together with the secrets in the directory dir, which
// come first and which the store cannot change. It returns the store itself if dir is
// "". The directory is read at each use, so a change needs no restart. CodeSetup: there
// is no such directory.
func (s *Store) WithMounted(dir string) (*Store, error) {
	if dir == "" {
		return s, nil
	}
	with := *s
	with.mounted = dir
	root, err := with.openMounted()
	if err != nil {
		return nil, err
	}
	return &with, root.Close()
}

func (s *Store) openMounted() (*os.Root, error) {
	root, err := os.OpenRoot(s.mounted)
	if err != nil {
		return nil, s.mountError("the directory of mounted secrets cannot be opened", err)
	}
	current, err := root.OpenRoot(currentMount)
	if errors.Is(err, fs.ErrNotExist) {
		return root, nil
	}
	if closing := root.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return nil, s.mountError("the directory of mounted secrets cannot be opened", err)
	}
	return current, nil
}

func (s *Store) mountError(message string, err error) error {
	return errSetup(message, "look at "+s.mounted+", which the setting secrets_dir names; each file is NAME.KEY, and the service must be able to read it", err)
}

// maxMountReads bounds how often the files are read because they were replaced
// meanwhile.
const maxMountReads = 5

// readMount calls read with the directory of the files, again if they were replaced
// meanwhile: a directory that was removed looks empty.
func (s *Store) readMount(read func(root *os.Root) error) error {
	for try := 1; ; try++ {
		root, err := s.openMounted()
		if err != nil {
			return err
		}
		err = read(root)
		same, sameErr := s.isCurrent(root)
		if closing := root.Close(); err == nil {
			err = closing
		}
		switch {
		case sameErr != nil:
			return sameErr
		case same:
			return err
		case try == maxMountReads:
			return s.mountError("the mounted secrets change all the time", err)
		}
	}
}

func (s *Store) isCurrent(root *os.Root) (bool, error) {
	now, err := s.openMounted()
	if err != nil {
		return false, err
	}
	defer now.Close()
	before, err := root.Stat(".")
	if err != nil {
		return false, s.mountError("the directory of mounted secrets cannot be read", err)
	}
	after, err := now.Stat(".")
	if err != nil {
		return false, s.mountError("the directory of mounted secrets cannot be read", err)
	}
	return os.SameFile(before, after), nil
}

// mountedNames returns the names of the mounted secrets with the keys of each,
// sorted.
func (s *Store) mountedNames() (names []string, keys map[string][]string, err error) {
	if s.mounted == "" {
		return nil, nil, nil
	}
	err = s.readMount(func(root *os.Root) (err error) {
		names, keys, err = s.listMounted(root)
		return err
	})
	return names, keys, err
}

func (s *Store) listMounted(root *os.Root) (names []string, keys map[string][]string, err error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, nil, s.mountError("the mounted secrets cannot be listed", err)
	}
	defer dir.Close()
	files, err := dir.Readdirnames(maxMounted + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, s.mountError("the mounted secrets cannot be listed", err)
	}
	if len(files) > maxMounted {
		return nil, nil, s.mountError(fmt.Sprintf("the directory of mounted secrets has more than %d files", maxMounted), nil)
	}
	keys = map[string][]string{}
	for _, file := range files {
		if strings.HasPrefix(file, ".") {
			continue
		}
		name, key, ok := strings.Cut(file, ".")
		if !ok || CheckName(name) != nil || !validKey(key) {
			return nil, nil, s.mountError(fmt.Sprintf("a file of the mounted secrets is not named NAME.KEY: %.100q", file), nil)
		}
		keys[name] = append(keys[name], key)
	}
	for name := range keys {
		slices.Sort(keys[name])
		names = append(names, name)
	}
	slices.Sort(names)
	return names, keys, nil
}

// readMounted returns the values of a mounted secret. found is false if no file has its
// name.
func (s *Store) readMounted(name string) (values map[string]string, found bool, err error) {
	if s.mounted == "" {
		return nil, false, nil
	}
	err = s.readMount(func(root *os.Root) (err error) {
		values, err = s.mountedValues(root, name)
		return err
	})
	return values, len(values) > 0, err
}

// mountedValues returns the values of a secret in a mounted directory; nil if it has
// none of that name.
func (s *Store) mountedValues(root *os.Root, name string) (map[string]string, error) {
	_, keys, err := s.listMounted(root)
	if err != nil || len(keys[name]) == 0 {
		return nil, err
	}
	values := map[string]string{}
	for _, key := range keys[name] {
		if values[key], err = mountedValue(root, name+"."+key); err != nil {
			return nil, s.mountError(fmt.Sprintf("the mounted secret %s.%s cannot be read", name, key), err)
		}
	}
	if err := checkValues(values); err != nil {
		return nil, s.mountError("the mounted secret "+name+" cannot be used", err)
	}
	return values, nil
}

func mountedValue(root *os.Root, file string) (string, error) {
	f, err := root.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a FIFO must not block
	if err != nil {
		return "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !fi.Mode().IsRegular() {
		return "", errors.New("it is not a regular file")
	}
	return readLine(f)
}

// checkNotMounted refuses to change a mounted secret.
func (s *Store) checkNotMounted(name string) error {
	_, keys, err := s.mountedNames()
	if err != nil || len(keys[name]) == 0 {
		return err
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeConflict, Message: "the secret " + name + " is mounted, so it cannot be changed here",
		Hint: "change it where " + filepath.Clean(s.mounted) + " comes from; or take the setting secrets_dir out of the configuration",
	}
}
