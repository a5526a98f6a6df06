package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/cgroup"
)

// newLimit is the age at which a directory that never got its final name counts
// as left behind.
const newLimit = time.Minute

// sweep removes what dead instances have left. A living one holds the lock of its
// directory.
func (p *Provider) sweep(ctx context.Context) error {
	entries, err := os.ReadDir(p.cfg.Dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Name(), "new-"):
			if fi, err := e.Info(); err == nil && time.Since(fi.ModTime()) > newLimit {
				errs = append(errs, os.RemoveAll(filepath.Join(p.cfg.Dir, e.Name())))
			}
		case strings.HasPrefix(e.Name(), "i-"):
			lock, err := lockDead(ctx, filepath.Join(p.cfg.Dir, e.Name(), "lock"))
			if errors.Is(err, unix.EWOULDBLOCK) {
				continue // alive
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
				continue
			}
			p.log.Info("remove what an earlier run left", "instance", e.Name())
			errs = append(errs, p.removeInstance(ctx, e.Name()))
			if lock != nil {
				_ = lock.Close()
			}
		}
	}
	return errors.Join(errs...)
}

// inheritLimit is how long the lock of a dead owner may still be held.
const inheritLimit = 5 * time.Second

// lockDead locks the file of a dead instance, or fails with EWOULDBLOCK. A process
// that is killed while it forks leaves a child that holds the lock until it
// executes another program. So if the owner that the file names is dead, lockDead
// waits for the lock.
func lockDead(ctx context.Context, name string) (*os.File, error) {
	for end := time.Now().Add(inheritLimit); ; {
		f, err := lockFile(name)
		if !errors.Is(err, unix.EWOULDBLOCK) || ctx.Err() != nil || time.Now().After(end) {
			return f, err
		}
		raw, rerr := os.ReadFile(name)
		pid, perr := strconv.Atoi(strings.TrimSpace(string(raw)))
		if rerr != nil || perr != nil || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			return nil, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// removeInstance ends every process of an instance and removes its cgroups,
// mounts and files.
func (p *Provider) removeInstance(ctx context.Context, instance string) error {
	dir := filepath.Join(p.cfg.Dir, instance)
	var errs []error
	if p.hierarchy != nil {
		errs = append(errs, p.removeGroups(ctx, instance))
	} else {
		killed, err := killNamed(ctx, p.marks.Argument(dir))
		errs = append(errs, err, reap(ctx, killed))
	}
	if err := unmountBelow(dir); err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}

// cgroupFile, in the directory of an instance, names the parent of its cgroups:
// that of a service differs from that of a command in a terminal.
const cgroupFile = "cgroup.base"

// removeGroups ends every process of an instance and removes its cgroups.
func (p *Provider) removeGroups(ctx context.Context, instance string) error {
	recorded, err := os.ReadFile(filepath.Join(p.cfg.Dir, instance, cgroupFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // it may have died before it wrote the file
		return err
	}
	errs := []error{p.removeGroupsOf(ctx, instance, p.hierarchy)}
	// If the machine had other hierarchies when the file was written, the groups
	// are gone with them.
	if h, ok := p.hierarchy.In(string(recorded)); ok && h.Base() != p.hierarchy.Base() {
		errs = append(errs, p.removeGroupsOf(ctx, instance, h))
	}
	return errors.Join(errs...)
}

func (p *Provider) removeGroupsOf(ctx context.Context, instance string, h *cgroup.Hierarchy) error {
	parent := h.Open(filepath.Join(dreamcore.AppName, instance))
	names, err := parent.Children()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		g := h.Open(filepath.Join(dreamcore.AppName, instance, name))
		killed, err := g.Remove(ctx)
		errs = append(errs, err, reap(ctx, killed))
	}
	_, err = parent.Remove(ctx)
	errs = append(errs, err)
	// The last instance removes the group that all instances share.
	h.Open(dreamcore.AppName).RemoveIfEmpty()
	return errors.Join(errs...)
}

// unmountBelow unmounts everything that is mounted at or below dir, deepest
// first. It fails if a mount remains: removing files below dir could then remove
// files of another file system.
func unmountBelow(dir string) error {
	points, err := mountPoints(dir)
	if err != nil {
		return err
	}
	slices.SortFunc(points, func(a, b string) int { return len(b) - len(a) })
	for _, m := range points {
		if err := unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	left, err := mountPoints(dir)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("still mounted: %s", strings.Join(left, ", "))
	}
	return err
}

func mountPoints(dir string) ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, err
	}
	var points []string
	for _, m := range mounts {
		points = append(points, m.Mountpoint)
	}
	return points, nil
}
