// Package boot is what makes gVisor's processes start with little work: they
// are this whole program, several times for a sandbox. It is apart from gVisor,
// so that the small program that becomes PID 1 can be one of them.
package boot

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Heap is how much memory a process may take before it has settled without
// collecting what it does not need any more, in bytes. A sentry takes a fifth.
const Heap = 64 << 20

// Hurry keeps a process from collecting garbage, up to Heap. A short one ends
// before it would have to.
func Hurry() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(Heap)
}

// GiveWay makes the kernel end this process, and those that it starts, before the
// service where the memory of the machine runs out. The service may run with a
// negative score, which its children have too. A process may always raise its
// own: from outside it would need rights that the service does not have.
func GiveWay() {
	// Where it cannot be set, the sandbox is as good as before.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)
}

// Settle ends the hurry of a process that lives as long as its sandbox, after
// its start, and gives back what that took: an idle one would keep it for good,
// as it allocates too little to ever collect.
func Settle(after time.Duration) {
	time.Sleep(after)
	debug.SetGCPercent(100)
	debug.SetMemoryLimit(math.MaxInt64)
	debug.FreeOSMemory()
}

// Umounter finds the small program for a sentry with these arguments, which is
// called name and lies beside the state directory that rootPrefix begins the
// argument of. It returns a path by which the sentry finds it in any root
// directory, as long as it lives. There is none when the sentry will start
// itself again, by the same setting: it drops its rights in another way then.
func Umounter(args []string, rootPrefix, name string) (path string, ok bool) {
	again := slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--sync-userns-fd") })
	state := slices.IndexFunc(args, func(arg string) bool { return strings.HasPrefix(arg, rootPrefix) })
	if again || state < 0 || !slices.Contains(args, "--apply-caps=true") {
		return "", false
	}
	dir := filepath.Dir(strings.TrimPrefix(args[state], rootPrefix))
	fd, err := openReadOnly(filepath.Join(dir, name))
	if err != nil {
		return "", false
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), true
}

// openReadOnly opens a file on a mount of its own, which nobody sees and which
// cannot be written to. A sentry keeps the descriptor, and even one that a guest
// has taken over must not change the file's owner by it.
func openReadOnly(path string) (fd int, err error) {
	fd, err = unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Become makes ps show the process as if it had been executed with the command
// line os.Args[from:], and called name, and returns that command line.
func Become(from int, name string) []string {
	// The strings of os.Args are the memory that the kernel shows.
	first, last := os.Args[0], os.Args[len(os.Args)-1]
	start := unsafe.StringData(first)
	size := uintptr(unsafe.Pointer(unsafe.StringData(last))) + uintptr(len(last)) - uintptr(unsafe.Pointer(start))
	args := make([]string, 0, len(os.Args)-from)
	for _, arg := range os.Args[from:] {
		args = append(args, strings.Clone(arg))
	}
	if shown := strings.Join(args, "\x00"); first != "" && last != "" && uintptr(len(shown)) <= size {
		line := unsafe.Slice(start, size)
		clear(line[copy(line, shown):])
	}
	os.Args = args
	if comm, err := unix.BytePtrFromString(name); err == nil {
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(comm)), 0, 0, 0)
	}
	return args
}
