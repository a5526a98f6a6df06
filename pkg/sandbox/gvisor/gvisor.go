// Package gvisor runs sandboxes under gVisor. The engine is our own program
// (see the package runsc): it is started as a child for every order and never
// runs inside the service.
//
// A sandbox is two processes: the sentry, which is the kernel that guests see,
// and the gofer, which opens files for it. Both belong to a cgroup of their
// own, and the supervisor inside holds the far end of two pipes: when this
// process dies, the pipes close, the supervisor ends and the sandbox with it.
// What that leaves behind, files and empty cgroups, the next start sweeps.
package gvisor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/cgroup"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// How our program is told that it is part of gVisor.
const (
	Role          = "runsc"                   // first argument
	JoinPrefix    = "--join-cgroups="         // second argument: directories, by commas
	PrewarmerName = "gvisor-sentry-prewarmer" // argv[0]
	sentryName    = "gvisor_sentry"           // argv[0]
	sidecarEnv    = "GVISOR_SIDECAR_BINARIES_DIR"
)

// The sentry, the gofer and the stub processes of the systrap platform need
// threads on the host, about two for each of the guest's. Too few kill the
// sentry, so the engine's own limit of the guest's processes must bite first.
const (
	hostProcesses = 2048
	hostPerGuest  = 4
)

// Config of a Provider.
type Config struct {
	Exe    string // absolute path of our program, built without cgo
	Dir    string // where bundles, sockets and engine state live; shared by instances
	Logger *slog.Logger
}

// Provider implements sandbox.Provider.
type Provider struct {
	exe       string
	base      string // Config.Dir
	instance  string // name of this instance
	dir       string // base/instance
	lock      *os.File
	hierarchy *cgroup.Hierarchy
	log       *slog.Logger

	mu       sync.Mutex
	closed   bool
	open     map[string]*box // running
	starting sync.WaitGroup  // Create calls; Add only under mu while not closed
	ctx      context.Context // ends when Close begins
	cancel   context.CancelCauseFunc

	closing  sync.Mutex // held for all of Close
	finished bool       // guarded by closing
}

// errClosed is why a Create fails that comes after Close or is overtaken by it.
var errClosed = errors.New("the provider is closed")

var _ sandbox.Provider = (*Provider)(nil)

// New makes a provider and removes what dead instances have left in the same
// directory. The caller must Close it.
func New(ctx context.Context, cfg Config) (*Provider, error) {
	if os.Geteuid() != 0 {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "sandboxes need root",
			Hint: "run the command with sudo, or point it at a server with --endpoint",
		}
	}
	for _, path := range []string{cfg.Exe, cfg.Dir} {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("prepare sandboxes: %q is not an absolute path", path)
		}
	}
	h, err := cgroup.Detect()
	if err != nil {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "sandboxes cannot be bounded on this machine", Err: err,
			Hint: "mount cgroup v2 (or v1 with memory, pids and cpu) at /sys/fs/cgroup",
		}
	}
	p := &Provider{exe: cfg.Exe, base: filepath.Clean(cfg.Dir), hierarchy: h, log: cfg.Logger, open: map[string]*box{}}
	p.ctx, p.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("prepare sandboxes: %w", err)
	}
	if err := p.sweep(ctx); err != nil {
		return nil, fmt.Errorf("sweep what an earlier run left: %w", err)
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

// claim makes this instance's directory, locked for as long as we live.
func (p *Provider) claim() error {
	p.instance = "i-" + randomID()
	p.dir = filepath.Join(p.base, p.instance)
	// The lock is taken under a name that sweep does not look at.
	tmp := filepath.Join(p.base, "new-"+p.instance)
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	lock, err := lockFile(filepath.Join(tmp, "lock"))
	if err == nil {
		_, err = fmt.Fprintln(lock, os.Getpid()) // for those who find it locked
	}
	if err == nil {
		err = os.Mkdir(filepath.Join(tmp, "sidecar"), 0o700)
	}
	for _, name := range []string{sentryName, PrewarmerName} {
		if err == nil {
			err = os.Symlink(p.exe, filepath.Join(tmp, "sidecar", name))
		}
	}
	if err == nil {
		err = os.Rename(tmp, p.dir)
	}
	if err != nil {
		if lock != nil {
			_ = lock.Close()
		}
		_ = os.RemoveAll(tmp)
		return err
	}
	p.lock = lock
	return nil
}

// Dir is this instance's own directory. What is put below it is swept with the
// instance should this process die.
func (p *Provider) Dir() string { return p.dir }

// Name implements sandbox.Provider.
func (p *Provider) Name() string { return "gvisor" }

// Create implements sandbox.Provider.
func (p *Provider) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	b := &box{provider: p, id: "s-" + randomID(), lost: make(chan struct{})}
	b.dir = filepath.Join(p.dir, b.id)
	b.group = p.hierarchy.Open(p.cgroupPath(b.id))
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
			p.log.Error("clean up a sandbox that did not start", "sandbox", b.id, "error", cerr)
		}
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	return b, nil
}

// enter lists a sandbox that has started among those that Close ends.
func (p *Provider) enter(b *box) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errClosed
	}
	p.open[b.id] = b
	return nil
}

func (p *Provider) cgroupPath(id string) string {
	return filepath.Join(dreamcore.AppName, p.instance, id)
}

// closeLimit bounds the removal of one sandbox.
const closeLimit = 20 * time.Second

// Close implements sandbox.Provider. A Create that is under way fails. When
// Close returns an error, it may be called again.
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
	p.starting.Wait() // not for long: their context has ended

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
		return err // the directory stays locked as long as we live
	}
	p.finished = true
	return p.lock.Close()
}

func (p *Provider) forget(id string) {
	p.mu.Lock()
	delete(p.open, id)
	p.mu.Unlock()
}

// randomID returns 16 hexadecimal digits: fixed-length, because the engine
// takes prefixes of ids for the ids themselves.
func randomID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// lockFile creates and locks a file, or fails with EWOULDBLOCK when another
// process has it. Closing the file unlocks it.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
