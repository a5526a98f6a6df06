// Package gvisor implements the gVisor engine, which is compiled into this
// program (see package runsc).
//
// A sandbox consists of two processes: the sentry, which is the kernel that
// guests see, and the gofer, which opens files for it.
package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor/boot"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/oci"
)

// Name is the engine's name in flags and settings.
const Name = "gvisor"

// Command-line conventions by which the program recognizes that it runs as part
// of gVisor.
const (
	Role          = "runsc"                   // first argument
	JoinPrefix    = "--join-cgroups="         // second argument: comma-separated directories
	RootPrefix    = "--root="                 // an argument of every process: a directory below the instance's
	PrewarmerName = "gvisor-sentry-prewarmer" // argv[0]
	SentryName    = "gvisor_sentry"           // argv[0]
	sidecarEnv    = "GVISOR_SIDECAR_BINARIES_DIR"
	sidecarDir    = "sidecar"
	stateDir      = "runsc"
)

// The sentry, the gofer and the stub processes of the systrap platform need
// host threads, about two for each thread of the guest. Running out of them
// kills the sentry, so the engine's own limit on guest processes must apply
// first.
const (
	hostProcesses = 2048
	hostPerGuest  = 4
)

// Config configures the provider.
type Config struct {
	Exe    string // absolute path of this program, built without cgo
	Dir    string // holds bundles, sockets and engine state; shared by instances
	Logger *slog.Logger
}

// New returns a provider after removing the residue of dead instances from the
// same directory. The caller must Close it.
//
// Sandboxes are started from an open descriptor of the program. If its file is
// replaced or removed while the service runs, sandboxes still start, and always
// with the service's own version.
func New(ctx context.Context, cfg Config) (*engine.Provider, error) {
	exe, err := os.Open(cfg.Exe)
	if err != nil {
		return nil, fmt.Errorf("prepare sandboxes: %w", err)
	}
	p, err := engine.New(ctx, engine.Config{
		Engine: gvisor{exe}, Exe: cfg.Exe, Dir: cfg.Dir, Logger: cfg.Logger, Closed: exe.Close,
	})
	if err != nil {
		return nil, errors.Join(err, exe.Close())
	}
	return p, nil
}

// gvisor starts the engine from a descriptor of this program.
type gvisor struct{ exe *os.File }

// program is the path of this program in a child that holds the descriptor and
// has not executed it yet.
const program = "/proc/self/fd/3"

// self is the path of this program for a process that runs it, and for that
// process's children.
const self = "/proc/self/exe"

func (g gvisor) Name() string { return Name }

// Prepare creates the links by which gVisor finds this program as its helpers.
func (g gvisor) Prepare(dir string) error {
	if err := os.Mkdir(filepath.Join(dir, sidecarDir), 0o700); err != nil {
		return err
	}
	for _, name := range []string{SentryName, PrewarmerName} {
		if err := os.Symlink(self, filepath.Join(dir, sidecarDir, name)); err != nil {
			return err
		}
	}
	return nil
}

func (g gvisor) Bundle(box engine.Box, spec sandbox.Spec) error {
	if err := boot.WriteMemory(box.Dir, spec.Limits.WithDefaults().MemoryBytes); err != nil {
		return err
	}
	if len(engine.Unlimited()) > 0 {
		return oci.WriteBundle(box.Dir, box.Init, spec, oci.Rootless{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())})
	}
	return oci.WriteBundle(box.Dir, box.Init, spec, nil)
}

// logPath makes the engine log to its standard error, a pipe that the service
// reads. Log files would grow without bound if a guest caused errors.
const logPath = "/proc/self/fd/2"

// rootFlag returns the argument that all gVisor processes of an instance have.
func rootFlag(instance string) string { return RootPrefix + filepath.Join(instance, stateDir) }

// Command returns `runsc run`. The service's environment is not passed on,
// because it may hold keys.
func (g gvisor) Command(ctx context.Context, box engine.Box) *exec.Cmd {
	args := []string{Role}
	if len(box.Cgroup) > 0 { // empty without root
		args = append(args, JoinPrefix+strings.Join(box.Cgroup, ","))
	}
	args = append(args,
		rootFlag(box.Instance),
		"--platform=systrap",
		"--network=none",   // loopback only
		"--host-uds=open",  // programs may connect to bind-mounted sockets
		"--overlay2=none",  // the root is read-only, projects are written through
		"--ignore-cgroups", // the command joins the box's cgroup, and its children stay in it
		"--sidecar-usage-policy=STRICT",
		"--host-settings=ignore",
		// Without these, a failed boot shows only as EOF.
		"--log="+logPath, "--log-format=json", "--debug-log="+logPath,
		"run", "--detach", "--bundle", box.Dir, "--pid-file", box.PIDFile, box.ID)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.ExtraFiles = []*os.File{g.exe}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", sidecarEnv + "=" + filepath.Join(box.Instance, sidecarDir)}
	return cmd
}

func (g gvisor) Marks() engine.Marks {
	return engine.Marks{
		Title: "gVisor", State: stateDir,
		Command:       filepath.Base(program),
		HostProcesses: func(inside int) int { return hostProcesses + hostPerGuest*inside },
		Orphans:       []string{"exe", SentryName, "runsc-sandbox", "runsc-gofer", PrewarmerName[:engine.MaxComm]},
		Children:      gofers,
		Files:         files,
		Argument:      rootFlag,
		Run:           run,
	}
}

// run runs a command that cannot see disks of other users: see
// engine.HideDisks. Without root there are no such disks, and no right to mount.
func run(box engine.Box, cmd *exec.Cmd) error {
	if os.Geteuid() != 0 || len(box.Cgroup) == 0 {
		return cmd.Run()
	}
	return engine.InMounts(func() error {
		if err := engine.HideDisks(box.Paths); err != nil {
			return fmt.Errorf("hide disks of other users: %w", err)
		}
		return nil
	}, cmd.Run)
}

// goferRoot is where the root of the sandbox is in the mount namespace of its gofer.
const goferRoot = "/root"

// files implements engine.Marks.Files. The sentry opens files below directories that
// the gofer has opened for it, so it sees the mounts in the gofer's namespace.
func files(box engine.Box) (pid int, root string, err error) {
	pids := gofers(box)
	if len(pids) != 1 {
		return 0, "", fmt.Errorf("the sandbox has %d gofers, not one", len(pids))
	}
	return pids[0], goferRoot, nil
}

// gofers returns the process ids of a sandbox's gofers.
func gofers(box engine.Box) []int {
	var pids []int
	states, _ := filepath.Glob(filepath.Join(box.Instance, stateDir, "*"+box.ID+"*.state"))
	for _, name := range states {
		var state struct {
			GoferPid json.Number `json:"goferPid"`
		}
		raw, err := os.ReadFile(name)
		if err != nil || json.Unmarshal(raw, &state) != nil {
			continue
		}
		if pid, err := strconv.Atoi(state.GoferPid.String()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
