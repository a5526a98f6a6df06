// Package runsc is gVisor, compiled in: the part of its command line that our
// sandboxes need. Only the program itself imports it, never a test: the
// sandbox's processes re-execute the program, and a build with cgo, as the
// race detector needs, breaks them.
package runsc

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/google/subcommands"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"

	"github.com/notef-neighbor/dreamcore/pkg/cgroup"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
)

// settleAfter is how long a sentry and a gofer may take for their start: at a
// hundred starts at once they all take longer, which costs only memory.
const settleAfter = 2 * time.Second

// Dispatch runs gVisor when the command line says that this process is part
// of it, and then does not return. gVisor re-executes the program under names
// of its own, and its boot clears the environment: argv is all there is.
func Dispatch(args []string) {
	switch filepath.Base(args[0]) {
	case "runsc-sandbox", "runsc-gofer", "gvisor_sentry":
		go settle()
		run(args)
	case "runsc", "runsc-exec", "exe":
		run(args)
	case gvisor.PrewarmerName:
		// gVisor starts its sentry through this helper, which execs it.
		if len(args) > 2 {
			_ = syscall.Exec(args[1], args[2:], os.Environ())
		}
		os.Exit(127)
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

// settle gives back what a process that will live as long as its sandbox took
// for its start, once that is over: an idle one would keep it for good, as it
// allocates too little to ever collect.
func settle() {
	time.Sleep(settleAfter)
	debug.FreeOSMemory()
}

func run(args []string) {
	os.Args = args
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
