// Package runsc is gVisor, compiled in: the part of its command line that our
// sandboxes need. Only the program itself imports it, never a test: the
// sandbox's processes re-execute the program, and a build with cgo, as the
// race detector needs, breaks them.
package runsc

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"
	"unsafe"

	"github.com/google/subcommands"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"
	"gvisor.dev/gvisor/runsc/specutils"

	"github.com/notef-neighbor/dreamcore/pkg/cgroup"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
)

// settleAfter is how long a sentry and a gofer may take for their start: at a
// hundred starts at once they all take longer, which costs only memory.
const settleAfter = 2 * time.Second

// Dispatch runs gVisor when the command line says that this process is part
// of it, and then does not return. gVisor re-executes the program under names
// of its own, and its boot clears the environment: argv is all there is.
func Dispatch(args []string) {
	// gVisor starts its sentry through this helper: the command line that is to
	// be executed follows. It is this program, which need not start again.
	if filepath.Base(args[0]) == gvisor.PrewarmerName && len(args) > 2 {
		args = args[2:]
		rename(args[0])
	}
	switch filepath.Base(args[0]) {
	case "runsc-sandbox", gvisor.SentryName:
		useSmallHelper(args)
		fallthrough
	case "runsc-gofer":
		go settle()
		run(args)
	case "runsc", "runsc-exec", "exe":
		run(args)
	}
	if len(args) > 1 && args[1] == gvisor.Role {
		// The service may have inherited descriptors that no guest's kernel
		// should hold; what gVisor needs of ours it passes on by itself.
		_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
		args = args[2:]
		if len(args) > 0 && strings.HasPrefix(args[0], gvisor.JoinPrefix) {
			dirs := strings.Split(strings.TrimPrefix(args[0], gvisor.JoinPrefix), ",")
			if err := cgroup.JoinDirs(dirs); err != nil {
				_, _ = os.Stderr.WriteString(err.Error() + "\n")
				os.Exit(128)
			}
			args = args[1:]
		}
		run(append([]string{"runsc"}, args...))
	}
}

// rename makes ps show the process as if it had been executed with the command
// line that begins with title, an element of os.Args. It may not be allowed.
func rename(title string) {
	start := uintptr(unsafe.Pointer(unsafe.StringData(title)))
	_ = unix.Prctl(unix.PR_SET_MM, unix.PR_SET_MM_ARG_START, start, 0, 0)
	if name, err := unix.BytePtrFromString(gvisor.SentryName); err == nil {
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0)
	}
}

// useSmallHelper makes gVisor start the process that unmounts /proc for a
// sentry from the small program beside the state directory, where there is one.
func useSmallHelper(args []string) {
	var state string
	drops := false // its rights by itself; else it starts itself again, which is not that program
	for _, arg := range args {
		switch {
		case strings.HasPrefix(arg, gvisor.RootPrefix):
			state = strings.TrimPrefix(arg, gvisor.RootPrefix)
		case arg == "--apply-caps=true":
			drops = true
		case strings.HasPrefix(arg, "--sync-userns-fd"):
			return
		}
	}
	if !drops || state == "" {
		return
	}
	// Opened now, for the sentry changes its root directory.
	fd, err := unix.Open(filepath.Join(filepath.Dir(state), engine.SupervisorName), unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err == nil {
		specutils.ExePath = fmt.Sprintf("/proc/self/fd/%d", fd)
	}
}

// startHeap is how much memory a process may take for its start before it
// collects what it does not need any more, in bytes. It needs about a sixth.
const startHeap = 64 << 20

// settle gives back what a process that will live as long as its sandbox took
// for its start, once that is over: an idle one would keep it for good, as it
// allocates too little to ever collect.
func settle() {
	time.Sleep(settleAfter)
	debug.SetGCPercent(100)
	debug.SetMemoryLimit(math.MaxInt64)
	debug.FreeOSMemory()
}

func run(args []string) {
	os.Args = args
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(startHeap)
	commands := map[util.SubCommand]string{
		new(cmd.Checkpoint): "", new(cmd.Create): "", new(cmd.Debug): "", new(cmd.Delete): "",
		new(cmd.Events): "", new(cmd.Exec): "", new(cmd.Kill): "", new(cmd.List): "",
		new(cmd.PS): "", new(cmd.Pause): "", new(cmd.Restore): "", new(cmd.Resume): "",
		new(cmd.Run): "", new(cmd.Spec): "", new(cmd.Start): "", new(cmd.State): "",
		new(cmd.Usage): "", new(cmd.Wait): "",
		new(sentrycmd.Boot): "internal", new(cmd.Gofer): "internal", new(sentrycmd.Umount): "internal",
	}
	cli.Run(nil, commands, []subcommands.Command{new(cmd.Platforms)})
	os.Exit(0)
}
