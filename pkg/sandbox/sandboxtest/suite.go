package sandboxtest

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// The ordinary user of the suite's programs.
const (
	UID = 10000
	GID = 10001
)

// Open makes the provider under test and a root for its sandboxes. Whatever
// the provider keeps on the machine goes into dir; the root goes elsewhere. The
// suite closes the provider.
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
	names    []string // of what the provider has in dir, and of its cgroups
}

// newRig opens a provider and checks at the end of the test that its Close
// leaves nothing.
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
		if err := r.provider.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("Close of the provider: %v", err)
		}
		before.check(t)
	})
	return r
}

// warm makes and closes a sandbox. The first one has the provider make what it
// keeps until its own Close.
func (r *rig) warm(t *testing.T) {
	t.Helper()
	sb, err := r.provider.Create(bounded(t), r.spec())
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	if err := sb.Close(bounded(t)); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// take looks at what the rig has on the machine.
func (r *rig) take() *traces { return take(r.dir, r.names) }

// limit bounds what must not take for ever.
const limit = 60 * time.Second

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// spec is a sandbox of the rig's root with mounts.
func (r *rig) spec(mounts ...sandbox.Mount) sandbox.Spec {
	return sandbox.Spec{Root: r.root, Mounts: mounts}
}

// create makes a sandbox that the end of the test closes. The sandbox must
// then be gone without a trace.
func (r *rig) create(t testing.TB, spec sandbox.Spec) sandbox.Sandbox {
	t.Helper()
	before := r.take()
	sb, err := r.provider.Create(bounded(t), spec)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	t.Cleanup(func() {
		if err := sb.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("Close of the sandbox: %v", err)
		}
		before.check(t)
	})
	return sb
}

// result is how a program went.
type result struct {
	out, err string
	exit     sandbox.Exit
}

// script is a command line for the shell as the ordinary user.
func script(text string) sandbox.Command {
	return sandbox.Command{Args: []string{"/bin/sh", "-c", text}, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"}, UID: UID, GID: GID}
}

// run runs a program to its end. Streams that cmd leaves open are filled in.
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

// sh runs a shell script that must succeed, and returns its output.
func sh(t testing.TB, sb sandbox.Sandbox, text string) string {
	t.Helper()
	r := run(t, sb, script(text))
	if r.exit != (sandbox.Exit{}) {
		t.Fatalf("%s: exit %+v, output %q, errors %q", text, r.exit, r.out, r.err)
	}
	return r.out
}

// start starts a program that the test goes on beside.
func start(t testing.TB, sb sandbox.Sandbox, cmd sandbox.Command) sandbox.Process {
	t.Helper()
	p, err := sb.Start(t.Context(), cmd)
	if err != nil {
		t.Fatalf("Start %q: %v", cmd.Args, err)
	}
	return p
}

// wait is Wait, with an end.
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

// await waits for a channel to close, and fails the test when it does not.
func await(t testing.TB, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("waited %s for %s", limit, what)
	}
}

// line is a writer that tells when the program's first line is there.
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
	reached chan struct{} // closed when somebody stands before the gate
	open    chan struct{}
	once    bool
}

func newGate(w io.Writer) *gate {
	return &gate{w: w, reached: make(chan struct{}), open: make(chan struct{})}
}

func (g *gate) Write(p []byte) (int, error) {
	if !g.once {
		g.once = true
		close(g.reached)
	}
	<-g.open
	return g.w.Write(p)
}

// processes is a shell script that prints the pid and the name of every
// process inside but PID 1 and its own.
const processes = `for d in /proc/[0-9]*; do p=${d#/proc/}; [ "$p" = 1 ] || [ "$p" = $$ ] || { read -r s <$d/stat && echo "$s"; } 2>/dev/null; done; true`
