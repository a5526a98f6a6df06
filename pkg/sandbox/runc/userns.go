package runc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/oci"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/pid1"
)

// usernsFile, in a bundle, is where the user namespace of a sandbox is mounted.
const usernsFile = "userns"

// A user namespace that runc itself creates belongs to root, and the kernel
// charges what a guest uses (inotify instances, pending signals, locked memory)
// to the guest and to the owner of its namespace: a few sandboxes could exhaust
// the limits of the host's root. So each namespace is created here and belongs
// to root of the sandbox's own range.

// withUserns calls use with the path of a new user namespace, which is gone
// afterwards unless use has mounted it. It must be called on a locked thread with
// a mount namespace of its own, which must be discarded if this fails. init is a
// program that waits in the role pid1.PauseRole.
func withUserns(init string, k oci.Kernel, use func(userns string) error) error {
	users, groups, err := k.Mappings()
	if err != nil {
		return err
	}
	program, err := os.Open(init)
	if err != nil {
		return err
	}
	defer program.Close()
	hold := exec.Command("/proc/self/fd/3", pid1.PauseRole)
	hold.Args[0] = oci.InitRole
	hold.Env = []string{}
	hold.Dir = "/"
	hold.ExtraFiles = []*os.File{program}
	hold.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true, // like every command that is waited for
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: sysMappings(users), GidMappings: sysMappings(groups),
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{Uid: 0, Gid: 0},
	}
	end, err := hold.StdinPipe()
	if err != nil {
		return err
	}
	if err := as(k.Range.Root(), hold.Start); err != nil {
		return errors.Join(fmt.Errorf("create user namespace: %w", err), end.Close())
	}
	err = use(fmt.Sprintf("/proc/%d/ns/user", hold.Process.Pid))
	return errors.Join(err, end.Close(), hold.Wait())
}

func sysMappings(list []specs.LinuxIDMapping) (m []syscall.SysProcIDMap) {
	for _, r := range list {
		m = append(m, syscall.SysProcIDMap{ContainerID: int(r.ContainerID), HostID: int(r.HostID), Size: int(r.Size)})
	}
	return m
}

// as runs f with another effective user and all capabilities. The caller's
// thread must be locked, and discarded after an error.
func as(uid uint32, f func() error) error {
	const same = ^uintptr(0)
	// Package unix would change all threads.
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); e != 0 {
		return os.NewSyscallError("setresuid", e)
	}
	err := raiseCaps()
	if err == nil {
		err = f()
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, same, 0, same); e != 0 {
		return errors.Join(err, os.NewSyscallError("setresuid", e))
	}
	return errors.Join(err, raiseCaps())
}

// raiseCaps makes the thread's permitted capabilities effective; the kernel
// clears the effective set when the effective user is no longer root.
func raiseCaps() error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&h, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for i := range data {
		data[i].Effective = data[i].Permitted
	}
	if err := unix.Capset(&h, &data[0]); err != nil {
		return os.NewSyscallError("capset", err)
	}
	return nil
}

// checkMappable checks that files in dir can be mounted with other owners, which
// lets project files belong to one user on disk and to a different one in every
// sandbox.
func checkMappable(init, dir string, k oci.Kernel) error {
	err := mounts{}.run(func() error {
		return withUserns(init, k, func(userns string) error { return mapTree(dir, userns) })
	})
	if err == nil {
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Message: "cannot map user ids of runc sandboxes in " + dir, Err: err,
		Hint: "runc needs Linux 5.12 or newer and a state directory on ext4, xfs, btrfs or another file system that supports id-mapped mounts; or use gVisor",
	}
}

// mapTree creates a mount of dir with the mapping of a user namespace. No other
// process sees the mount, and it is discarded at once.
func mapTree(dir, userns string) error {
	ns, err := os.Open(userns)
	if err != nil {
		return err
	}
	defer ns.Close()
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return &os.PathError{Op: "mount_setattr", Path: dir, Err: err}
	}
	return nil
}

// kernel returns the kernel configuration of a box's sandbox.
func (r runc) kernel(box engine.Box, n oci.Range) oci.Kernel {
	return oci.Kernel{
		UID: r.cfg.UID, GID: r.cfg.GID, Range: n,
		Userns: filepath.Join(box.Dir, usernsFile), Cgroup: box.CgroupPath,
	}
}
