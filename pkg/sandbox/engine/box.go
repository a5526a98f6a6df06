package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
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

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/pid1"
	"github.com/notef-neighbor/dreamcore/pkg/system/cgroup"
)

// box is one sandbox. It implements sandbox.Sandbox.
type box struct {
	Box
	provider *Provider
	group    *cgroup.Group // nil without root
	init     *pid1.Client
	ends     []io.Closer // our ends of the pipes

	logs     *os.File      // what the engine and PID 1 write to standard error
	logsRead chan struct{} // closed when logs is no longer read
	evidence evidence

	lostOnce sync.Once
	lost     chan struct{}
	watch    sync.WaitGroup

	oomKilled atomic.Bool // it was out of memory and has been killed

	closing  sync.Mutex // held for all of Close; guards the fields below
	closed   bool
	unreaped []int    // killed processes that may be our children
	late     []string // Spec.Late; set by boot
}

var _ sandbox.Sandbox = (*box)(nil)

// reasonDelay is how long the error of a lost sandbox waits for the engine to
// write the reason.
const reasonDelay = 500 * time.Millisecond

// startLimit bounds the start of a sandbox when the caller's context does not.
const startLimit = 60 * time.Second

// start starts the sandbox. After an error, Close removes what remains.
func (b *box) start(ctx context.Context, spec sandbox.Spec) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("it did not start within %s", startLimit))
	defer cancel()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := b.boot(ctx, spec)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err) // "signal: killed" alone explains little
	}
	return err
}

func (b *box) boot(ctx context.Context, spec sandbox.Spec) error {
	if err := os.Mkdir(b.Dir, 0o700); err != nil {
		return err
	}
	if err := spec.Validate(); err != nil {
		return fmt.Errorf("specification: %w", err)
	}
	if err := copySkeleton(spec.Root.Path, b.Root); err != nil {
		return err
	}
	spec.Root.Path = b.Root
	if err := b.makeLate(&spec); err != nil {
		return err
	}
	b.Paths = Paths(b.Box, b.provider.cfg.Exe, spec)
	if err := b.provider.cfg.Engine.Bundle(b.Box, spec); err != nil {
		return err
	}
	if err := b.bound(spec.Limits.WithDefaults()); err != nil {
		return err
	}
	conn, err := b.launch(ctx)
	if err != nil {
		return err
	}
	if b.init, err = pid1.NewClient(conn); err != nil {
		return err
	}
	b.watch.Go(func() {
		<-b.init.Lost()
		b.outOfMemory() // before lost is closed and a caller removes the group
		b.lostOnce.Do(func() { close(b.lost) })
	})
	if b.group != nil {
		b.watch.Go(b.watchMemory)
	} else {
		limit := spec.Limits.WithDefaults().MemoryBytes
		b.watch.Go(func() { b.measureMemory(limit) })
	}
	if err := b.init.Ping(ctx); err != nil {
		return fmt.Errorf("PID 1 does not answer: %w%s", err, b.logTail())
	}
	return nil
}

// bound creates the cgroup of the sandbox; without root it does nothing.
func (b *box) bound(limits sandbox.Limits) error {
	if b.group == nil {
		return nil
	}
	group, err := b.provider.hierarchy.Create(b.provider.cgroupPath(b.Box.ID), cgroup.Limits{
		MemoryBytes: limits.MemoryBytes, CPUs: limits.CPUs, Processes: b.provider.marks.HostProcesses(limits.Processes),
	})
	if err != nil {
		return err
	}
	b.group = group
	b.provider.reportShare(group.SharedError())
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
	b.logs, b.logsRead = logs, make(chan struct{})
	b.watch.Go(func() {
		defer close(b.logsRead)
		b.evidence.follow(logs)
	})

	cmd := b.provider.cfg.Engine.Command(ctx, b.Box)
	// Ctrl-C on our terminal must reach this process only, and orphan recognizes
	// commands by their process group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	cmd.Stdin, cmd.Stdout, cmd.Stderr = toInit, toUs, toLogs
	run := b.provider.marks.Run
	if run == nil {
		run = func(_ Box, cmd *exec.Cmd) error { return cmd.Run() }
	}
	if err := run(b.Box, cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w%s", b.provider.marks.Title, err, b.logTail())
	}
	return pid1.Stdio{In: fromInit, Out: fromUs}, nil
}

// logTail returns what the engine and PID 1 wrote before they failed, for
// errors. It ends the reading of their output.
func (b *box) logTail() string {
	if b.logs != nil {
		_ = b.logs.SetReadDeadline(time.Unix(1, 0))
		<-b.logsRead
	}
	if s := b.evidence.String(); s != "" {
		return "\n" + s
	}
	return ""
}

func (b *box) ID() string { return b.Box.ID }

func (b *box) Lost() <-chan struct{} { return b.lost }

func (b *box) Start(ctx context.Context, cmd sandbox.Command) (sandbox.Process, error) {
	p, err := b.init.Start(ctx, cmd)
	if err != nil {
		return nil, b.explain(err)
	}
	return &process{Process: p, box: b}, nil
}

func (b *box) EndAll(ctx context.Context) error { return b.explain(b.init.EndAll(ctx)) }

func (b *box) EndUser(ctx context.Context, uid uint32) error {
	return b.explain(b.init.EndUser(ctx, uid))
}

// outOfMemory reports whether the sandbox ran out of memory. It remembers that
// after the cgroup is removed.
func (b *box) outOfMemory() bool {
	if b.group != nil && b.group.OutOfMemory() {
		b.oomKilled.Store(true)
	}
	return b.oomKilled.Load()
}

// watchMemory ends the sandbox when the kernel has killed a part of it because
// it was out of memory.
func (b *box) watchMemory() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.watch.Go(func() {
		select {
		case <-b.lost:
		case <-ctx.Done():
		}
		cancel()
	})
	if err := b.group.KillOutOfMemory(ctx); err != nil {
		b.provider.log.Warn("watch the memory of a sandbox", "sandbox", b.Box.ID, "error", err)
	}
}

// explain adds to the error of a lost sandbox why it was lost, if that is known.
func (b *box) explain(err error) error {
	if !errors.Is(err, sandbox.ErrLost) {
		return err
	}
	if b.outOfMemory() {
		return fmt.Errorf("%w: %w", sandbox.ErrOutOfMemory, err)
	}
	select { // the reason may still be in the pipe
	case <-b.logsRead:
	case <-time.After(reasonDelay):
	}
	if crash := b.evidence.Crash(); crash != "" {
		return fmt.Errorf("%w: %s crashed: %s", err, b.provider.marks.Title, crash)
	}
	return err
}

// process adds to the errors of a program why its sandbox was lost.
type process struct {
	sandbox.Process
	box *box
}

func (p *process) Wait() (sandbox.Exit, error) {
	exit, err := p.Process.Wait()
	if err == nil && p.box.outOfMemory() {
		// The kernel has killed this program or another one, but not the whole
		// sandbox. The remaining processes are ended before Wait returns.
		if p.box.group != nil {
			if kerr := p.box.group.Kill(); kerr != nil {
				return exit, fmt.Errorf("end a sandbox that is out of memory: %w", kerr)
			}
		} // without a cgroup measureMemory ends them
		<-p.box.lost
		return sandbox.Exit{}, fmt.Errorf("%w: %w", sandbox.ErrOutOfMemory, sandbox.ErrLost)
	}
	return exit, p.box.explain(err)
}

func (p *process) Signal(sig syscall.Signal) error { return p.box.explain(p.Process.Signal(sig)) }

// Close implements sandbox.Sandbox. It tries every step even if another one
// fails: the connection, the processes, the engine's records, the files. After
// an error it may be called again.
func (b *box) Close(ctx context.Context) error {
	b.closing.Lock()
	defer b.closing.Unlock()
	if b.closed {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, closeLimit)
	defer cancel()
	b.outOfMemory()
	if b.init != nil {
		_ = b.init.Close()
	}
	for _, c := range b.ends {
		_ = c.Close() // usually closed with the connection
	}
	err := b.end(ctx)
	b.lostOnce.Do(func() { close(b.lost) })
	b.watch.Wait()
	if err := errors.Join(err, os.RemoveAll(b.Dir)); err != nil {
		return fmt.Errorf("close sandbox: %w", err)
	}
	b.closed = true
	if ended := b.provider.marks.Ended; ended != nil {
		ended(b.Box)
	}
	b.provider.forget(b.Box.ID)
	return nil
}

// end kills the sandbox's processes, reaps those that became our children, and
// removes the cgroup and the engine's records.
func (b *box) end(ctx context.Context) error {
	pids := b.pids()
	killed, err := b.kill(ctx)
	b.unreaped = append(append(b.unreaped, pids...), killed...)
	slices.Sort(b.unreaped)
	b.unreaped = slices.Compact(b.unreaped)
	errs := []error{err}
	if err := reap(ctx, b.unreaped); err != nil {
		errs = append(errs, err)
	} else {
		b.unreaped = nil
	}
	if b.init == nil { // the start was interrupted before the engine recorded its processes
		errs = append(errs, b.provider.reapOrphans())
	}
	// The names of the engine's records of this sandbox contain its id, which is
	// unique.
	records, err := filepath.Glob(filepath.Join(b.Instance, b.provider.marks.State, "*"+b.Box.ID+"*"))
	errs = append(errs, err)
	for _, r := range records {
		errs = append(errs, os.RemoveAll(r))
	}
	return errors.Join(errs...)
}

// kill ends every process of the sandbox, and its cgroup with them.
func (b *box) kill(ctx context.Context) ([]int, error) {
	if b.group != nil {
		return b.group.Remove(ctx)
	}
	return killNamed(ctx, b.provider.marks.Argument(b.Instance), b.Box.ID)
}

// pids returns the processes in the engine's records that are our children. Once
// they are dead, the cgroup does not list them any more.
func (b *box) pids() []int {
	var pids []int
	if raw, err := os.ReadFile(b.PIDFile); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil {
			pids = append(pids, pid)
		}
	}
	if children := b.provider.marks.Children; children != nil {
		pids = append(pids, children(b.Box)...)
	}
	return pids
}

// reap waits for the killed processes that have become our children. The others
// are reaped by their own parents.
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
