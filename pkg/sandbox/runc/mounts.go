package runc

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
)

// mounts is the view of the host's mounts that a runc command gets. It is a
// mount namespace of its own, so none of it is visible to others or remains
// when the command is killed:
//
//   - The sandbox's root is mounted at a path that all users can reach. Root in
//     a user namespace is an unprivileged user outside, and the directories
//     above the service's state deny such users access. Sources of mounts in the
//     root may stay private, because runc opens them as the host's root.
//   - /proc is mounted anew. In a user namespace the kernel refuses a new /proc
//     if the existing one is partly covered, as it is in a hardened service.
//   - Of cgroup v1, only the hierarchies of the service's cgroups are visible.
//     runc would otherwise create cgroups in all of them that remain behind.
type mounts struct {
	root string   // the sandbox's root on the host; "" mounts no root
	at   string   // where to mount root
	hide []string // cgroup mount points to unmount
}

// mountPoints are top-level directories that every system has and sandboxes
// rarely need. The root is mounted over the first one that is not in use.
var mountPoints = []string{"/mnt", "/media", "/srv", "/opt", "/home", "/boot"}

// freeMountPoint returns a mount point for a root that covers none of paths, the
// result of engine.Paths.
func freeMountPoint(paths []string) (string, error) {
	for _, at := range mountPoints {
		if fi, err := os.Lstat(at); err != nil || !fi.IsDir() {
			continue
		}
		if !slices.ContainsFunc(paths, func(p string) bool { return p == at || strings.HasPrefix(p, at+"/") }) {
			return at, nil
		}
	}
	return "", &dreamcore.Error{
		Code: dreamcore.CodeSetup, Message: "no mount point is free for the root of a sandbox",
		Hint: "create an empty directory /mnt on this host",
		Err:  fmt.Errorf("all of %s are missing or in use", strings.Join(mountPoints, ", ")),
	}
}

// run runs f with these mounts and waits for it. Processes that f starts inherit
// the mounts; goroutines that f starts do not.
func (r mounts) run(f func() error) error {
	return engine.InMounts(func() error {
		if err := r.prepare(); err != nil {
			return fmt.Errorf("prepare mounts for runc: %w", err)
		}
		return nil
	}, f)
}

func (r mounts) prepare() error {
	for _, dir := range r.hide {
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if r.root == "" {
		return nil
	}
	if err := unix.Mount(r.root, r.at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount root at %s: %w", r.at, err)
	}
	return nil
}
