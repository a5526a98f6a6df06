package engine

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// InMounts calls f on a thread with its own mount namespace, after prepare has
// changed the mounts there, and waits for it. The processes that f starts see
// these mounts; no other process does, and they are gone when f has returned and
// its processes have ended. f must not start goroutines that need the mounts.
func InMounts(prepare, f func() error) error {
	return onThread(func() error {
		err := os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS))
		if err == nil {
			err = os.NewSyscallError("make mounts private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		}
		if err == nil {
			err = prepare()
		}
		if err == nil {
			err = f()
		}
		return err
	})
}

// onThread calls f on a thread that is used for nothing else, and waits for it. The
// thread ends with the call, and with it whatever f has changed of it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go thread(done, f)
	return <-done
}

func thread(done chan<- error, f func() error) {
	runtime.LockOSThread() // for good: the thread ends with this goroutine
	if unix.Gettid() == unix.Getpid() {
		// The first thread cannot end, and is the one that /proc/self shows.
		// Another goroutine runs on another thread while this one is locked.
		other := make(chan error, 1)
		go thread(other, f)
		done <- <-other
		runtime.UnlockOSThread()
		return
	}
	done <- f()
}

// HideDisks unmounts, in the mount namespace of this thread, the file systems on
// loop devices that neither contain one of paths nor are mounted below one: those
// of other users. A sandbox that started with them in its copy of the mounts
// would keep their devices attached for as long as it lives.
func HideDisks(paths []string) error {
	table, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	defer table.Close()
	mounts, err := mountinfo.GetMountsFromReader(table, nil)
	if err != nil {
		return err
	}
	for _, name := range foreignDisks(mounts, paths) {
		// One that is gone already needs no unmount.
		if err := unix.Unmount(name, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return &os.PathError{Op: "unmount", Path: name, Err: err}
		}
	}
	return nil
}

// foreignDisks returns the mount points of loop devices that are unrelated to
// paths, the last one first.
func foreignDisks(mounts []*mountinfo.Info, paths []string) (names []string) {
	for _, m := range slices.Backward(mounts) {
		if !strings.HasPrefix(m.Source, "/dev/loop") || m.Mountpoint == "/" {
			continue
		}
		if !slices.ContainsFunc(paths, func(p string) bool { return within(p, m.Mountpoint) || within(m.Mountpoint, p) }) {
			names = append(names, m.Mountpoint)
		}
	}
	return names
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// Paths returns every file of the host that an engine needs for a sandbox, both
// as it is named and with its links resolved.
func Paths(box Box, exe string, spec sandbox.Spec) (paths []string) {
	all := []string{box.Instance, box.Init, exe}
	for _, m := range slices.Concat(spec.Root.Mounts, spec.Mounts) {
		if m.Source != "" {
			all = append(all, m.Source)
		}
	}
	for _, p := range all {
		paths = append(paths, p)
		if real, err := filepath.EvalSymlinks(p); err == nil && real != p { // the engine reports a missing one
			paths = append(paths, real)
		}
	}
	return paths
}
