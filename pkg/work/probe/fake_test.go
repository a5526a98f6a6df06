package probe

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program plays a command in a fake sandbox.
type program func(ctx context.Context, cmd sandbox.Command) (exit int, err error)

// fakes creates sandboxes that run program, and counts the open ones.
type fakes struct {
	program   program
	createErr error
	closeErr  error

	mu    sync.Mutex
	specs []sandbox.Spec
	open  int
}

func (f *fakes) Create(_ context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	if f.createErr != nil {
		return nil, f.createErr
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.specs = append(f.specs, spec)
	f.open++
	return &fakeBox{of: f}, nil
}

func (f *fakes) stillOpen() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

type fakeBox struct{ of *fakes }

func (b *fakeBox) ID() string                            { return "s-0123456789abcdef" }
func (b *fakeBox) EndAll(context.Context) error          { return nil }
func (b *fakeBox) EndUser(context.Context, uint32) error { return nil }
func (b *fakeBox) Lost() <-chan struct{}                 { return nil }

func (b *fakeBox) Clean(context.Context, sandbox.Residue) error { return nil }
func (b *fakeBox) Reach(context.Context, uint32, uint32, string) (string, error) {
	return sandbox.Opened, nil
}

func (b *fakeBox) Close(ctx context.Context) error {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	b.of.open--
	return errors.Join(ctx.Err(), b.of.closeErr)
}

func (b *fakeBox) Start(ctx context.Context, cmd sandbox.Command) (sandbox.Process, error) {
	p := &fakeProcess{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.code, p.err = b.of.program(ctx, cmd)
	}()
	return p, nil
}

type fakeProcess struct {
	done chan struct{}
	code int
	err  error
}

func (p *fakeProcess) Signal(syscall.Signal) error { return nil }
func (p *fakeProcess) Wait() (sandbox.Exit, error) {
	<-p.done
	return sandbox.Exit{Code: p.code}, p.err
}

func writes(stdout string, exit int) program {
	return func(_ context.Context, cmd sandbox.Command) (int, error) {
		_, err := io.WriteString(cmd.Stdout, stdout)
		return exit, err
	}
}

func prober(t testing.TB, f *fakes) *Prober {
	t.Helper()
	return New(Config{Sandboxes: f, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Scratch: scratchIn(t.TempDir())})
}

func scratchIn(volume string) Scratch {
	return func(id string) (string, func() error, error) {
		dir := filepath.Join(volume, id)
		return dir, func() error { return os.RemoveAll(dir) }, os.Mkdir(dir, 0o700)
	}
}

func TestSandboxIOReturnsTheOutput(t *testing.T) {
	tests := []struct {
		name    string
		program program
		want    IOResult
	}{
		{"the same", func(_ context.Context, cmd sandbox.Command) (int, error) {
			_, err := io.Copy(cmd.Stdout, cmd.Stdin)
			return 0, err
		}, IOResult{"hello", "hello", true}},
		{"a newline more", writes("hello\n", 0), IOResult{"hello", "hello\n", false}},
		{"nothing", writes("", 0), IOResult{"hello", "", false}},
		{"no text", writes("\xff\xfe", 0), IOResult{"hello", "\uFFFD", false}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &fakes{program: tt.program}
			got, err := prober(t, f).SandboxIO(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if n := f.stillOpen(); n != 0 {
				t.Errorf("%d sandboxes left open", n)
			}
		})
	}
}

func TestFailuresAreErrorsAndLeaveNoSandbox(t *testing.T) {
	tests := []struct {
		name  string
		fakes *fakes
		code  dreamcore.Code
		text  string
	}{
		{"no sandbox", &fakes{createErr: errors.New("no cgroup")}, dreamcore.CodeSetup, "no cgroup"},
		{"exit code", &fakes{program: writes("hello", 3)}, dreamcore.CodeInternal, "exit code 3"},
		{"endless output", &fakes{program: writes(strings.Repeat("x", maxOutput+1), 0)}, dreamcore.CodeInternal, errTooMuch.Error()},
		{"lost", &fakes{program: func(context.Context, sandbox.Command) (int, error) { return 0, sandbox.ErrLost }}, dreamcore.CodeInternal, sandbox.ErrLost.Error()},
		{"not removed", &fakes{program: writes("hello", 0), closeErr: errors.New("device busy")}, dreamcore.CodeInternal, "device busy"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := prober(t, tt.fakes)
			checks := map[string]func() error{
				"io":     func() error { _, err := p.SandboxIO(t.Context()); return err },
				"gvisor": func() error { _, err := p.GVisor(t.Context()); return err },
				"agent":  func() error { return p.Agent(t.Context(), "/bin/cat") },
			}
			for name, check := range checks {
				err := check()
				if dreamcore.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("%s: got %v", name, err)
				}
				if dreamcore.HintOf(err) == "" {
					t.Errorf("%s: no hint in %v", name, err)
				}
			}
			if n := tt.fakes.stillOpen(); n != 0 {
				t.Errorf("%d sandboxes left open", n)
			}
		})
	}
}

func TestTimeLimitEndsACheck(t *testing.T) {
	f := &fakes{program: func(ctx context.Context, _ sandbox.Command) (int, error) {
		<-ctx.Done()
		return 137, nil // the exit code of a killed program
	}}
	p := prober(t, f)
	p.cfg.TimeLimit = 10 * time.Millisecond
	_, err := p.SandboxIO(t.Context())
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "took longer than 10ms") {
		t.Errorf("got %v", err)
	}
	if n := f.stillOpen(); n != 0 {
		t.Errorf("%d sandboxes left open", n)
	}
}

func TestGVisorIsRecognizedByVersionOrLog(t *testing.T) {
	tests := []struct {
		name, version, log string
		logExit            int
		want               bool
	}{
		{"gVisor", "Linux version 4.19.0-gvisor #1 SMP\n", "[ 0.0] Starting gVisor...\n", 0, true},
		{"version alone", "Linux version 4.19.0-gvisor #1 SMP\n", "", 1, true},
		{"log alone", "Linux version 4.4.0 #1 SMP\n", "[ 0.0] Starting gVisor...\n", 0, true},
		{"another kernel", "Linux version 6.12.0 (gcc)\n", "[ 0.0] Booting Linux\n", 0, false},
		{"a long log", "Linux version 6.12.0 (gcc)\n", strings.Repeat("[ 0.0] usb\n", maxOutput), 0, false},
		{"nothing", "", "", 1, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &fakes{program: func(_ context.Context, cmd sandbox.Command) (int, error) {
				text, exit := tt.version, 0
				if cmd.Args[0] == "dmesg" {
					text, exit = tt.log, tt.logExit
				}
				_, err := io.WriteString(cmd.Stdout, text)
				return exit, err
			}}
			got, err := prober(t, f).GVisor(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if want := (Kernel{strings.TrimSpace(tt.version), tt.want}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestStreamRefusesUnexpectedOutput(t *testing.T) {
	tick := func(n string) string { return `{"count":` + n + `,"timestamp":1.5}` + "\n" }
	five := tick("1") + tick("2") + tick("3") + tick("4") + tick("5")
	tests := []struct {
		name, output string
		exit         int
		events       int
		good         bool
	}{
		{"as it should be", five, 0, 6, true},
		{"exit code", five, 1, 5, false},
		{"one missing", tick("1") + tick("2") + tick("3") + tick("4"), 0, 4, false},
		{"one more", five + tick("6"), 0, 5, false},
		{"one twice", tick("1") + tick("1"), 0, 1, false},
		{"no newline at the end", strings.TrimSuffix(five, "\n"), 0, 4, false},
		{"no JSON", "one\n", 0, 0, false},
		{"no timestamp", `{"count":1}` + "\n", 0, 0, false},
		{"a line without end", strings.Repeat("x", maxLine+1), 0, 0, false},
		{"a long line", strings.Repeat(" ", maxLine) + tick("1"), 0, 0, false},
		{"nothing", "", 0, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &fakes{program: writes(tt.output, tt.exit)}
			var events []string
			err := prober(t, f).Stream(t.Context(), func(e dreamcore.Event) error {
				events = append(events, string(e))
				return nil
			})
			if (err == nil) != tt.good || len(events) != tt.events {
				t.Errorf("got %d events %v, error %v", len(events), events, err)
			}
			if tt.good {
				want := append(strings.Fields(five), `{"type":"done"}`)
				if diff := cmp.Diff(want, events); diff != "" {
					t.Error(diff)
				}
			}
			if n := f.stillOpen(); n != 0 {
				t.Errorf("%d sandboxes left open", n)
			}
		})
	}
}

func TestStreamEndsWhenItsReaderDoes(t *testing.T) {
	gone := errors.New("client gone")
	f := &fakes{program: writes(`{"count":1,"timestamp":1}`+"\n", 0)}
	err := prober(t, f).Stream(t.Context(), func(dreamcore.Event) error { return gone })
	if !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	if n := f.stillOpen(); n != 0 {
		t.Errorf("%d sandboxes left open", n)
	}
}

func TestVolumeWritesInOneSandboxAndReadsInAnother(t *testing.T) {
	volume := t.TempDir()
	var f *fakes
	f = &fakes{program: func(_ context.Context, cmd sandbox.Command) (int, error) {
		mount := f.specs[len(f.specs)-1].Mounts[0]
		name := filepath.Join(mount.Source, filepath.Base(cmd.Args[len(cmd.Args)-1]))
		if len(f.specs) == 1 {
			text, _ := io.ReadAll(cmd.Stdin)
			return 0, os.WriteFile(name, text, 0o600)
		}
		if n := f.stillOpen(); n != 1 {
			t.Errorf("%d sandboxes while reading, want the second alone", n)
		}
		text, err := os.ReadFile(name)
		_, _ = cmd.Stdout.Write(text)
		return 0, err
	}}
	p := prober(t, f)
	p.cfg.Scratch = scratchIn(volume)
	got, err := p.Volume(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !got.Match || got.Written != got.Read || got.Written == "" || got.TestID == "" {
		t.Errorf("got %+v", got)
	}
	if left, _ := os.ReadDir(volume); len(left) != 0 {
		t.Errorf("left in the volume: %v", left)
	}
	if len(f.specs) != 2 || !f.specs[0].Mounts[0].Writable || f.specs[1].Mounts[0].Writable {
		t.Errorf("sandboxes: %+v", f.specs)
	}
}

func TestVolumeSeesADifferentText(t *testing.T) {
	volume := t.TempDir()
	p := prober(t, &fakes{program: func(_ context.Context, cmd sandbox.Command) (int, error) {
		if cmd.Stdout != nil {
			_, _ = io.WriteString(cmd.Stdout, "something else")
		}
		return 0, nil
	}})
	p.cfg.Scratch = scratchIn(volume)
	got, err := p.Volume(t.Context())
	if err != nil || got.Match || got.Read != "something else" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestVolumeThatCannotBeWrittenIsAnError(t *testing.T) {
	p := prober(t, &fakes{})
	p.cfg.Scratch = func(string) (string, func() error, error) { return "", nil, syscall.ENOSPC }
	_, err := p.Volume(t.Context())
	if !errors.Is(err, syscall.ENOSPC) || dreamcore.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

func FuzzTickWriter(f *testing.F) {
	f.Add([]byte(`{"count":1,"timestamp":1.5}`+"\n"+`{"count":2,"timestamp":2}`+"\n"), 7)
	f.Add([]byte(`{"count":1,"timestamp":"x\r\ndata: {}"}`+"\n"), 1)
	f.Add([]byte(strings.Repeat("[", 2000)), 100)
	f.Add([]byte(`{"count":1,"timestamp":1e999999}`+"\n"), 100)
	f.Fuzz(func(t *testing.T, out []byte, chunk int) {
		events := 0
		w := &tickWriter{emit: func(e dreamcore.Event) error {
			events++
			if got, ok := dreamcore.LineEvent(e); !ok || string(got) != string(e) || len(e) > 2*maxLine {
				t.Errorf("not one short JSON object on a line: %q", e)
			}
			return nil
		}}
		chunk = max(1, chunk%4096)
		for len(out) > 0 {
			n := min(chunk, len(out))
			if _, err := w.Write(out[:n]); err != nil {
				break
			}
			out = out[n:]
		}
		if events > Ticks || len(w.line) > maxLine {
			t.Errorf("%d events, %d bytes kept", events, len(w.line))
		}
	})
}
