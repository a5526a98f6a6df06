package runc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
)

// room is what a command of runc sees of the machine's mounts. It has a mount
// namespace of its own, so that nothing of this is there for others, or stays
// when the command is killed:
//
//   - The root of the sandbox is at a path that everybody may go through. Root
//     in a user namespace is nobody outside, and the directories above our
//     state are closed to nobody. What is mounted into the root may stay
//     private: runc opens it as root of the machine.
//   - /proc is new. In a user namespace the kernel refuses a new /proc where
//     the one outside is partly covered, as a hardened service's is.
//   - Of cgroup v1 there are only the hierarchies that our groups live in: runc
//     would make groups in all of them, for somebody to remove.
type room struct {
	root string   // of the sandbox, on the host; "": none is needed
	at   string   // where it is in the room
	hide []string // mount points
}

// places are directories at the top that every system has and nothing needs:
// the root goes over the first that is not in the way.
var places = []string{"/mnt", "/media", "/srv", "/opt", "/home", "/boot"}

// place finds a place for a root that covers none of paths.
func place(paths []string) (string, error) {
	var inUse []string
	for _, p := range paths {
		inUse = append(inUse, p)
		if real, err := filepath.EvalSymlinks(p); err == nil { // a missing one is runc's to report
			inUse = append(inUse, real)
		}
	}
	for _, at := range places {
		if fi, err := os.Lstat(at); err != nil || !fi.IsDir() {
			continue
		}
		if !slices.ContainsFunc(inUse, func(p string) bool { return p == at || strings.HasPrefix(p, at+"/") }) {
			return at, nil
		}
	}
	return "", &dreamcore.Error{
		Code: dreamcore.CodeSetup, Message: "runc finds no place for the root of a sandbox",
		Hint: "make an empty directory /mnt on this machine",
		Err:  fmt.Errorf("none of %s is there and free", strings.Join(places, ", ")),
	}
}

// do runs f in the room, and waits for it. Whatever process f starts is in the
// room too. f must not start goroutines that need it.
func (r room) do(f func() error) error {
	return engine.InMounts(func() error {
		if err := r.furnish(); err != nil {
			return fmt.Errorf("prepare the mounts of runc: %w", err)
		}
		return nil
	}, f)
}

func (r room) furnish() error {
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
		return fmt.Errorf("mount the root at %s: %w", r.at, err)
	}
	return nil
}
