// Package boot reduces the startup work of gVisor's processes, several of which
// execute this whole program for every sandbox. It is separate from package
// gvisor so that the small program that becomes PID 1 can also be one of them.
package boot

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Heap is how much memory in bytes a process may allocate during its start
// without collecting garbage. A sentry uses a fifth of it.
const Heap = 64 << 20

// DeferGC turns off garbage collection up to Heap. A short-lived process ends
// before it would have to collect.
func DeferGC() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(Heap)
}

// RaiseOOMScore makes the kernel kill this process and its children before the
// service if the host runs out of memory. The service may run with a negative
// score, which its children inherit. A process may always raise its own score,
// whereas setting it from outside needs privileges that the service lacks.
func RaiseOOMScore() {
	// On failure the inherited score stays, which is no reason to refuse a sandbox.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(sandbox.OOMScore(sandbox.OwnOOMScore()))), 0)
}

// ResumeGC restores normal garbage collection in a process that lives as long as
// its sandbox, a given time after its start, and returns the memory that the
// start used: an idle process allocates too little to ever collect it.
func ResumeGC(after time.Duration) {
	time.Sleep(after)
	debug.SetGCPercent(100)
	debug.SetMemoryLimit(math.MaxInt64)
	debug.FreeOSMemory()
}

// Umounter finds the small program for a sentry with these arguments. The
// program is called name and lies in the parent of the state directory that
// args name after rootPrefix. The returned path is valid in any root directory
// as long as the sentry lives. ok is false if the sentry will re-execute itself,
// because it drops its privileges differently then.
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

// openReadOnly opens a file on a detached read-only mount. The sentry keeps the
// descriptor, and even a sentry controlled by a guest must not be able to change
// the file's owner through it.
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
// line os.Args[from:] and the name name, and returns that command line.
func Become(from int, name string) []string {
	// The strings of os.Args are the memory that the kernel reports.
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
