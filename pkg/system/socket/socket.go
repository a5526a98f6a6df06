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
	name string
	stat unix.Stat_t // identifies the file
}

// Listen creates the socket name in the directory dir, with the permissions
// perm. It replaces a socket that an earlier process left there, and returns an
// error if anything else has that name. The caller must close the listener, and
// call Remove after that.
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
	listener.SetUnlinkOnClose(false) // the listener's path is valid only while d is open
	if err := file.publish(perm); err != nil {
		return nil, nil, errors.Join(err, listener.Close(), unix.Unlinkat(int(d.Fd()), name, 0), d.Close())
	}
	return listener, file, nil
}

// removeStale removes the socket of an earlier process, and nothing but a socket.
func (f *File) removeStale() error {
	var st unix.Stat_t
	err := unix.Fstatat(int(f.dir.Fd()), f.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("stat %s: %w", f.name, err)
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return fmt.Errorf("%s exists and is not a socket", f.name)
	}
	if err := unix.Unlinkat(int(f.dir.Fd()), f.name, 0); err != nil {
		return fmt.Errorf("remove old %s: %w", f.name, err)
	}
	return nil
}

// publish sets the permissions and records the identity of the socket file. It
// uses a descriptor so that it does not follow a symlink that replaced the file.
func (f *File) publish(perm fs.FileMode) error {
	fd, err := unix.Openat(int(f.dir.Fd()), f.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", f.name, err)
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &f.stat); err != nil {
		return fmt.Errorf("stat %s: %w", f.name, err)
	}
	if f.stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("%s is not a socket", f.name)
	}
	if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), perm); err != nil {
		return fmt.Errorf("set permissions of %s: %w", f.name, err)
	}
	return nil
}

// Remove deletes the socket file, unless it was replaced, and closes the
// directory.
func (f *File) Remove() error {
	var now unix.Stat_t
	err := unix.Fstatat(int(f.dir.Fd()), f.name, &now, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && now.Dev == f.stat.Dev && now.Ino == f.stat.Ino {
		err = unix.Unlinkat(int(f.dir.Fd()), f.name, 0)
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
