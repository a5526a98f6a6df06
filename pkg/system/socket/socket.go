// Package socket provides Unix sockets at paths of any length. A socket address
// holds at most 107 bytes, and a state directory may be nested deeply, so both
// ends go through a descriptor of the socket's directory.
package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// File is a bound socket file.
type File struct {
	dir  *os.File // open
	path string   // through dir, so valid only while dir is open
	info fs.FileInfo
}

// Listen creates the socket name in the directory dir, with the permissions
// perm. It replaces a socket that an earlier process left there, and returns an
// error if anything else has that name. The caller must close the listener, and
// call Remove after that.
func Listen(dir, name string, perm fs.FileMode) (*net.UnixListener, *File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, nil, err
	}
	file := &File{dir: d, path: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name)}
	if err := removeStale(file.path); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("replace %s: %w", name, err), d.Close())
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: file.path, Net: "unix"})
	if err != nil {
		return nil, nil, errors.Join(err, d.Close())
	}
	listener.SetUnlinkOnClose(false) // see File.path
	if err := file.publish(perm); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("create %s: %w", name, err), listener.Close(), unix.Unlink(file.path), d.Close())
	}
	return listener, file, nil
}

var errNoSocket = errors.New("it is not a socket")

// removeStale removes a file that must be a socket.
func removeStale(path string) error {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errNoSocket
	}
	return unix.Unlink(path)
}

// publish sets the permissions and records the identity of the socket file. It
// uses a descriptor so that it does not follow a symlink that replaced the file.
func (f *File) publish(perm fs.FileMode) error {
	file, err := os.OpenFile(f.path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if f.info, err = file.Stat(); err != nil {
		return err
	}
	if f.info.Mode().Type() != fs.ModeSocket {
		return errNoSocket
	}
	return os.Chmod(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), perm)
}

// Remove deletes the socket file, unless it was replaced, and closes the
// directory.
func (f *File) Remove() error {
	now, err := os.Lstat(f.path)
	if err == nil && os.SameFile(now, f.info) {
		err = unix.Unlink(f.path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // the directory was removed, and the socket with it
	}
	return errors.Join(err, f.dir.Close())
}

// Dial connects to the socket at path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var d net.Dialer
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}
