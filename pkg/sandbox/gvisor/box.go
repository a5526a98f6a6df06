package gvisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
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
	dir      string // bundle, logs, pid file
	group    *cgroup.Group
	init     *pid1.Client
	stderr   *tail       // what PID 1 wrote to standard error
	ends     []io.Closer // our ends of the pipes

	lostOnce sync.Once
	lost     chan struct{}
	watch    sync.WaitGroup

	closeMu  sync.Mutex
	closed   bool
	closeErr error
}

var _ sandbox.Sandbox = (*box)(nil)

// startLimit bounds the start of a sandbox when the caller's context does not.
const startLimit = 60 * time.Second

func (b *box) start(ctx context.Context, spec sandbox.Spec) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		return err
	}
	if err := oci.WriteBundle(b.dir, b.provider.exe, spec); err != nil {
		return err
	}
	limits := spec.Limits.WithDefaults()
	group, err := b.provider.hierarchy.Create(b.provider.cgroupPath(b.id), cgroup.Limits{
		MemoryBytes: limits.MemoryBytes, CPUs: limits.CPUs, Processes: limits.Processes + hostProcesses,
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
		b.lostOnce.Do(func() { close(b.lost) })
	})
	if err := b.init.Ping(ctx); err != nil {
		return fmt.Errorf("PID 1 does not answer: %w%s", err, b.evidence())
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
	errIn, errOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer errOut.Close()
	b.ends = append(b.ends, errIn)
	b.stderr = &tail{}
	b.watch.Go(func() { _, _ = io.Copy(b.stderr, errIn) })

	cmd := b.provider.engine(ctx, b.group, "run", "--detach",
		"--bundle", b.dir, "--pid-file", filepath.Join(b.dir, "pid"), b.id)
	cmd.Args = b.withLogs(cmd.Args)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = toInit, toUs, errOut
	if err := cmd.Run(); err != nil {
		_ = errOut.Close()
		return nil, fmt.Errorf("start gVisor: %w%s", err, b.evidence())
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
	)
	cmd := exec.CommandContext(ctx, p.exe, append(full, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", sidecarEnv + "=" + filepath.Join(p.dir, "sidecar")}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// withLogs adds the flags that make gVisor tell why it failed: without them a
// failed boot shows as EOF.
func (b *box) withLogs(args []string) []string {
	logs := []string{"--log=" + filepath.Join(b.dir, "log.json"), "--log-format=json", "--debug-log=" + b.dir + "/"}
	at := len(args)
	for i, a := range args {
		if a == "run" {
			at = i
			break
		}
	}
	return append(append(append([]string(nil), args[:at]...), logs...), args[at:]...)
}

// evidence is what the engine and PID 1 said before they failed, for errors.
func (b *box) evidence() string {
	var s []string
	if b.stderr != nil {
		if t := b.stderr.String(); t != "" {
			s = append(s, t)
		}
	}
	names, _ := filepath.Glob(filepath.Join(b.dir, "*.txt"))
	for _, name := range append(names, filepath.Join(b.dir, "log.json")) {
		raw, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(raw) {
			// Warnings and worse; the rest is chatter.
			if bytes.HasPrefix(line, []byte("W")) || bytes.HasPrefix(line, []byte("E")) || bytes.Contains(line, []byte(`"level":"error"`)) {
				s = append(s, strings.TrimSpace(string(line)))
			}
		}
	}
	if len(s) == 0 {
		return ""
	}
	const most = 12
	if len(s) > most {
		s = s[len(s)-most:]
	}
	return "\n" + strings.Join(s, "\n")
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

// explain adds to a lost sandbox that it ran out of memory, where it did.
func (b *box) explain(err error) error {
	if errors.Is(err, sandbox.ErrLost) && b.group.OutOfMemory() {
		return fmt.Errorf("%w: %w", sandbox.ErrOutOfMemory, err)
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

// Close implements sandbox.Sandbox. Every step is tried whatever the others
// gave: the talk, the processes, the engine's own state, the files.
func (b *box) Close(ctx context.Context) error {
	b.closeMu.Lock()
	defer b.closeMu.Unlock()
	if b.closed {
		return b.closeErr
	}
	b.closed = true
	ctx, cancel := context.WithTimeout(ctx, closeLimit)
	defer cancel()
	var errs []error
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
	b.closeErr = errors.Join(errs...)
	b.provider.forget(b.id)
	return b.closeErr
}

// end kills the sandbox's processes, reaps those that became our children, and
// removes the cgroup and the engine's records.
func (b *box) end(ctx context.Context) error {
	pids := b.pids()
	var errs []error
	if err := b.group.Remove(ctx); err != nil {
		errs = append(errs, err)
	}
	for _, pid := range pids {
		errs = append(errs, reap(ctx, pid))
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

// pids are the sandbox's processes on the host that may be our children: the
// sentry and the gofer, from the engine's records, and all of the cgroup.
func (b *box) pids() []int {
	pids, _ := b.group.Processes()
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

// reap waits for a killed process that has become our child. One that has not
// is somebody else's to reap.
func reap(ctx context.Context, pid int) error {
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

// tail keeps the last bytes that were written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > tailBytes {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-tailBytes:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
