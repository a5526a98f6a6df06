package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

const (
	lateDir  = "late" // in the bundle: the directories of Spec.Late, by number
	lateMode = 0o755  // programs pass through them and cannot write to them
)

var _ sandbox.Binder = (*box)(nil)

// mayBind is bindRight, asked once: the rights of the service do not change.
var mayBind = sync.OnceValue(bindRight)

// bindRight returns why this thread cannot mount directories in the namespace of a
// sandbox, or nil: it needs two capabilities, and the calls of Linux 5.12, which
// seccomp may refuse.
func bindRight() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for name, bit := range map[string]uint{"CAP_SYS_CHROOT": unix.CAP_SYS_CHROOT, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN} {
		if data[bit/32].Effective&(1<<(bit%32)) == 0 {
			return errors.New("the service has no " + name)
		}
	}
	_, open := unix.OpenTree(-1, "", 0)
	for name, err := range map[string]error{
		"open_tree": open, "move_mount": unix.MoveMount(-1, "", -1, "", 0), "mount_setattr": unix.MountSetattr(-1, "", 0, &unix.MountAttr{}),
	} {
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
			return os.NewSyscallError(name, err)
		}
	}
	return nil
}

// makeLate turns Spec.Late into mounts of empty directories. Nothing is ever mounted
// on these in the namespace of the service, so removing the bundle removes no file of
// a user.
func (b *box) makeLate(spec *sandbox.Spec) error {
	if len(spec.Late) == 0 {
		return nil
	}
	if !b.provider.BindsLate() {
		return fmt.Errorf("%s sandboxes do not mount directories after their start here", b.provider.marks.Title)
	}
	var mounts []sandbox.Mount
	for i, target := range spec.Late {
		dir := b.lateDir(i)
		if err := makeDir(dir); err != nil {
			return err
		}
		mounts = append(mounts, sandbox.Mount{Source: dir, Target: target, Writable: true})
	}
	b.late, spec.Late, spec.Mounts = spec.Late, nil, append(mounts, spec.Mounts...)
	return nil
}

func (b *box) lateDir(i int) string { return filepath.Join(b.Dir, lateDir, strconv.Itoa(i)) }

// makeDir creates a directory and its parents despite the umask.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, lateMode); err != nil {
		return err
	}
	return os.Chmod(dir, lateMode)
}

// Bind implements sandbox.Binder.
func (b *box) Bind(ctx context.Context, mounts []sandbox.Mount) error {
	b.closing.Lock() // the process whose namespace is entered is not reaped meanwhile
	defer b.closing.Unlock()
	if b.closed || ctx.Err() != nil {
		return fmt.Errorf("mount directories: %w", errors.Join(sandbox.ErrLost, context.Cause(ctx)))
	}
	if err := b.bind(mounts); err != nil {
		return b.explain(fmt.Errorf("mount directories: %w", err))
	}
	return nil
}

func (b *box) bind(mounts []sandbox.Mount) error {
	pid, root, err := b.provider.marks.Files(b.Box)
	if err != nil {
		return err
	}
	namespace, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns/mnt"))
	if err != nil {
		return err
	}
	defer namespace.Close()
	trees := make([]int, 0, len(mounts))
	defer func() {
		for _, fd := range trees {
			_ = unix.Close(fd)
		}
	}()
	for _, m := range mounts {
		if err := b.makeTarget(m); err != nil {
			return err
		}
		fd, err := openTree(m)
		if err != nil {
			return err
		}
		trees = append(trees, fd)
	}
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("setns", err)
		}
		for i, m := range mounts {
			if err := attachTree(trees[i], root+m.Target); err != nil {
				return err
			}
		}
		return b.closeLate(root)
	})
}

// closeLate makes the late directories themselves read-only, in the mount namespace of
// this thread: they are on the machine's disk, which a hostile root of the sandbox must
// not fill. Mounts below them stay unchanged.
func (b *box) closeLate(root string) error {
	for _, target := range b.late {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(unix.AT_FDCWD, root+target, unix.AT_SYMLINK_NOFOLLOW, &attr); err != nil {
			return &os.PathError{Op: "mount_setattr", Path: target, Err: err}
		}
	}
	return nil
}

// makeTarget makes the directory on the host that a late mount covers.
func (b *box) makeTarget(m sandbox.Mount) error {
	if err := m.Validate(); err != nil {
		return err
	}
	if m.Source == "" {
		return fmt.Errorf("mount of %q has no source", m.Target)
	}
	for i, target := range b.late {
		rel, below := strings.CutPrefix(m.Target, target+"/")
		if !below {
			continue
		}
		dir := b.lateDir(i)
		for _, name := range strings.Split(rel, "/") {
			dir = filepath.Join(dir, name)
			if err := makeDir(dir); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("mount target %q is below none of %q", m.Target, b.late)
}

// openTree returns a mount of the source that is attached nowhere. It is closed with
// the descriptor unless it is attached before.
func openTree(m sandbox.Mount) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: m.Source, Err: err}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if !m.Writable {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		_ = unix.Close(fd)
		return -1, &os.PathError{Op: "mount_setattr", Path: m.Source, Err: err}
	}
	return fd, nil
}

// attachTree attaches a mount at a path of the thread's mount namespace, which may
// have no links: nothing in it can lead to another place.
func attachTree(fd int, target string) error {
	at, err := unix.Openat2(unix.AT_FDCWD, target, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return &os.PathError{Op: "openat2", Path: target, Err: err}
	}
	defer unix.Close(at)
	if err := unix.MoveMount(fd, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}
