package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/cgroup"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/oci"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/pid1"
)

// box is one sandbox. It implements sandbox.Sandbox.
type box struct {
	provider *Provider
	id       string
	dir      string // bundle, root, pid file
	group    *cgroup.Group
	init     *pid1.Client
	ends     []io.Closer // our ends of the pipes

	logs     *os.File      // what the engine and PID 1 write to standard error
	heard    chan struct{} // closed when nobody reads logs any more
	evidence evidence

	lostOnce sync.Once
	lost     chan struct{}
	watch    sync.WaitGroup

	starved atomic.Bool // the kernel has killed it for want of memory

	closing  sync.Mutex // held for all of Close; guards what follows
	closed   bool
	unreaped []int // killed processes that may be our children
}

var _ sandbox.Sandbox = (*box)(nil)

// lastWords is how long the error of a lost sandbox waits for the engine to
// say why.
const lastWords = 500 * time.Millisecond

// startLimit bounds the start of a sandbox when the caller's context does not.
const startLimit = 60 * time.Second

// start starts the sandbox. What an error leaves, Close removes.
func (b *box) start(ctx context.Context, spec sandbox.Spec) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("it did not start within %s", startLimit))
	defer cancel()
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	err := b.boot(ctx, spec)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err) // "signal: killed" alone says little
	}
	return err
}

func (b *box) boot(ctx context.Context, spec sandbox.Spec) error {
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		return err
	}
	if err := spec.Validate(); err != nil {
		return fmt.Errorf("specification: %w", err)
	}
	root := filepath.Join(b.dir, "root")
	if err := copySkeleton(spec.Root.Path, root); err != nil {
		return err
	}
	spec.Root.Path = root
	if err := oci.WriteBundle(b.dir, b.provider.exe, spec); err != nil {
		return err
	}
	limits := spec.Limits.WithDefaults()
	group, err := b.provider.hierarchy.Create(b.provider.cgroupPath(b.id), cgroup.Limits{
		MemoryBytes: limits.MemoryBytes, CPUs: limits.CPUs, Processes: hostProcesses + hostPerGuest*limits.Processes,
	})
	if err != nil {
		return err
	}
	b.group = group
	conn, err := b.launch(ctx)
	if err != nil {
		return err
	}
	if b.init, err = pid1.NewClient(conn); err != nil {
		return err
	}
	b.watch.Go(func() {
		<-b.init.Lost()
		b.outOfMemory() // before anybody learns of the end and removes the group
		b.lostOnce.Do(func() { close(b.lost) })
	})
	if err := b.init.Ping(ctx); err != nil {
		return fmt.Errorf("PID 1 does not answer: %w%s", err, b.because())
	}
	return nil
}

// launch starts the engine and returns the connection with PID 1.
func (b *box) launch(ctx context.Context) (io.ReadWriteCloser, error) {
	toInit, fromUs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer toInit.Close()
	fromInit, toUs, err := os.Pipe()
	if err != nil {
		_ = fromUs.Close()
		return nil, err
	}
	defer toUs.Close()
	b.ends = append(b.ends, fromUs, fromInit)
	logs, toLogs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer toLogs.Close()
	b.ends = append(b.ends, logs)
	b.logs, b.heard = logs, make(chan struct{})
	b.watch.Go(func() {
		defer close(b.heard)
		b.evidence.follow(logs)
	})

	cmd := b.provider.engine(ctx, b.group, "run", "--detach",
		"--bundle", b.dir, "--pid-file", filepath.Join(b.dir, "pid"), b.id)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = toInit, toUs, toLogs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("start gVisor: %w%s", err, b.because())
	}
	return pid1.Stdio{In: fromInit, Out: fromUs}, nil
}

// engine is a command of gVisor. Nothing of our environment goes with it: it
// is no place for keys.
func (p *Provider) engine(ctx context.Context, join *cgroup.Group, args ...string) *exec.Cmd {
	full := []string{Role}
	if join != nil {
		full = append(full, JoinPrefix+strings.Join(join.Dirs(), ","))
	}
	full = append(full,
		"--root="+filepath.Join(p.dir, "runsc"),
		"--platform=systrap",
		"--network=none",   // no route to anywhere; loopback only
		"--host-uds=open",  // programs may connect to sockets that we bind in
		"--overlay2=none",  // the root is read-only, projects are written through
		"--ignore-cgroups", // the command joins a group of ours, and its children stay in it
		"--sidecar-usage-policy=STRICT",
		"--host-settings=ignore",
		// Without these a failed boot shows as EOF.
		"--log="+logPath, "--log-format=json", "--debug-log="+logPath,
	)
	cmd := exec.CommandContext(ctx, p.exe, append(full, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", sidecarEnv + "=" + filepath.Join(p.dir, "sidecar")}
	cmd.SysProcAttr = engineAttr()
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// engineAttr gives a command of the engine a process group of its own: Ctrl-C
// on our terminal is ours to answer, and orphan tells commands by it.
func engineAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// because is what the engine and PID 1 said before they failed, for errors.
// Nothing that they say later is heard.
func (b *box) because() string {
	if b.logs != nil {
		_ = b.logs.SetReadDeadline(time.Unix(1, 0))
		<-b.heard
	}
	if s := b.evidence.String(); s != "" {
		return "\n" + s
	}
	return ""
}

// ID implements sandbox.Sandbox.
func (b *box) ID() string { return b.id }

// Lost implements sandbox.Sandbox.
func (b *box) Lost() <-chan struct{} { return b.lost }

// Start implements sandbox.Sandbox.
func (b *box) Start(ctx context.Context, cmd sandbox.Command) (sandbox.Process, error) {
	p, err := b.init.Start(ctx, cmd)
	if err != nil {
		return nil, b.explain(err)
	}
	return &process{Process: p, box: b}, nil
}

// EndAll implements sandbox.Sandbox.
func (b *box) EndAll(ctx context.Context) error { return b.explain(b.init.EndAll(ctx)) }

// outOfMemory tells whether the sandbox ran out of memory. It keeps knowing
// when the cgroup that said so is gone.
func (b *box) outOfMemory() bool {
	if b.group.OutOfMemory() {
		b.starved.Store(true)
	}
	return b.starved.Load()
}

// explain adds to a lost sandbox why it was lost, where that is known.
func (b *box) explain(err error) error {
	if !errors.Is(err, sandbox.ErrLost) {
		return err
	}
	if b.outOfMemory() {
		return fmt.Errorf("%w: %w", sandbox.ErrOutOfMemory, err)
	}
	select { // its last words may be on their way
	case <-b.heard:
	case <-time.After(lastWords):
	}
	if crash := b.evidence.Crash(); crash != "" {
		return fmt.Errorf("%w: gVisor crashed: %s", err, crash)
	}
	return err
}

// process adds to a program's end why its sandbox was lost.
type process struct {
	sandbox.Process
	box *box
}

func (p *process) Wait() (sandbox.Exit, error) {
	exit, err := p.Process.Wait()
	return exit, p.box.explain(err)
}

// Signal adds why the sandbox was lost.
func (p *process) Signal(sig syscall.Signal) error { return p.box.explain(p.Process.Signal(sig)) }

// Close implements sandbox.Sandbox. Every step is tried whatever the others
// gave: the talk, the processes, the engine's own state, the files. After an
// error it may be called again.
func (b *box) Close(ctx context.Context) error {
	b.closing.Lock()
	defer b.closing.Unlock()
	if b.closed {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, closeLimit)
	defer cancel()
	var errs []error
	b.outOfMemory()
	if b.init != nil {
		_ = b.init.Close()
	}
	for _, c := range b.ends {
		_ = c.Close() // also closed with the talk
	}
	errs = append(errs, b.end(ctx))
	b.lostOnce.Do(func() { close(b.lost) })
	b.watch.Wait()
	if err := os.RemoveAll(b.dir); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close sandbox: %w", err)
	}
	b.closed = true
	b.provider.forget(b.id)
	return nil
}

// end kills the sandbox's processes, reaps those that became our children, and
// removes the cgroup and the engine's records.
func (b *box) end(ctx context.Context) error {
	pids := b.pids()
	killed, err := b.group.Remove(ctx)
	b.unreaped = append(append(b.unreaped, pids...), killed...)
	slices.Sort(b.unreaped)
	b.unreaped = slices.Compact(b.unreaped)
	errs := []error{err}
	if err := reap(ctx, b.unreaped); err != nil {
		errs = append(errs, err)
	} else {
		b.unreaped = nil
	}
	if b.init == nil { // cut off before the engine wrote down whom it started
		errs = append(errs, b.provider.reapOrphans())
	}
	// The state file, its lock and the control socket are all named by the id,
	// which nothing else has.
	records, err := filepath.Glob(filepath.Join(b.provider.dir, "runsc", "*"+b.id+"*"))
	errs = append(errs, err)
	for _, r := range records {
		if err := os.Remove(r); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// pids are the sentry and the gofer, from the engine's records: they are our
// children, and when they have died they are not in the cgroup any more.
func (b *box) pids() []int {
	var pids []int
	if raw, err := os.ReadFile(filepath.Join(b.dir, "pid")); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil {
			pids = append(pids, pid)
		}
	}
	states, _ := filepath.Glob(filepath.Join(b.provider.dir, "runsc", "*"+b.id+"*.state"))
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

// reap waits for the killed processes that have become our children. The
// others are somebody else's to reap.
func reap(ctx context.Context, pids []int) error {
	var errs []error
	for _, pid := range pids {
		errs = append(errs, reapOne(ctx, pid))
	}
	return errors.Join(errs...)
}

func reapOne(ctx context.Context, pid int) error {
	if pid <= 1 {
		return nil
	}
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || got == pid:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d of the sandbox does not end: %w", pid, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}
