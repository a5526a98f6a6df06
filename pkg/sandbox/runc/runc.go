// Package runc is the engine runc, embedded in our own program and run from
// memory. It is faster than gVisor and needs less memory; but its guests call
// the kernel of the machine, so that a fault of the kernel is a way out. Only
// an operator who says so gets it.
//
// A sandbox is its own processes and nothing else: runc ends once PID 1 runs.
package runc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/oci"
)

// Name is the engine's name as flags spell it.
const Name = "runc"

// stateDir is where runc keeps its records, below the instance's directory.
const stateDir = "runc"

// initProcesses is how many threads the supervisor may have beside the
// processes of the guest, who has a limit of their own.
const initProcesses = 64

// Config of the provider.
type Config struct {
	Exe    string // absolute path of our program, which everybody may execute
	Dir    string // where bundles and engine state live; shared by instances
	UID    uint32 // the sandbox's user, who owns the files of projects on the disk
	GID    uint32 // the sandbox's group
	Logger *slog.Logger
}

// New makes a provider and removes what dead instances have left in the same
// directory. The caller must Close it. A program without runc fails with
// dreamcore.CodeSetup.
func New(ctx context.Context, cfg Config) (*engine.Provider, error) {
	if err := executable(cfg.Exe); err != nil {
		return nil, err
	}
	if err := (oci.Kernel{UID: cfg.UID, GID: cfg.GID}).Validate(); err != nil {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "runc's sandboxes cannot have this user", Err: err,
			Hint: "set sandbox_uid and sandbox_gid to the ids of an ordinary user, such as 10000",
		}
	}
	hide, err := hidden()
	if err != nil {
		return nil, fmt.Errorf("prepare sandboxes: %w", err)
	}
	program, err := shared.open()
	if err != nil {
		return nil, err
	}
	p, err := start(ctx, cfg, runc{cfg: cfg, program: program, hide: hide})
	if err != nil {
		return nil, errors.Join(err, shared.close())
	}
	return p, nil
}

func start(ctx context.Context, cfg Config, r runc) (p *engine.Provider, err error) {
	if !filepath.IsAbs(cfg.Exe) || !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("prepare sandboxes: %q and %q must be absolute paths", cfg.Exe, cfg.Dir)
	}
	if r.ranges, err = openRanges(cfg.Dir); err != nil {
		return nil, fmt.Errorf("prepare the user ids of sandboxes: %w", err)
	}
	p, err = engine.New(ctx, engine.Config{
		Engine: r, Exe: cfg.Exe, Dir: cfg.Dir, Logger: cfg.Logger,
		Closed: func() error { return errors.Join(r.ranges.close(), shared.close()) },
	})
	if err != nil {
		return nil, errors.Join(err, r.ranges.close())
	}
	return p, nil
}

// executable refuses a program that only root may execute: root inside is
// somebody else.
func executable(exe string) error {
	fi, err := os.Stat(exe)
	if err != nil {
		return fmt.Errorf("prepare sandboxes: %w", err)
	}
	if fi.Mode().Perm()&0o005 != 0o005 {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the program may not be executed by everybody, and runc's sandboxes run it as somebody else",
			Hint: "chmod 755 " + exe,
		}
	}
	return nil
}

// hidden are the mount points of the hierarchies of cgroup v1, and of v2 beside
// them, that our groups do not live in.
func hidden() ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, err
	}
	v1 := false
	var hide []string
	for _, m := range mounts {
		controllers := strings.Split(m.VFSOptions, ",")
		if m.FSType == "cgroup" && slices.ContainsFunc(controllers, func(c string) bool { return slices.Contains(ours, c) }) {
			v1 = true
		} else {
			hide = append(hide, m.Mountpoint)
		}
	}
	if !v1 { // v2 alone
		return nil, nil
	}
	return hide, nil
}

// ours are the controllers of cgroup v1 that our groups have.
var ours = []string{"memory", "pids", "cpu", "devices"}

type runc struct {
	cfg     Config
	program *os.File
	hide    []string
	ranges  *ranges
}

func (r runc) Name() string { return Name }

// Prepare makes nothing, for runc makes the directory of its records: it tries
// what the kernel and the file system must be able to do.
func (r runc) Prepare(dir string) error {
	init := filepath.Join(dir, engine.SupervisorName)
	if _, err := os.Lstat(init); err != nil {
		init = r.cfg.Exe
	}
	return checkMappable(init, dir, oci.Kernel{UID: r.cfg.UID, GID: r.cfg.GID})
}

// Bundle writes the bundle for a root that is where the room has it.
func (r runc) Bundle(box engine.Box, spec sandbox.Spec) error {
	ids, err := r.ranges.take(box.ID)
	if err != nil {
		return err
	}
	if err := give(box.Root, ids); err != nil {
		return fmt.Errorf("give the root to the sandbox: %w", err)
	}
	at, err := place(r.paths(box, spec))
	if err != nil {
		return err
	}
	if err := os.Symlink(at, placeLink(box)); err != nil {
		return err
	}
	k := r.kernel(box, ids)
	if err := os.WriteFile(k.Userns, nil, 0o600); err != nil { // to mount the namespace over
		return err
	}
	spec.Root.Path = at
	return oci.WriteBundle(box.Dir, box.Init, spec, &k)
}

// placeLink is a link in the bundle that tells where its root is in the room.
func placeLink(box engine.Box) string { return filepath.Join(box.Dir, "at") }

// paths are all that runc needs of the machine.
func (r runc) paths(box engine.Box, spec sandbox.Spec) []string {
	paths := []string{box.Instance, box.Init}
	for _, m := range append(append([]sandbox.Mount(nil), spec.Root.Mounts...), spec.Mounts...) {
		if m.Source != "" {
			paths = append(paths, m.Source)
		}
	}
	return paths
}

// give makes the directories of a root belong to root inside, who makes the
// mount points that are missing. Files may be other sandboxes' too.
func give(root string, ids oci.Range) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return os.Lchown(path, int(ids.Root()), int(ids.Root()))
	})
}

// Command is `runc run`. It is executed from its sealed memory, and nothing of
// our environment goes with it: it is no place for keys. It puts PID 1 into the
// box's group before PID 1 does anything, and sets no limits of its own there.
func (r runc) Command(ctx context.Context, box engine.Box) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3",
		"--root="+filepath.Join(box.Instance, stateDir), "--log-format=json",
		"run", "--detach", "--bundle="+box.Dir, "--pid-file="+box.PIDFile, box.ID)
	cmd.ExtraFiles = []*os.File{r.program}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	return cmd
}

// run runs a command in a room.
func (r runc) run(box engine.Box, cmd *exec.Cmd) error {
	at, err := os.Readlink(placeLink(box))
	if err != nil {
		return err
	}
	ids, ok := r.ranges.of(box.ID)
	if !ok {
		return fmt.Errorf("the sandbox %s has no user ids", box.ID)
	}
	k := r.kernel(box, ids)
	return room{root: box.Root, at: at, hide: r.hide}.do(func() error {
		if err := bindUserns(box.Init, k, k.Userns); err != nil {
			return err
		}
		return cmd.Run()
	})
}

func (r runc) Marks() engine.Marks {
	return engine.Marks{
		Title: "runc", State: stateDir,
		HostProcesses: func(inside int) int { return initProcesses + inside },
		// runc renames its processes as they go. The command itself, for whom
		// somebody waits, is called by its descriptor.
		Orphans: []string{"exe", "runc:[0:PARENT]", "runc:[1:CHILD]", "runc:[2:INIT]", oci.InitRole},
		Run:     r.run,
		Ended:   func(box engine.Box) { r.ranges.give(box.ID) },
	}
}
