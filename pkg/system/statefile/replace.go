package statefile

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// TempPrefix begins the names of files that are being written. A process that is
// killed leaves them behind; see Sweep.
const TempPrefix = ".new-"

// Replace writes the file name of a directory. After a crash, the file has either
// its old content or the new one, never a mix: fill writes a temporary file in the
// same directory, which is synced and renamed, and then the directory is synced.
// fill may also set the owner and times. mode is set regardless of the umask. After
// an error the old file is in place, except for an error of the last sync.
func Replace(dir *os.Root, name string, mode fs.FileMode, fill func(*os.File) error) error {
	return write(dir, name, mode, fill, (*os.File).Sync, dir.Rename)
}

// Create is Replace for a name that must not exist yet: otherwise the error wraps
// fs.ErrExist.
func Create(dir *os.Root, name string, mode fs.FileMode, fill func(*os.File) error) error {
	// Unlike a rename, a link replaces nothing.
	link := func(temp, name string) error {
		if err := dir.Link(temp, name); err != nil {
			return err
		}
		return dir.Remove(temp)
	}
	return write(dir, name, mode, fill, (*os.File).Sync, link)
}

// ReplaceCache is Replace without syncing. Concurrent readers see the old file or
// the new one, but after a power cut the file may be empty or torn: use it for
// content that is verified when it is read and can be made again.
func ReplaceCache(dir *os.Root, name string, mode fs.FileMode, fill func(*os.File) error) error {
	return write(dir, name, mode, fill, nil, dir.Rename)
}

func write(dir *os.Root, name string, mode fs.FileMode, fill, sync func(*os.File) error, publish func(temp, name string) error) (err error) {
	parent := filepath.Dir(name)
	temp := filepath.Join(parent, TempPrefix+rand.Text())
	f, err := dir.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && sync != nil {
		err = sync(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = publish(temp, name)
	}
	if err != nil {
		return errors.Join(err, IgnoreMissing(dir.Remove(temp)))
	}
	if sync == nil {
		return nil
	}
	d, err := dir.Open(parent)
	if err != nil {
		return err
	}
	return errors.Join(sync(d), d.Close())
}

// ReplaceFile is Replace for the file at path.
func ReplaceFile(path string, mode fs.FileMode, fill func(*os.File) error) error {
	return at(path, func(dir *os.Root, name string) error { return Replace(dir, name, mode, fill) })
}

// ReplaceCacheFile is ReplaceCache for the file at path.
func ReplaceCacheFile(path string, mode fs.FileMode, fill func(*os.File) error) error {
	return at(path, func(dir *os.Root, name string) error { return ReplaceCache(dir, name, mode, fill) })
}

func at(path string, write func(dir *os.Root, name string) error) error {
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(write(dir, filepath.Base(path)), dir.Close())
}

// Bytes returns a fill function that writes b.
func Bytes(b []byte) func(*os.File) error {
	return func(f *os.File) error {
		_, err := f.Write(b)
		return err
	}
}

// Sweep removes the temporary files of processes that were killed. The caller makes
// sure that no other process is writing one, or that its writers tolerate the
// removal of theirs.
func Sweep(dir *os.Root) error {
	names, err := Names(dir, func(name string) bool { return strings.HasPrefix(name, TempPrefix) })
	for _, name := range names {
		err = errors.Join(err, IgnoreMissing(dir.Remove(name)))
	}
	return err
}

// Sync writes the file or directory at path to the disk.
func Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
