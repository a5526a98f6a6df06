package job

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

const answered = `{"type":"assistant","message":{"model":"m"}}` + "\n"

// inTurn plays one program after another, and repeats the last one.
func inTurn(runs *int, programs ...program) program {
	return func(g guest) (int, error) {
		p := programs[min(*runs, len(programs)-1)]
		*runs++
		return p(g)
	}
}

// after returns a program that does something and exits with a code.
func after(do func(guest) error, exit int) program {
	return func(g guest) (int, error) { return exit, do(g) }
}

func TestARunIsRepeatedOnlyIfItChangedNothing(t *testing.T) {
	asks := func(g guest) error {
		_, _, err := g.ask(question)
		g.say(answered)
		return err
	}
	nothing := func(guest) error { return nil }
	for _, tt := range []struct {
		name  string
		first program
		model int
		runs  int
		code  dreamcore.FailureCode // "" after a success
	}{
		{"a crash before it asked", after(nothing, 139), 500, 2, ""},
		{"a crash after it asked", after(asks, 139), 400, 2, ""},
		{"an abort", after(asks, 134), 400, 2, ""},
		{"an illegal instruction", after(asks, 132), 400, 2, ""},
		{"a trap", after(asks, 133), 400, 2, ""},
		{"a bus error", after(asks, 135), 400, 2, ""},
		{"a floating point error", after(asks, 136), 400, 2, ""},
		{"killed by the kernel", after(asks, 137), 400, 2, ""},
		{"a crash after a change that no version has", after(func(g guest) error {
			return os.MkdirAll(filepath.Join(g.project(), "empty", ".git"), 0o755)
		}, 139), 500, 2, ""},
		{"a crash after it wrote", after(func(g guest) error { return g.write("half.js", "half") }, 139), 500, 1, dreamcore.FailCLIUnknown},
		{"killed after it wrote", after(func(g guest) error { return g.write("half.js", "half") }, 137), 500, 1, dreamcore.FailCLIKilled},
		{"out of memory", func(guest) (int, error) { return 0, sandbox.ErrOutOfMemory }, 500, 1, dreamcore.FailCLIKilled},
		{"it could not start", after(nothing, 1), 500, 2, ""},
		{"it could not start and printed nothing", after(nothing, 0), 500, 2, ""},
		{"SIGTERM from inside after it asked", after(asks, 143), 400, 1, dreamcore.FailCLITerminated},
		{"an unknown exit code after it asked", after(asks, 7), 400, 1, dreamcore.FailCLIUnknown},
		{"it failed after it asked", after(asks, 1), 400, 1, dreamcore.FailCLIGeneral},
		{"the key is refused", after(asks, 1), 401, 1, dreamcore.FailAuth},
		{"the model is broken", after(asks, 1), 500, 1, dreamcore.FailNetwork},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runs := 0
			r := newRig(t, options{play: inTurn(&runs, tt.first, makesGame), upstream: failingModel(t, tt.model)})
			events := r.run(request(alice, "x"))
			last, debug := r.ends(events)
			if runs != tt.runs || last.Code != string(tt.code) {
				t.Errorf("%d runs, last event %+v\n%s", runs, last, r.log)
			}
			if more := count(events, says("it is started once more")); more != runs-1 {
				t.Errorf("%d more runs were reported", more)
			}
			if tt.runs == 2 && (debug.Lines < 3 || *debug.Files != 1 || count(events, says("Git commit created")) != 1) {
				t.Errorf("debug event %+v", debug)
			}
		})
	}
}

func TestARunIsRepeatedOnce(t *testing.T) {
	runs := 0
	r := newRig(t, options{play: inTurn(&runs, after(func(guest) error { return nil }, 139))})
	if last, _ := r.ends(r.run(request(alice, "x"))); runs != 2 || last.Code != string(dreamcore.FailCLIUnknown) || *last.Exit != 139 {
		t.Errorf("%d runs, %+v\n%s", runs, last, r.log)
	}
}

func TestAllRunsShareTheTimeLimit(t *testing.T) {
	runs := 0
	began := time.Now()
	slow := after(func(guest) error { time.Sleep(300 * time.Millisecond); return nil }, 139)
	r := newRig(t, options{play: inTurn(&runs, slow, untilStopped), settings: func(s *Settings) { s.TimeLimit = time.Second }})
	last, debug := r.ends(r.run(request(alice, "x")))
	if runs != 2 || last.Code != string(dreamcore.FailCLITimeout) || !debug.Timeout || debug.Took > 1.9 && time.Since(began) < 3*time.Second {
		t.Errorf("%d runs, %+v, %+v", runs, last, debug)
	}
	runs = 0
	late := after(func(guest) error { time.Sleep(950 * time.Millisecond); return nil }, 139)
	r.playing(inTurn(&runs, late, makesGame))
	if last, _ := r.ends(r.run(request(bob, "x"))); runs != 1 || last.Type != "error" {
		t.Errorf("with no time left: %d runs, %+v", runs, last)
	}
}

// breaks returns a CLI that does not start if its home has a certain file.
func breaks(name string) program {
	return func(g guest) (int, error) {
		if _, err := os.Lstat(filepath.Join(g.home(), name)); err == nil {
			g.say("broken\n")
			return 1, nil
		}
		return makesGame(g)
	}
}

func TestAnUnusableHomeIsSetAside(t *testing.T) {
	r := newRig(t, options{})
	spoil := func(name, text string, then program) program {
		return func(g guest) (int, error) {
			path := filepath.Join(g.home(), name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return 0, err
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				return 0, err
			}
			return then(g)
		}
	}
	fails := func(guest) (int, error) { return 1, nil }
	for _, tt := range []struct{ name, text string }{{".claude.json", ""}, {".claude.json", `{"a":1}`}, {".claude/odd", "x"}} {
		// A file of an earlier job is removed before the agent is started.
		r.playing(spoil(tt.name, tt.text, makesGame))
		r.run(request(alice, "spoil"))
		r.playing(breaks(tt.name))
		events := r.run(request(alice, "x"))
		if last, _ := r.ends(events); last.Type != "done" || count(events, says("The agent could not start")) != 0 {
			t.Errorf("%s of an earlier job: %+v\n%s", tt.name, events, r.log)
		}
		// A file that the first run leaves is set aside for the second run.
		runs := 0
		r.playing(inTurn(&runs, spoil(tt.name, tt.text, fails), breaks(tt.name)))
		events = r.run(request(alice, "x"))
		if last, _ := r.ends(events); last.Type != "done" || count(events, says("The agent could not start")) != 1 {
			t.Errorf("%s of the first run: %+v\n%s", tt.name, events, r.log)
		}
	}
}

func TestAHomeIsRestoredIfItIsNotTheReason(t *testing.T) {
	var seen []string
	r := newRig(t, options{play: talks(&seen)})
	r.run(request(alice, "first"))
	r.playing(func(guest) (int, error) { return 1, nil }) // the program itself is broken
	if last, _ := r.ends(r.run(request(alice, "second"))); last.Code != string(dreamcore.FailCLIGeneral) {
		t.Errorf("%+v", last)
	}
	r.playing(talks(&seen))
	r.run(request(alice, "third"))
	if len(seen) != 2 || seen[1] != "resume "+seen[0][len("new "):] {
		t.Errorf("sessions %q\n%s", seen, r.log)
	}
}

func TestAnEmptyProjectIsAFailure(t *testing.T) {
	r := newRig(t, options{play: func(g guest) (int, error) { g.say(good); return 0, nil }})
	last, debug := r.ends(r.run(request(alice, "x")))
	if last.Code != string(dreamcore.FailNoGame) || last.Exit != nil || debug.Files == nil || *debug.Files != 0 || debug.Commit != "" {
		t.Errorf("%+v %+v", last, debug)
	}
	if !strings.Contains(r.log.String(), "NO_GAME") {
		t.Errorf("it is not in the log: %s", r.log)
	}
	// So is one whose files the agent has removed.
	r.playing(makesGame)
	r.run(request(alice, "x"))
	r.playing(func(g guest) (int, error) {
		g.say(good)
		return 0, os.Remove(filepath.Join(g.project(), "index.html"))
	})
	last, debug = r.ends(r.run(request(alice, "x")))
	if last.Code != string(dreamcore.FailNoGame) || *debug.Files != 1 || debug.Commit == "" {
		t.Errorf("%+v %+v", last, debug)
	}
}
