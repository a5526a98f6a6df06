// Package runc implements the runc engine. The runc binary is embedded in this
// program and executed from memory. It is faster than gVisor and needs less
// memory, but its guests call the host's kernel, so that a kernel vulnerability
// lets them escape. It is used only if the operator selects it explicitly.
//
// A sandbox consists only of its own processes: runc exits once PID 1 runs.
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
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/oci"
)

// Name is the engine's name in flags and settings.
const Name = "runc"

// stateDir is where runc keeps its records, below the instance's directory.
const stateDir = "runc"

// initProcesses is how many threads the supervisor may have in addition to the
// guest's processes, which have a limit of their own.
const initProcesses = 64

// Config configures the provider.
type Config struct {
	Exe    string // absolute path of this program, executable by all users
	Dir    string // holds bundles and engine state; shared by instances
	UID    uint32 // the sandbox's user, which owns project files on disk
	GID    uint32 // the sandbox's group
	Logger *slog.Logger
}

// New returns a provider after removing the residue of dead instances from the
// same directory. The caller must Close it. It returns dreamcore.CodeSetup if the
// program was built without runc.
func New(ctx context.Context, cfg Config) (*engine.Provider, error) {
	if err := executable(cfg.Exe); err != nil {
		return nil, err
	}
	if _, _, err := (oci.Kernel{UID: cfg.UID, GID: cfg.GID}).Mappings(); err != nil {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "this user cannot run runc sandboxes", Err: err,
			Hint: "set sandbox_uid and sandbox_gid to the ids of an ordinary user, such as 10000",
		}
	}
	if !filepath.IsAbs(cfg.Exe) || !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("prepare sandboxes: %q and %q must be absolute paths", cfg.Exe, cfg.Dir)
	}
	hide, err := hidden()
	if err != nil {
		return nil, fmt.Errorf("prepare sandboxes: %w", err)
	}
	program, err := shared.open()
	if err != nil {
		return nil, err
	}
	ids, err := openRanges(cfg.Dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare user ids for sandboxes: %w", err), shared.close())
	}
	free := func() error { return errors.Join(ids.close(), shared.close()) }
	p, err := engine.New(ctx, engine.Config{
		Engine: runc{cfg, program, hide, ids}, Exe: cfg.Exe, Dir: cfg.Dir, Logger: cfg.Logger, Closed: free,
	})
	if err != nil {
		return nil, errors.Join(err, free())
	}
	return p, nil
}

// executable returns an error if only root may execute the program, because
// root inside is an ordinary user for the host.
func executable(exe string) error {
	fi, err := os.Stat(exe)
	if err != nil {
		return fmt.Errorf("prepare sandboxes: %w", err)
	}
	if fi.Mode().Perm()&0o005 != 0o005 {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "runc sandboxes run the program as another user, but it is not executable by all users",
			Hint: "chmod 755 " + exe,
		}
	}
	return nil
}

// hidden returns the mount points of cgroup v1 hierarchies, and of v2 alongside
// them, in which the service creates no cgroups.
func hidden() ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, err
	}
	v1 := false
	var hide []string
	for _, m := range mounts {
		controllers := strings.Split(m.VFSOptions, ",")
		if m.FSType == "cgroup" && slices.ContainsFunc(controllers, func(c string) bool { return slices.Contains(controllersInUse, c) }) {
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

// controllersInUse are the cgroup v1 controllers of the service's cgroups.
var controllersInUse = []string{"memory", "pids", "cpu", "devices"}

type runc struct {
	cfg     Config
	program *os.File
	hide    []string
	ranges  *ranges
}

func (r runc) Name() string { return Name }

// Prepare checks what the kernel and the file system must support. runc itself
// creates the directory of its records.
func (r runc) Prepare(dir string) error {
	init := filepath.Join(dir, engine.SupervisorName)
	if _, err := os.Lstat(init); err != nil {
		init = r.cfg.Exe
	}
	return checkMappable(init, dir, oci.Kernel{UID: r.cfg.UID, GID: r.cfg.GID})
}

// Bundle writes the bundle for a root at its path in the engine's mounts.
func (r runc) Bundle(box engine.Box, spec sandbox.Spec) error {
	ids, err := r.ranges.reserve(box.ID)
	if err != nil {
		return err
	}
	if err := chownDirs(box.Root, ids); err != nil {
		return fmt.Errorf("change owner of the root: %w", err)
	}
	at, err := freeMountPoint(box.Paths)
	if err != nil {
		return err
	}
	if err := os.Symlink(at, rootLink(box)); err != nil {
		return err
	}
	k := r.kernel(box, ids)
	if err := os.WriteFile(k.Userns, nil, 0o600); err != nil { // mount point of the namespace
		return err
	}
	spec.Root.Path = at
	return oci.WriteBundle(box.Dir, box.Init, spec, &k)
}

// rootLink is a link in the bundle to the root's path in the engine's mounts.
func rootLink(box engine.Box) string { return filepath.Join(box.Dir, "at") }

// chownDirs makes the directories of a root belong to root inside, which creates
// missing mount points. Files keep their owner: other sandboxes may share them.
func chownDirs(root string, ids oci.Range) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return os.Lchown(path, int(ids.Root()), int(ids.Root()))
	})
}

// Command returns `runc run`, executed from its sealed memory. The service's
// environment is not passed on, because it may hold keys. runc moves PID 1 into
// the box's cgroup before PID 1 does anything, and sets no limits of its own.
func (r runc) Command(ctx context.Context, box engine.Box) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3",
		"--root="+filepath.Join(box.Instance, stateDir), "--log-format=json",
		"run", "--detach", "--bundle="+box.Dir, "--pid-file="+box.PIDFile, box.ID)
	cmd.ExtraFiles = []*os.File{r.program}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	return cmd
}

// run runs a command in the engine's mounts.
func (r runc) run(box engine.Box, cmd *exec.Cmd) error {
	at, err := os.Readlink(rootLink(box))
	if err != nil {
		return err
	}
	ids, ok := r.ranges.of(box.ID)
	if !ok {
		return fmt.Errorf("sandbox %s has no user ids", box.ID)
	}
	k := r.kernel(box, ids)
	return mounts{root: box.Root, at: at, hide: r.hide}.run(func() error {
		err := withUserns(box.Init, k, func(userns string) error {
			if err := unix.Mount(userns, k.Userns, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("mount user namespace at %s: %w", k.Userns, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return cmd.Run()
	})
}

func (r runc) Marks() engine.Marks {
	return engine.Marks{
		Title: "runc", State: stateDir,
		HostProcesses: func(inside int) int { return initProcesses + inside },
		// runc renames its processes while it runs. The command itself, which is
		// waited for, is named after its descriptor.
		Orphans: []string{"exe", "runc:[0:PARENT]", "runc:[1:CHILD]", "runc:[2:INIT]", oci.InitRole},
		Run:     r.run,
		Ended:   func(box engine.Box) { r.ranges.release(box.ID) },
	}
}
