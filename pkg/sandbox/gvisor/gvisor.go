// Package gvisor is the engine gVisor, compiled into our own program (see the
// package runsc).
//
// A sandbox is two processes: the sentry, which is the kernel that guests see,
// and the gofer, which opens files for it.
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

// Name is the engine's name as flags spell it.
const Name = "gvisor"

// How our program is told that it is part of gVisor.
const (
	Role          = "runsc"                   // first argument
	JoinPrefix    = "--join-cgroups="         // second argument: directories, by commas
	RootPrefix    = "--root="                 // an argument of all: a directory below the instance's
	PrewarmerName = "gvisor-sentry-prewarmer" // argv[0]
	SentryName    = "gvisor_sentry"           // argv[0]
	sidecarEnv    = "GVISOR_SIDECAR_BINARIES_DIR"
	sidecarDir    = "sidecar"
	stateDir      = "runsc"
)

// The sentry, the gofer and the stub processes of the systrap platform need
// threads on the host, about two for each of the guest's. Too few kill the
// sentry, so the engine's own limit of the guest's processes must bite first.
const (
	hostProcesses = 2048
	hostPerGuest  = 4
)

// Config of the provider.
type Config struct {
	Exe    string // absolute path of our program, built without cgo
	Dir    string // where bundles, sockets and engine state live; shared by instances
	Logger *slog.Logger
}

// New makes a provider and removes what dead instances have left in the same
// directory. The caller must Close it.
//
// Sandboxes are started from the program as it is now: that it is replaced or
// removed while a service runs keeps no sandbox from starting, and starts none
// with a program that is not the service's own.
func New(ctx context.Context, cfg Config) (*engine.Provider, error) {
	if !filepath.IsAbs(cfg.Exe) {
		return nil, fmt.Errorf("prepare sandboxes: the program %q is not an absolute path", cfg.Exe)
	}
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

// gvisor starts the engine from a descriptor of our program.
type gvisor struct{ exe *os.File }

// program is the path of our program for a child of ours that is given the
// descriptor, before it becomes the program.
const program = "/proc/self/fd/3"

// self is our program for a process that runs it, and for a child of that.
const self = "/proc/self/exe"

func (g gvisor) Name() string { return Name }

// Prepare lets gVisor find our program as its own helpers.
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

// logPath is where the engine writes its logs: into its standard error, which
// is a pipe that we read. Files would grow as a guest likes.
const logPath = "/proc/self/fd/2"

// rootFlag is an argument that all of gVisor's processes of an instance have.
func rootFlag(instance string) string { return RootPrefix + filepath.Join(instance, stateDir) }

// Command is `runsc run`. Nothing of our environment goes with it: it is no
// place for keys.
func (g gvisor) Command(ctx context.Context, box engine.Box) *exec.Cmd {
	args := []string{Role}
	if len(box.Cgroup) > 0 { // none without root
		args = append(args, JoinPrefix+strings.Join(box.Cgroup, ","))
	}
	args = append(args,
		rootFlag(box.Instance),
		"--platform=systrap",
		"--network=none",   // no route to anywhere; loopback only
		"--host-uds=open",  // programs may connect to sockets that we bind in
		"--overlay2=none",  // the root is read-only, projects are written through
		"--ignore-cgroups", // the command joins a group of ours, and its children stay in it
		"--sidecar-usage-policy=STRICT",
		"--host-settings=ignore",
		// Without these a failed boot shows as EOF.
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
		Argument:      rootFlag,
		Run:           run,
	}
}

// run runs a command that sees no disk of another user: see engine.HideDisks.
// Without root there are no such disks, and mounts are not ours to change.
func run(box engine.Box, cmd *exec.Cmd) error {
	if os.Geteuid() != 0 || len(box.Cgroup) == 0 {
		return cmd.Run()
	}
	return engine.InMounts(func() error {
		if err := engine.HideDisks(box.Paths); err != nil {
			return fmt.Errorf("hide the disks of other users: %w", err)
		}
		return nil
	}, cmd.Run)
}

// gofers are the gofers of a sandbox.
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
