// Package runsc compiles in gVisor: the part of its command line that sandboxes
// need. Only the program itself imports it, never a test: the sandbox's
// processes re-execute the program, and a build with cgo, which the race
// detector needs, breaks them.
package runsc

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/subcommands"
	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"
	"gvisor.dev/gvisor/runsc/specutils"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor/boot"
	"github.com/notef-neighbor/dreamcore/pkg/system/cgroup"
)

// gcDelay is how long after its start a sentry or gofer resumes garbage
// collection. With a hundred concurrent starts all take longer, which costs only
// memory.
const gcDelay = 2 * time.Second

// sandboxName is argv[0] of a sentry.
const sandboxName = "runsc-sandbox"

// Dispatch runs gVisor and does not return if the command line shows that this
// process is part of it. gVisor re-executes the program under names of its own
// and clears the environment on boot, so only argv can tell.
func Dispatch(args []string) {
	// gVisor starts its sentry through this helper and appends the command line
	// to execute. That is this program too, so it continues without an exec.
	if filepath.Base(args[0]) == gvisor.PrewarmerName {
		if len(args) < 3 || args[2] != sandboxName {
			_, _ = os.Stderr.WriteString("this is an internal helper of gVisor\n")
			os.Exit(127)
		}
		args = boot.Become(2, gvisor.SentryName)
	}
	switch filepath.Base(args[0]) {
	case sandboxName, gvisor.SentryName:
		if path, ok := boot.Umounter(args, gvisor.RootPrefix, engine.SupervisorName); ok {
			specutils.ExePath = path // the umounter is the only program that a sentry starts
		}
		args = boot.LimitMemory(args)
		fallthrough
	case "runsc-gofer":
		boot.DeferGC()
		go boot.ResumeGC(gcDelay)
		run(args)
	case "runsc", "runsc-exec", "exe":
		boot.DeferGC()
		run(args)
	}
	if len(args) > 1 && args[1] == gvisor.Role {
		// Descriptors that the service inherited must not reach a guest's kernel.
		// gVisor passes on the ones that it needs itself.
		check(boot.CloseOnExec())
		args = args[2:]
		if len(args) > 0 && strings.HasPrefix(args[0], gvisor.JoinPrefix) {
			dirs := strings.Split(strings.TrimPrefix(args[0], gvisor.JoinPrefix), ",")
			check(cgroup.JoinDirs(dirs))
			args = args[1:]
		}
		boot.RaiseOOMScore()
		boot.DeferGC()
		run(append([]string{"runsc"}, args...))
	}
}

// check ends this process at an error, which the service reads from its standard
// error.
func check(err error) {
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(128)
	}
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
