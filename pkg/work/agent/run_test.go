package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

const (
	good     = `{"type":"assistant","message":{"model":"m"}}` + "\n" + `{"type":"result","subtype":"success","is_error":false}` + "\n"
	badLine  = `{"type":"result","subtype":"success","is_error":true,"api_error_status":401,"result":"no"}` + "\n"
	interval = 10 * time.Second // time limit of a run
)

// says returns a program that prints text and exits with code.
func says(text string, code int) func(sandboxtest.Run) (sandbox.Exit, error) {
	return func(r sandboxtest.Run) (sandbox.Exit, error) {
		if _, err := io.WriteString(r.Stdout, text); err != nil {
			return sandbox.Exit{}, fmt.Errorf("output: %w", err)
		}
		return sandbox.Exit{Code: code}, nil
	}
}

// events collects what a run emits.
type events struct {
	mu  sync.Mutex
	all []string
}

func (e *events) emit(ev dreamcore.Event) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, string(ev))
	return nil
}

func start(sb sandbox.Sandbox) Start {
	return Start{Sandbox: sb, Dir: "/p", Token: "sk", Session: Session{ID: session}, Limit: interval}
}

func turn() Turn { return Turn{Prompt: "a game", Limit: interval, Emit: new(events).emit} }

func TestSuccessNeedsResultNoErrorAndExitCode(t *testing.T) {
	for _, tt := range []struct {
		name, out string
		exit      int
		want      int // exit code of the outcome
		success   bool
	}{
		{"result, no error, exit 0", good, 0, 0, true},
		{"no final newline", strings.TrimSpace(good), 0, 0, true},
		{"a white-space prompt: exit 0, no output", "", 0, 1, false},
		{"a read-only root: exit 0, empty output", "\n", 0, 1, false},
		{"subtype success with is_error", badLine, 0, 1, false},
		{"the same with exit 1", badLine, 1, 1, false},
		{"SIGINT mid-stream: exit 0, error_during_execution", `{"type":"result","subtype":"error_during_execution","is_error":true}`, 0, 1, false},
		{"a result without is_error", `{"type":"result","subtype":"success"}`, 0, 1, false},
		{"success, then another result with an error", good + badLine, 0, 1, false},
		{"a good result, but exit 1", good, 1, 1, false},
		{"a good result, but exit 7", good, 7, 7, false},
		{"killed after its result", good, 137, 137, false},
		{"SIGTERM from inside", "", 143, 143, false},
		{"first tool call does nothing: exit 0, no result", `{"type":"assistant","message":{"model":"m"}}`, 0, 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fake := &sandboxtest.Fake{Program: says(tt.out, tt.exit)}
			o, err := Config{Path: "/claude"}.Run(t.Context(), start(fake), turn())
			if err != nil {
				t.Fatal(err)
			}
			if o.ExitCode != tt.want || o.Success() != tt.success || o.TimedOut {
				t.Errorf("%+v, success %v", o, o.Success())
			}
			if fake.EndAlls() != 1 {
				t.Errorf("the remaining processes were ended %d times", fake.EndAlls())
			}
		})
	}
}

func TestRunPassesThePromptAndEmitsLines(t *testing.T) {
	fake := &sandboxtest.Fake{Program: func(r sandboxtest.Run) (sandbox.Exit, error) {
		prompt, err := io.ReadAll(r.Stdin)
		if err != nil {
			return sandbox.Exit{}, err
		}
		_, _ = fmt.Fprintf(r.Stdout, "%q in %s as %d\n%s", prompt, r.Dir, r.UID, good)
		_, _ = io.WriteString(r.Stderr, "  a warning\n")
		return sandbox.Exit{}, nil
	}}
	var got events
	w := turn()
	w.Prompt, w.Emit = "/clear", got.emit
	o, err := Config{Path: "/claude", UID: 10000}.Run(t.Context(), start(fake), w)
	if err != nil || !o.Success() || o.Lines != 3 || !o.Talked || o.Stderr != "a warning" {
		t.Errorf("%+v, %v", o, err)
	}
	if len(got.all) != 3 || !strings.Contains(got.all[0], `Work in`) || !strings.Contains(got.all[0], `/clear`) || !strings.Contains(got.all[0], "in /p as 10000") {
		t.Errorf("events: %q", got.all)
	}
}

// untilKilled prints and then ignores SIGTERM.
func untilKilled(r sandboxtest.Run) (sandbox.Exit, error) {
	_, _ = io.WriteString(r.Stdout, good)
	<-r.Killed
	return sandbox.Exit{Code: 137, Signal: syscall.SIGKILL}, nil
}

// deaf works on a turn and ignores SIGTERM.
func deaf(r sandboxtest.Run) (sandbox.Exit, error) {
	<-r.Killed
	return sandbox.Exit{Code: 137, Signal: syscall.SIGKILL}, nil
}

// untilTerm ends at SIGTERM, as the CLI does.
func untilTerm(r sandboxtest.Run) (sandbox.Exit, error) {
	select {
	case sig := <-r.Signals:
		return sandbox.Exit{Code: 128 + int(sig), Signal: sig}, nil
	case <-r.Killed:
		return sandbox.Exit{Code: 137, Signal: syscall.SIGKILL}, nil
	}
}

func TestTheTimeLimitTerminatesThenKills(t *testing.T) {
	for _, tt := range []struct {
		name    string
		program func(sandboxtest.Run) (sandbox.Exit, error)
		takes   time.Duration
	}{
		{"a CLI that ends at SIGTERM", untilTerm, interval},
		{"a CLI that ignores SIGTERM", deaf, interval + termGrace},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := &sandboxtest.Fake{Program: tt.program}
				began := time.Now()
				o, err := Config{}.Run(t.Context(), start(fake), turn())
				if err != nil || o.ExitCode != 124 || !o.TimedOut || o.Success() {
					t.Errorf("%+v, %v", o, err)
				}
				if d := time.Since(began); d != tt.takes {
					t.Errorf("it took %v, want %v", d, tt.takes)
				}
				if fake.EndAlls() != 1 || fake.Closes() != 0 {
					t.Errorf("ended %d times, closed %d times", fake.EndAlls(), fake.Closes())
				}
			})
		})
	}
}

func TestACancelledRunIsTerminated(t *testing.T) {
	for name, program := range map[string]func(sandboxtest.Run) (sandbox.Exit, error){"gently": untilTerm, "by force": untilKilled} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { cancel(errors.New("the user changed their mind")) })
				o, err := Config{}.Run(ctx, start(&sandboxtest.Fake{Program: program}), turn())
				if err != nil || o.ExitCode != 143 || o.TimedOut {
					t.Errorf("%+v, %v", o, err)
				}
			})
		})
	}
}

func TestTheDeadlineOfTheCallerIsNotTheTimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		o, err := Config{}.Run(ctx, start(&sandboxtest.Fake{Program: untilTerm}), turn())
		if err != nil || o.ExitCode != 143 || o.TimedOut {
			t.Errorf("%+v, %v", o, err)
		}
	})
}

// PID 1 of the sandbox has stopped answering: killed programs do not end until the
// sandbox is closed.
func TestASandboxThatCannotKillTheRunIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &sandboxtest.Fake{EndAllErr: context.DeadlineExceeded}
		fake.Program = func(sandboxtest.Run) (sandbox.Exit, error) {
			<-fake.Lost()
			return sandbox.Exit{}, sandbox.ErrLost
		}
		began := time.Now()
		o, err := Config{}.Run(t.Context(), start(fake), turn())
		if err != nil || o.ExitCode != 124 || !o.TimedOut {
			t.Errorf("%+v, %v", o, err)
		}
		if d := time.Since(began); d != interval+termGrace+killLimit || fake.Closes() != 1 {
			t.Errorf("after %v the sandbox was closed %d times", d, fake.Closes())
		}
	})
}

// slowStart is a sandbox whose programs never finish starting.
type slowStart struct{ sandboxtest.Fake }

func (*slowStart) Start(ctx context.Context, _ sandbox.Command) (sandbox.Process, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestTheLimitsApplyDuringTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, err := Config{}.Run(t.Context(), start(&slowStart{}), turn())
		if err != nil || o.ExitCode != 124 || !o.TimedOut {
			t.Errorf("time limit: %+v, %v", o, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if o, err = (Config{}).Run(ctx, start(&slowStart{}), turn()); err != nil || o.ExitCode != 143 {
			t.Errorf("cancelled: %+v, %v", o, err)
		}
	})
}

func TestRunErrors(t *testing.T) {
	disk := errors.New("disk full")
	oom := fmt.Errorf("%w: %w", sandbox.ErrOutOfMemory, sandbox.ErrLost)
	fails := func(err error) func(sandboxtest.Run) (sandbox.Exit, error) {
		return func(r sandboxtest.Run) (sandbox.Exit, error) {
			_, _ = io.WriteString(r.Stdout, good)
			return sandbox.Exit{}, err
		}
	}
	for _, tt := range []struct {
		name string
		fake *sandboxtest.Fake
		emit func(dreamcore.Event) error
		exit int   // of the outcome, if there is no error
		err  error // in the chain
	}{
		{"out of memory", &sandboxtest.Fake{Program: fails(oom)}, nil, 137, nil},
		{"lost", &sandboxtest.Fake{Program: fails(sandbox.ErrLost)}, nil, 0, sandbox.ErrLost},
		{"it cannot be started", &sandboxtest.Fake{StartErr: disk}, nil, 0, disk},
		{"lost before the start", &sandboxtest.Fake{StartErr: sandbox.ErrLost}, nil, 0, sandbox.ErrLost},
		{"out of memory at the start", &sandboxtest.Fake{StartErr: oom}, nil, 137, nil},
		{"Emit fails", &sandboxtest.Fake{Program: says(good, 0)}, func(dreamcore.Event) error { return disk }, 0, disk},
		{"Emit fails for the last line", &sandboxtest.Fake{Program: says("no newline", 0)}, func(dreamcore.Event) error { return disk }, 0, disk},
		{"its processes cannot be ended", &sandboxtest.Fake{Program: says(good, 0), EndAllErr: sandbox.ErrLost}, nil, 0, sandbox.ErrLost},
		{"out of memory while they are ended", &sandboxtest.Fake{Program: says(good, 0), EndAllErr: oom}, nil, 137, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := turn()
			if tt.emit != nil {
				w.Emit = tt.emit
			}
			o, err := Config{}.Run(t.Context(), start(tt.fake), w)
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			if err == nil && (o.ExitCode != tt.exit || o.Success()) {
				t.Errorf("%+v", o)
			}
			if tt.fake.EndAlls() != 1 {
				t.Errorf("the remaining processes were ended %d times", tt.fake.EndAlls())
			}
		})
	}
}

func TestAnErrorDoesNotHideTheReasonForAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &sandboxtest.Fake{EndAllErr: sandbox.ErrLost, Program: func(r sandboxtest.Run) (sandbox.Exit, error) {
			<-r.Killed
			return sandbox.Exit{}, fmt.Errorf("%w: %w", sandbox.ErrOutOfMemory, sandbox.ErrLost)
		}}
		if o, err := (Config{}).Run(t.Context(), start(fake), turn()); err != nil || o.ExitCode != 124 || !o.TimedOut {
			t.Errorf("%+v, %v", o, err)
		}
	})
}
