package sandboxtest

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// The ordinary user of the suite's programs.
const (
	UID = 10000
	GID = 10001
)

// Open creates the provider under test and a root for its sandboxes. All files of
// the provider go into dir; the root is elsewhere. The suite closes the provider.
type Open func(t testing.TB, dir string) (sandbox.Provider, sandbox.Root)

// Suite is the contract of package sandbox as tests. Every engine passes it.
// The sandboxes need /bin/sh, /bin/bash, perl and the coreutils in their root,
// and /tmp, /data and /global as mount points.
func Suite(t *testing.T, open Open) {
	Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	t.Run("programs", func(t *testing.T) { testPrograms(t, open) })
	t.Run("sandboxes", func(t *testing.T) { testSandboxes(t, open) })
}

// rig is a provider under test.
type rig struct {
	provider sandbox.Provider
	root     sandbox.Root
	dir      string
	names    []string // of the provider's files in dir, and of its cgroups
}

// newRig opens a provider. At the end of the test it closes the provider and
// checks that nothing is left.
func newRig(t *testing.T, open Open) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{dir: dir}
	before := take(dir, nil)
	r.provider, r.root = open(t, dir)
	for _, f := range files(dir) {
		if f != dir {
			r.names = append(r.names, filepath.Base(f))
		}
	}
	before.names = r.names
	t.Cleanup(func() {
		noError(t, "Close of the provider", r.provider.Close(context.WithoutCancel(t.Context())))
		before.check(t)
	})
	return r
}

// warm creates and closes a sandbox. For the first one, the provider creates
// files that it keeps until its own Close.
func (r *rig) warm(t *testing.T) {
	t.Helper()
	sb, err := r.provider.Create(bounded(t), r.spec())
	must(t, err)
	must(t, sb.Close(bounded(t)))
}

// take records what the rig has on the machine.
func (r *rig) take() *traces { return take(r.dir, r.names) }

// limit bounds every step that could block forever.
const limit = 60 * time.Second

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// ended returns a context that has ended.
func ended(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// must ends the test at an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// noError fails the test at an error.
func noError(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// write creates a file of the host.
func write(t testing.TB, name, text string) {
	t.Helper()
	must(t, os.WriteFile(name, []byte(text), 0o644))
}

// reads fails the test if a file of the host has other contents than want.
func reads(t testing.TB, name, want string) {
	t.Helper()
	if b, err := os.ReadFile(name); string(b) != want {
		t.Errorf("the host reads %q, %v", b, err)
	}
}

// spec returns the specification of a sandbox with the rig's root and mounts.
func (r *rig) spec(mounts ...sandbox.Mount) sandbox.Spec {
	return sandbox.Spec{Root: r.root, Mounts: mounts}
}

// create creates a sandbox. The end of the test closes it and checks that it left
// no trace.
func (r *rig) create(t testing.TB, spec sandbox.Spec) sandbox.Sandbox {
	t.Helper()
	before := r.take()
	sb, err := r.provider.Create(bounded(t), spec)
	must(t, err)
	t.Cleanup(func() {
		noError(t, "Close of the sandbox", sb.Close(context.WithoutCancel(t.Context())))
		before.check(t)
	})
	return sb
}

// limited creates a sandbox with limits.
func (r *rig) limited(t testing.TB, limits sandbox.Limits) sandbox.Sandbox {
	t.Helper()
	return r.create(t, sandbox.Spec{Root: r.root, Limits: limits})
}

// result is the output and the exit of a program.
type result struct {
	out, err string
	exit     sandbox.Exit
}

// script returns the command that runs a shell script as the ordinary user.
func script(text string) sandbox.Command {
	return sandbox.Command{Args: []string{"/bin/sh", "-c", text}, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"}, UID: UID, GID: GID}
}

// run runs a program to its end. It collects the output streams that cmd does not
// set.
func run(t testing.TB, sb sandbox.Sandbox, cmd sandbox.Command) result {
	t.Helper()
	var out, errs bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &errs
	}
	p, err := sb.Start(bounded(t), cmd)
	if err != nil {
		t.Fatalf("Start %q: %v", cmd.Args, err)
	}
	exit, err := wait(t, p)
	if err != nil {
		t.Fatalf("Wait for %q: %v", cmd.Args, err)
	}
	return result{out: out.String(), err: errs.String(), exit: exit}
}

// runAs runs a shell script as a user and returns its output.
func runAs(t testing.TB, sb sandbox.Sandbox, uid uint32, text string) string {
	t.Helper()
	cmd := script(text)
	if cmd.UID = uid; uid == 0 {
		cmd.GID = 0
	}
	return run(t, sb, cmd).out
}

// feed runs a shell script with an input.
func feed(t testing.TB, sb sandbox.Sandbox, in io.Reader, text string) result {
	t.Helper()
	cmd := script(text)
	cmd.Stdin = in
	return run(t, sb, cmd)
}

// succeed runs a program that must succeed.
func succeed(t testing.TB, sb sandbox.Sandbox, cmd sandbox.Command) result {
	t.Helper()
	r := run(t, sb, cmd)
	if r.exit != (sandbox.Exit{}) {
		t.Fatalf("%q: exit %+v, output %q, errors %q", cmd.Args, r.exit, r.out, r.err)
	}
	return r
}

// sh runs a shell script that must succeed, and returns its output.
func sh(t testing.TB, sb sandbox.Sandbox, text string) string {
	t.Helper()
	return succeed(t, sb, script(text)).out
}

// Output runs a shell script in a sandbox as root and returns what it prints. The
// script must succeed.
func Output(t testing.TB, sb sandbox.Sandbox, text string) string {
	t.Helper()
	cmd := script(text)
	cmd.UID, cmd.GID = 0, 0
	r := succeed(t, sb, cmd)
	return r.out + r.err
}

// prints fails the test if a shell script does not print want.
func prints(t testing.TB, sb sandbox.Sandbox, text, want string) {
	t.Helper()
	if got := sh(t, sb, text); got != want {
		t.Errorf("%s: it prints %q, want %q", text, got, want)
	}
}

// start starts a program in the background.
func start(t testing.TB, sb sandbox.Sandbox, cmd sandbox.Command) sandbox.Process {
	t.Helper()
	p, err := sb.Start(t.Context(), cmd)
	if err != nil {
		t.Fatalf("Start %q: %v", cmd.Args, err)
	}
	return p
}

// begin starts a shell script in the background and waits for its first line.
func begin(t testing.TB, sb sandbox.Sandbox, text string) (sandbox.Process, *line) {
	t.Helper()
	out := newLine()
	cmd := script(text)
	cmd.Stdout = out
	p := start(t, sb, cmd)
	await(t, out.seen, "the program")
	return p, out
}

// endAll calls EndAll and checks that it leaves no process.
func endAll(t testing.TB, sb sandbox.Sandbox) {
	t.Helper()
	must(t, sb.EndAll(bounded(t)))
	prints(t, sb, processes, "")
}

// exits fails the test if a program does not end with want.
func exits(t testing.TB, p sandbox.Process, want sandbox.Exit) {
	t.Helper()
	if got, err := wait(t, p); err != nil || got != want {
		t.Errorf("exit %+v, %v, want %+v", got, err, want)
	}
}

// killed returns the exit of a program that a signal ended.
func killed(sig syscall.Signal) sandbox.Exit {
	return sandbox.Exit{Code: 128 + int(sig), Signal: sig}
}

// wait calls Wait with a time limit.
func wait(t testing.TB, p sandbox.Process) (exit sandbox.Exit, err error) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		exit, err = p.Wait()
	}()
	await(t, done, "the end of a program")
	return exit, err
}

// await waits until a channel is closed, and fails the test after a limit.
func await(t testing.TB, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("waited %s for %s", limit, what)
	}
}

// line is a writer that closes seen when it has the program's first line.
type line struct {
	bytes.Buffer
	seen chan struct{}
}

func newLine() *line { return &line{seen: make(chan struct{})} }

func (l *line) Write(p []byte) (int, error) {
	if !bytes.Contains(l.Bytes(), []byte("\n")) && bytes.Contains(p, []byte("\n")) {
		defer close(l.seen)
	}
	return l.Buffer.Write(p)
}

// gate is a writer that blocks until it is opened.
type gate struct {
	w       io.Writer
	reached chan struct{} // closed when the first Write has begun
	open    chan struct{}
	once    sync.Once
}

func newGate(w io.Writer) *gate {
	return &gate{w: w, reached: make(chan struct{}), open: make(chan struct{})}
}

func (g *gate) Write(p []byte) (int, error) {
	g.once.Do(func() { close(g.reached) })
	<-g.open
	return g.w.Write(p)
}

// processes is a shell script that prints the pid and the name of every process
// inside except PID 1 and its own shell.
const processes = `for d in /proc/[0-9]*; do p=${d#/proc/}; [ "$p" = 1 ] || [ "$p" = $$ ] || { read -r s <$d/stat && echo "$s"; } 2>/dev/null; done; true`
