package agent

import (
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

const (
	initLine = `{"type":"system","subtype":"init"}` + "\n"
	taskLine = `{"type":"system","subtype":"task_notification"}` + "\n"
	userLine = `{"type":"user"}` + "\n"
)

// step is something that a CLI prints after a pause.
type step struct {
	after time.Duration
	text  string
}

// talks returns a CLI that prints its steps and then hangs until it is ended, or
// exits with code if hangs is false.
func talks(steps []step, hangs bool, code int) func(sandboxtest.Run) (sandbox.Exit, error) {
	return func(r sandboxtest.Run) (sandbox.Exit, error) {
		for _, s := range steps {
			select {
			case <-time.After(s.after):
			case <-r.Killed:
				return sandbox.Exit{Code: 137, Signal: syscall.SIGKILL}, nil
			case sig := <-r.Signals:
				return sandbox.Exit{Code: 128 + int(sig), Signal: sig}, nil
			}
			_, _ = io.WriteString(r.Stdout, s.text)
		}
		if hangs {
			return untilTerm(r)
		}
		return sandbox.Exit{Code: code}, nil
	}
}

func TestARunEndsAfterItsResult(t *testing.T) {
	server := []step{{0, initLine + good}}
	for range 100 {
		server = append(server, step{time.Second, taskLine})
	}
	for _, tt := range []struct {
		name  string
		steps []step
		hangs bool
		exit  int // of the outcome
		takes time.Duration
	}{
		{"it hangs after a good result", []step{{0, initLine + good}}, true, 0, resultGrace},
		{"it hangs after a bad result", []step{{0, initLine + badLine}}, true, 1, resultGrace},
		{"it hangs after a good result and then a bad one", []step{{0, good}, {time.Second, badLine}}, true, 1, time.Second + resultGrace},
		{"a background task keeps printing", server, true, 0, resultGrace},
		{"it exits in time", []step{{0, good}, {2 * time.Second, taskLine}}, false, 0, 2 * time.Second},
		{"another turn begins and is not interrupted", []step{{0, good}, {time.Second, taskLine + initLine}, {5 * time.Second, good}}, false, 0, 6 * time.Second},
		{"the result of the other turn counts", []step{{0, good}, {time.Second, initLine}, {5 * time.Second, badLine}}, true, 1, 6*time.Second + resultGrace},
		{"the other turn continues without output", []step{{0, good}, {time.Second, userLine}}, true, 124, interval},
		{"the time limit is reached while it hangs", []step{{interval - time.Second, good}}, true, 0, interval},
		{"no result", []step{{0, initLine + userLine}}, true, 124, interval},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := &sandboxtest.Fake{Program: talks(tt.steps, tt.hangs, 0)}
				began := time.Now()
				o, err := Config{}.Run(t.Context(), start(fake), turn())
				if err != nil || o.ExitCode != tt.exit || o.Success() != (tt.exit == 0) || o.TimedOut != (tt.exit == 124) {
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

func TestALingeringCLIIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		o, err := Config{}.Run(t.Context(), start(&sandboxtest.Fake{Program: untilKilled}), turn())
		if d := time.Since(began); err != nil || !o.Success() || d != resultGrace+termGrace {
			t.Errorf("after %v: %+v, %v", d, o, err)
		}
	})
}

func TestShellCommandsAreLimited(t *testing.T) {
	for limit, want := range map[time.Duration][2]string{
		30 * time.Second: {"BASH_DEFAULT_TIMEOUT_MS=10000", "BASH_MAX_TIMEOUT_MS=15000"},
		5 * time.Minute:  {"BASH_DEFAULT_TIMEOUT_MS=100000", "BASH_MAX_TIMEOUT_MS=150000"},
		time.Hour:        {"BASH_DEFAULT_TIMEOUT_MS=120000", "BASH_MAX_TIMEOUT_MS=1800000"},
	} {
		if got := shellLimits(limit); [2]string(got) != want {
			t.Errorf("a run of %v: %q, want %q", limit, got, want)
		}
	}
}
