package control

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const name = "user-a11ce000-0000-4000-8000-000000000001"

// fakeSandboxes has one sandbox, whose programs are functions.
type fakeSandboxes struct {
	mu      sync.Mutex
	stopped []string
	jobs    []string
	err     error // of Stop
	play    func(ctx context.Context, cmd sandbox.Command) (sandbox.Exit, error)
}

func (f *fakeSandboxes) find(n string) error {
	if n == name {
		return nil
	}
	return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "there is no sandbox " + n, Hint: "see: dreamcore ps"}
}

func (f *fakeSandboxes) List() []workspace.Info {
	return []workspace.Info{{Name: name, Sandbox: "s-1", User: "a11ce000-0000-4000-8000-000000000001", State: "idle", Jobs: 3, Created: time.Unix(1, 0).UTC(), LastUsed: time.Unix(2, 0).UTC()}}
}

func (f *fakeSandboxes) Stop(_ context.Context, n string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = append(f.stopped, n)
	return cmp.Or(f.err, f.find(n))
}

func (f *fakeSandboxes) Exec(ctx context.Context, n string, cmd sandbox.Command) (sandbox.Exit, error) {
	if err := f.find(n); err != nil {
		return sandbox.Exit{}, err
	}
	return f.play(ctx, cmd)
}

func (f *fakeSandboxes) Jobs(n string) ([]string, error) { return f.jobs, f.find(n) }

func open(t *testing.T, f *fakeSandboxes) (*Client, *journal.Store) {
	t.Helper()
	c, j, _ := openServer(t, f)
	return c, j
}

func openServer(t *testing.T, f *fakeSandboxes) (*Client, *journal.Store, *Server) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(filepath.Join(dir, "jobs"), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Listen(dir, Parts{Sandboxes: f, Journal: j, Previews: aPreview(t)}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(dir)
	t.Cleanup(func() {
		c.Close()
		if err := errors.Join(s.Close(), j.Close()); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(filepath.Join(dir, SocketName)); !os.IsNotExist(err) {
			t.Errorf("the socket remains: %v", err)
		}
	})
	if fi, err := os.Lstat(filepath.Join(dir, SocketName)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", fi.Mode(), err)
	}
	return c, j, s
}

// Commands of a service that stops still show what its jobs do.
func TestADrainEndsOnlyPrograms(t *testing.T) {
	began := make(chan struct{})
	f := &fakeSandboxes{play: func(ctx context.Context, _ sandbox.Command) (sandbox.Exit, error) {
		close(began)
		<-ctx.Done()
		return sandbox.Exit{}, context.Cause(ctx)
	}}
	c, _, s := openServer(t, f)
	ended := make(chan error)
	go func() {
		_, err := c.Exec(t.Context(), name, []string{"sleep"}, nil, io.Discard, io.Discard)
		ended <- err
	}()
	<-began
	s.Drain()
	if err := <-ended; dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("a program that ran: %v", err)
	}
	if _, err := c.Exec(t.Context(), name, []string{"sleep"}, nil, io.Discard, io.Discard); dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("a new program: %v", err)
	}
	if got, err := c.List(t.Context()); err != nil || len(got) != 1 {
		t.Errorf("the list: %+v, %v", got, err)
	}
	if err := c.Stop(t.Context(), name); err != nil {
		t.Errorf("stop: %v", err)
	}
	s.Drain() // again
}

// unread is a writer whose caller waits until it is closed.
type unread chan struct{}

func (u unread) Write(p []byte) (int, error) {
	<-u
	return len(p), nil
}

// TestADrainDoesNotWaitForAClientThatReadsNothing: an operator has stopped its
// terminal, and the program writes more than the socket holds.
func TestADrainDoesNotWaitForAClientThatReadsNothing(t *testing.T) {
	full := make(chan struct{}, 1)
	f := &fakeSandboxes{play: func(_ context.Context, cmd sandbox.Command) (sandbox.Exit, error) {
		for n := 0; ; n++ { // as in a sandbox, only the end of its output ends it
			if n == 3 {
				full <- struct{}{}
			}
			if _, err := cmd.Stdout.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
				return sandbox.Exit{}, err
			}
		}
	}}
	c, _, s := openServer(t, f)
	stopped := make(unread)
	ended := make(chan error, 1)
	go func() {
		_, err := c.Exec(t.Context(), name, []string{"yes"}, nil, stopped, io.Discard)
		ended <- err
	}()
	select {
	case <-full:
	case <-time.After(time.Second): // the socket holds less
	}
	drained := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(drained)
		s.Drain()
	}()
	select {
	case <-drained:
		if took := time.Since(began); took > lastWords+3*time.Second {
			t.Errorf("it took %s", took)
		}
	case <-time.After(10 * time.Second):
		t.Error("the drain waits for the client")
	}
	close(stopped)
	if err := <-ended; err == nil {
		t.Error("the client was told nothing")
	}
	<-drained
}

func TestListAndStop(t *testing.T) {
	f := &fakeSandboxes{}
	c, _ := open(t, f)
	got, err := c.List(t.Context())
	if err != nil || len(got) != 1 || got[0] != f.List()[0] {
		t.Errorf("List: %+v, %v", got, err)
	}
	if err := c.Stop(t.Context(), name); err != nil || len(f.stopped) != 1 || f.stopped[0] != name {
		t.Errorf("Stop: %v, %q", err, f.stopped)
	}
	for _, n := range []string{"x/../y", "user-2", " ", "?"} {
		err := c.Stop(t.Context(), n)
		if dreamcore.CodeOf(err) != dreamcore.CodeNotFound || dreamcore.HintOf(err) == "" {
			t.Errorf("Stop(%q): %v", n, err)
		}
		if last := f.stopped[len(f.stopped)-1]; last != n {
			t.Errorf("requested sandbox %q, want %q", last, n)
		}
	}
}

func TestMissingServiceIsReported(t *testing.T) {
	c := NewClient(t.TempDir())
	if _, err := c.List(t.Context()); dreamcore.CodeOf(err) != dreamcore.CodeUnreachable || dreamcore.ReasonOf(err) != ReasonNotRunning {
		t.Errorf("List: %v", err)
	}
}

func TestExecStreamsInBothDirections(t *testing.T) {
	f := &fakeSandboxes{play: func(_ context.Context, cmd sandbox.Command) (sandbox.Exit, error) {
		// Respond to each line before the input has ended.
		buf := make([]byte, 1)
		for {
			if _, err := cmd.Stdin.Read(buf); err != nil {
				break
			}
			_, _ = cmd.Stdout.Write(bytes.ToUpper(buf))
		}
		_, _ = io.WriteString(cmd.Stderr, strings.Join(cmd.Args, "|"))
		return sandbox.Exit{Code: 7}, nil
	}}
	c, _ := open(t, f)
	in, feed := io.Pipe()
	answers, out := io.Pipe()
	var errs bytes.Buffer
	done := make(chan error, 1)
	go func() {
		code, err := c.Exec(t.Context(), name, []string{"a b", "", "c&d"}, in, out, &errs)
		if code != 7 {
			err = errors.Join(err, errors.New("wrong exit code"))
		}
		done <- err
		out.Close()
	}()
	for _, letter := range "xyz" {
		if _, err := feed.Write([]byte(string(letter))); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 1)
		if _, err := io.ReadFull(answers, got); err != nil || got[0] != byte(letter-'a'+'A') {
			t.Fatalf("answer %q, %v", got, err)
		}
	}
	feed.Close()
	if err := <-done; err != nil || errs.String() != "a b||c&d" {
		t.Errorf("%v, %q", err, errs.String())
	}
}

func TestExecEndsWithItsClient(t *testing.T) {
	ended := make(chan struct{})
	f := &fakeSandboxes{play: func(ctx context.Context, cmd sandbox.Command) (sandbox.Exit, error) {
		_, _ = cmd.Stdout.Write([]byte("began"))
		<-ctx.Done()
		close(ended)
		return sandbox.Exit{}, context.Cause(ctx)
	}}
	c, _ := open(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	var out cancelWriter
	out.cancel = cancel
	if _, err := c.Exec(ctx, name, []string{"x"}, nil, &out, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("Exec: %v", err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the program still runs")
	}
}

type cancelWriter struct{ cancel func() }

func (c *cancelWriter) Write(p []byte) (int, error) {
	if len(p) > 0 {
		c.cancel()
	}
	return len(p), nil
}

func TestExecReportsFailures(t *testing.T) {
	f := &fakeSandboxes{play: func(_ context.Context, cmd sandbox.Command) (sandbox.Exit, error) {
		if cmd.Args[0] == "late" {
			_, _ = cmd.Stdout.Write([]byte("half"))
		}
		return sandbox.Exit{}, sandbox.ErrLost
	}}
	c, _ := open(t, f)
	for _, arg := range []string{"early", "late"} {
		if _, err := c.Exec(t.Context(), name, []string{arg}, nil, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), sandbox.ErrLost.Error()) {
			t.Errorf("%s: %v", arg, err)
		}
	}
	if _, err := c.Exec(t.Context(), name, nil, nil, io.Discard, io.Discard); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("no program: %v", err)
	}
}

func TestLogsShowTheLastJob(t *testing.T) {
	f := &fakeSandboxes{jobs: []string{"11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"}}
	c, j := open(t, f)
	log, err := j.Create(f.jobs[1])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.Append(dreamcore.StatusEvent("one")); err != nil {
		t.Fatal(err)
	}
	read := func(follow bool) (got []string) {
		t.Helper()
		err := c.Logs(t.Context(), name, follow, func(e dreamcore.Event) error {
			got = append(got, string(e))
			if follow && len(got) == 1 {
				_, err := log.Append(dreamcore.DoneEvent())
				return errors.Join(err, log.Close())
			}
			return nil
		})
		if err != nil {
			t.Errorf("Logs: %v", err)
		}
		return got
	}
	if got := read(false); len(got) != 1 || !strings.Contains(got[0], "one") {
		t.Errorf("existing events: %q", got)
	}
	if got := read(true); len(got) != 2 || !strings.Contains(got[1], "done") {
		t.Errorf("followed: %q", got)
	}
	f.jobs = nil
	if got := read(false); len(got) != 0 {
		t.Errorf("without a job: %q", got)
	}
}
