// Package engine runs sandboxes under any OCI engine. The packages gvisor and
// runc above it know how their engine is started and what it leaves behind. The
// engine is started as a child process for every sandbox and never runs inside
// the service.
//
// The processes of a sandbox belong to a cgroup of their own, and the
// supervisor inside holds the far end of two pipes: when this process dies,
// the pipes close, the supervisor ends and the sandbox with it. The next start
// sweeps the files and empty cgroups that remain.
//
// The files: engine.go is the provider, box.go one sandbox, maintain.go its
// cleaning and checks, sweep.go and orphan.go remove what dead processes left,
// rootless.go is the case without root, view.go the mounts that an engine sees.
package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/system/cgroup"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Engine is the part that differs between engines. It holds nothing that must
// be closed before the provider has ended every sandbox.
type Engine interface {
	// Name returns the engine's name as flags spell it.
	Name() string
	// Prepare creates what the sandboxes of an instance share, in the instance's
	// directory. The directory is renamed afterwards.
	Prepare(dir string) error
	// Bundle creates the bundle of a sandbox: config.json in box.Dir. The root
	// is already at box.Root.
	Bundle(box Box, spec sandbox.Spec) error
	// Command starts the sandbox of a bundle, writes the id of its first
	// process to box.PIDFile and ends once it runs. Its standard input and
	// output become those of PID 1; it reports errors on standard error. The
	// processes that it starts are in the cgroup of the box.
	Command(ctx context.Context, box Box) *exec.Cmd
	// Marks returns how the engine's processes and records are recognized.
	Marks() Marks
}

// Box holds the names and paths of one sandbox of an engine.
type Box struct {
	ID       string
	Instance string   // directory of the instance
	Dir      string   // the bundle
	Root     string   // the root file system, a copy for this box alone
	Init     string   // the program on the host that becomes PID 1
	PIDFile  string   // where Command writes
	Cgroup   []string // directories of the group of its processes; empty without root
	// Paths are the files of the host that the engine needs, as the function
	// Paths returns them. They are set before Bundle is called.
	Paths []string
	// CgroupPath is the same group, relative to the mount points of the hierarchies.
	CgroupPath string
}

// Marks describe how an engine's processes and records are recognized.
type Marks struct {
	Title string // the engine's name in messages
	// State is the directory, below the instance's, where the engine keeps
	// records: files and directories whose names have the id of the sandbox.
	State string
	// HostProcesses returns how many processes and threads of the host a number
	// of processes inside may take.
	HostProcesses func(inside int) int
	// Orphans are the names, as the kernel truncates them, of processes that the
	// engine starts and that may become our children.
	Orphans []string
	// Run runs the result of Command to its end; nil calls Cmd.Run.
	Run func(box Box, cmd *exec.Cmd) error
	// Ended frees what the engine holds for a box whose processes have ended.
	// It is called at least once for every box that Bundle was called with. It
	// may be nil.
	Ended func(box Box)
	// Command is the name of the process of Engine.Command until it changes it;
	// "" means the name of the program.
	Command string
	// Argument returns an argument that all processes of an instance's sandboxes
	// have on their command lines, besides the id of the sandbox. It is nil if
	// the engine does not run without root.
	Argument func(instance string) string
	// Files returns the process whose mount namespace a sandbox takes its files
	// from, and where its root is there, so that directories can be mounted after
	// the start. It is nil if the engine does not show such mounts to the sandbox.
	Files func(box Box) (pid int, root string, err error)
	// Children returns the processes in the engine's records that become our
	// children, except the first one of the sandbox. It may be nil.
	Children func(box Box) []int
}

// Config of a Provider.
type Config struct {
	Engine Engine
	Exe    string // absolute path of our program, built without cgo
	Dir    string // where bundles, sockets and engine state live; shared by instances
	Logger *slog.Logger
	// Closed frees what the engine holds, after every sandbox has ended. It is
	// called once if New succeeds, and never if New fails. It may be nil.
	Closed func() error
}

// Provider implements sandbox.Provider.
type Provider struct {
	cfg       Config
	marks     Marks
	instance  string // name of this instance
	dir       string // its directory, in that of cfg
	lock      *os.File
	hierarchy *cgroup.Hierarchy // nil without root
	log       *slog.Logger

	mu       sync.Mutex
	closed   bool
	open     map[string]*box // running
	starting sync.WaitGroup  // Create calls; Add only under mu while not closed
	ctx      context.Context // ends when Close begins
	cancel   context.CancelCauseFunc

	closing  sync.Mutex // held for all of Close
	finished bool       // guarded by closing

	share sync.Once // logs a failure to bound what all sandboxes take
}

// errClosed is the error of a Create that begins after Close, or before it and is
// cancelled by it.
var errClosed = errors.New("the provider is closed")

var _ sandbox.Provider = (*Provider)(nil)

// New creates a provider and removes what dead instances have left in the same
// directory. The caller must Close it.
func New(ctx context.Context, cfg Config) (*Provider, error) {
	for _, path := range []string{cfg.Exe, cfg.Dir} {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("prepare sandboxes: %q is not an absolute path", path)
		}
	}
	h, err := detect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	p := &Provider{cfg: cfg, marks: cfg.Engine.Marks(), hierarchy: h, log: cfg.Logger, open: map[string]*box{}}
	p.ctx, p.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("prepare sandboxes: %w", err)
	}
	if err := p.sweep(ctx); err != nil {
		return nil, fmt.Errorf("remove what an earlier run left: %w", err)
	}
	// Processes of a sandbox whose parent, the engine's command, has ended
	// become ours, so that we can reap them: a zombie sentry counts as running.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become subreaper: %w", err)
	}
	if err := p.claim(); err != nil {
		return nil, fmt.Errorf("prepare sandboxes: %w", err)
	}
	return p, nil
}

// detect finds the cgroups that bound sandboxes. It returns nil without root,
// after it has checked that the engine runs without.
func detect(ctx context.Context, cfg Config) (*cgroup.Hierarchy, error) {
	if rootless() {
		return nil, checkRootless(ctx, cfg)
	}
	h, err := cgroup.Detect()
	if err != nil {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the resources of sandboxes cannot be limited on this machine", Err: err,
			Hint: "mount cgroup v2 (or v1 with memory, pids and cpu) at /sys/fs/cgroup",
		}
	}
	return h, nil
}

// claim creates this instance's directory, locked for as long as this process lives.
func (p *Provider) claim() error {
	p.instance = "i-" + randomID()
	p.dir = filepath.Join(p.cfg.Dir, p.instance)
	// It is locked under a name that sweep ignores.
	tmp := filepath.Join(p.cfg.Dir, "new-"+p.instance)
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	lock, err := lockFile(filepath.Join(tmp, "lock"))
	if err == nil {
		_, err = fmt.Fprintln(lock, os.Getpid()) // for a process that finds it locked
	}
	if err == nil && p.hierarchy != nil {
		err = os.WriteFile(filepath.Join(tmp, cgroupFile), []byte(p.hierarchy.Base()), 0o600)
	}
	if err == nil {
		err = p.unpack(tmp)
	}
	if err == nil {
		err = p.cfg.Engine.Prepare(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, p.dir)
	}
	if err != nil {
		if lock != nil {
			_ = lock.Close()
		}
		_ = os.RemoveAll(tmp) // what stays is swept by its name
		return err
	}
	p.lock = lock
	return nil
}

// Dir returns this instance's own directory. Files below it are swept with the
// instance if this process dies.
func (p *Provider) Dir() string { return p.dir }

// Name implements sandbox.Provider.
func (p *Provider) Name() string { return p.cfg.Engine.Name() }

// BindsLate reports whether the sandboxes implement sandbox.Binder in fact: the
// engine supports it, and the service and the kernel permit it.
func (p *Provider) BindsLate() bool {
	return p.marks.Files != nil && p.hierarchy != nil && mayBind() == nil
}

// Create implements sandbox.Provider.
func (p *Provider) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	b := p.newBox("s-" + randomID())
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, fmt.Errorf("create sandbox: %w", errClosed)
	}
	p.starting.Add(1)
	p.mu.Unlock()
	defer p.starting.Done()

	starting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.ctx, func() { cancel(errClosed) })()
	err := b.start(starting, spec)
	if err == nil {
		err = p.enter(b)
	}
	if err != nil {
		if cerr := b.Close(context.WithoutCancel(ctx)); cerr != nil {
			p.log.Error("clean up a sandbox that failed to start", "sandbox", b.Box.ID, "error", cerr)
		}
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	return b, nil
}

// enter adds a sandbox that has started to those that Close ends.
func (p *Provider) enter(b *box) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errClosed
	}
	p.open[b.Box.ID] = b
	return nil
}

func (p *Provider) newBox(id string) *box {
	dir := filepath.Join(p.dir, id)
	b := &box{
		provider: p, lost: make(chan struct{}),
		Box: Box{
			ID: id, Instance: p.dir, Dir: dir, Init: p.init(),
			Root: filepath.Join(dir, "root"), PIDFile: filepath.Join(dir, "pid"),
		},
	}
	if p.hierarchy != nil {
		b.group = p.hierarchy.Open(p.cgroupPath(id))
		b.Cgroup, b.CgroupPath = b.group.Dirs(), p.hierarchy.Path(p.cgroupPath(id))
	}
	return b
}

func (p *Provider) cgroupPath(id string) string {
	return filepath.Join(dreamcore.AppName, p.instance, id)
}

// reportShare logs, once, why sandboxes compete with the service.
func (p *Provider) reportShare(err error) {
	if err != nil {
		p.share.Do(func() {
			p.log.Warn("sandboxes compete with the service: what all of them take together cannot be bounded", "error", err)
		})
	}
}

// closeLimit bounds the removal of one sandbox.
const closeLimit = 20 * time.Second

// Close implements sandbox.Provider. A Create in progress fails. After an error,
// Close may be called again.
func (p *Provider) Close(ctx context.Context) error {
	p.closing.Lock()
	defer p.closing.Unlock()
	if p.finished {
		return nil
	}
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel(errClosed)
	p.starting.Wait() // soon: their context has ended

	p.mu.Lock()
	boxes := slices.Collect(maps.Values(p.open))
	p.mu.Unlock()
	errs := make([]error, len(boxes))
	var closing sync.WaitGroup
	for i, b := range boxes {
		closing.Go(func() { errs[i] = b.Close(ctx) })
	}
	closing.Wait()
	errs = append(errs, p.removeInstance(ctx, p.instance))
	if err := errors.Join(errs...); err != nil {
		return err // the directory stays locked as long as this process lives
	}
	p.finished = true
	err := p.lock.Close()
	if p.cfg.Closed != nil {
		err = errors.Join(err, p.cfg.Closed())
	}
	return err
}

func (p *Provider) forget(id string) {
	p.mu.Lock()
	delete(p.open, id)
	p.mu.Unlock()
}

// randomID returns 16 hexadecimal digits. The length is fixed because the engine
// accepts a prefix of an id as the id.
func randomID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// lockFile creates and locks a file. It fails with EWOULDBLOCK while another
// process holds the lock. Closing the file unlocks it.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := statefile.TryLock(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
