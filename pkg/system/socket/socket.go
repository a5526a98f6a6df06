// Package socket is Unix sockets at any path. The address of a socket has room
// for 107 bytes, and a state directory may lie deep, so both ends go through
// the open directory of the socket.
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

// File is a bound socket: its directory, held open, and its identity.
type File struct {
	dir  *os.File
	name string
	stat unix.Stat_t
}

// Listen makes the socket name in the directory dir, with the permissions
// perm. A socket that an earlier process left there is replaced; anything else
// of that name is an error. The caller closes the listener, and removes the
// file after that.
func Listen(dir, name string, perm fs.FileMode) (_ *net.UnixListener, _ *File, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, nil, err
	}
	file := &File{dir: d, name: name}
	if err := file.removeStale(); err != nil {
		return nil, nil, errors.Join(err, d.Close())
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name), Net: "unix"})
	if err != nil {
		return nil, nil, errors.Join(err, d.Close())
	}
	listener.SetUnlinkOnClose(false) // the listener's path is good only while d is open
	if err := file.publish(perm); err != nil {
		return nil, nil, errors.Join(err, listener.Close(), unix.Unlinkat(int(d.Fd()), name, 0), d.Close())
	}
	return listener, file, nil
}

// removeStale removes a socket of an earlier process, and nothing but a socket.
func (f *File) removeStale() error {
	var st unix.Stat_t
	err := unix.Fstatat(int(f.dir.Fd()), f.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at %s: %w", f.name, err)
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return fmt.Errorf("%s is there and is no socket", f.name)
	}
	if err := unix.Unlinkat(int(f.dir.Fd()), f.name, 0); err != nil {
		return fmt.Errorf("remove the old %s: %w", f.name, err)
	}
	return nil
}

// publish sets the permissions and remembers which socket is ours. It goes
// through a descriptor, so that a symlink put there meanwhile is not followed.
func (f *File) publish(perm fs.FileMode) error {
	fd, err := unix.Openat(int(f.dir.Fd()), f.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", f.name, err)
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &f.stat); err != nil {
		return fmt.Errorf("look at %s: %w", f.name, err)
	}
	if f.stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("%s is no socket", f.name)
	}
	if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), perm); err != nil {
		return fmt.Errorf("set the permissions of %s: %w", f.name, err)
	}
	return nil
}

// Remove deletes the socket file, if it is still the one that was made, and
// closes the directory.
func (f *File) Remove() error {
	var now unix.Stat_t
	err := unix.Fstatat(int(f.dir.Fd()), f.name, &now, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && now.Dev == f.stat.Dev && now.Ino == f.stat.Ino {
		err = unix.Unlinkat(int(f.dir.Fd()), f.name, 0)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // somebody removed the directory: that is what we want
	}
	return errors.Join(err, f.dir.Close())
}

// Dial connects with the socket at path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var d net.Dialer
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}
