package job

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// then is an agent that makes a game, and mends it with another program.
func then(repair program) program {
	var prompts asked
	play, runs := mends(&prompts), 0
	return func(g guest) (int, error) {
		if runs++; runs > 1 {
			return repair(g)
		}
		return play(g)
	}
}

// noVerdict are checks of which only the first has a verdict, which is bad.
func noVerdict(_ context.Context, n int) (verdict.Report, error) {
	if n == 1 {
		return fails("hero is not defined"), nil
	}
	return verdict.Report{}, errFake
}

func limited(o options, limit time.Duration) options {
	base := o.settings
	o.settings = func(s *Settings) { base(s); s.TimeLimit = limit }
	return o
}

// gaveUp checks the end of a job whose game was last known not to play.
func (r *rig) gaveUp(id string, mode Acceptance, warning dreamcore.AcceptanceNote) {
	r.t.Helper()
	events := r.events(id)
	last, debug := r.ends(events)
	if debug.Timeout {
		r.t.Errorf("the time limit of a repair is reported as the job's")
	}
	warned := count(events, func(e event) bool { return e.Type == "warning" && e.Message == warning.Text(dreamcore.English) })
	switch {
	case mode == AcceptanceWarn && (last.Type != "done" || warned != 1):
		r.t.Errorf("%d warnings, %+v\n%s", warned, last, r.log)
	case mode == AcceptanceFail && last.Code != string(dreamcore.FailGameBroken):
		r.t.Errorf("%+v\n%s", last, r.log)
	}
	if j := r.final(id); mode == AcceptanceFail && !strings.Contains(j.Cause, "hero is not defined") {
		r.t.Errorf("cause %q", j.Cause)
	}
	if versions := r.versions(alice); len(versions) == 0 || versions[0] != "a snake" {
		r.t.Errorf("versions %q", versions)
	}
}

var modes = []Acceptance{AcceptanceWarn, AcceptanceFail}

func TestARepairLeavesTimeForItsCheck(t *testing.T) {
	b := &browser{fn: inOrder(fails("hero is not defined"), plays())}
	o := accepting(b, AcceptanceFail, then(func(g guest) (int, error) {
		if err := g.write("game.js", "mended"); err != nil {
			return 0, err
		}
		select {
		case sig := <-g.Signals:
			return 128 + int(sig), nil
		case <-time.After(3700 * time.Millisecond): // a bit of the limit is left, but not for a check
			g.say(good)
			return 0, nil
		}
	}))
	r := newRig(t, limited(o, 4*time.Second))
	id := r.submit(request(alice, "a snake"))
	events := r.events(id)
	if last, debug := r.ends(events); last.Type != "done" || debug.Timeout {
		t.Errorf("%+v, %+v\n%s", last, debug, r.log)
	}
	r.checked(b, 2)
	if j := r.final(id); j.Acceptance.Verdict != "passed" || j.Acceptance.Attempt != 2 {
		t.Errorf("%+v", j.Acceptance)
	}
}

func TestAGameLastKnownBrokenIsNotSimplyDone(t *testing.T) {
	changes := func(g guest) (int, error) { g.say(good); return 0, g.write("game.js", "mended") }
	nothing := func(g guest) (int, error) { g.say(good); return 0, nil }
	for _, mode := range modes {
		for _, tt := range []struct {
			name    string
			repair  program
			verdict string
			warning dreamcore.AcceptanceNote
		}{
			{"it has changed", changes, "unknown", dreamcore.NoteUnchecked},
			{"nothing has changed", nothing, "failed", dreamcore.NoteStillFails},
		} {
			t.Run(fmt.Sprintf("%s, %s", mode, tt.name), func(t *testing.T) {
				b := &browser{fn: noVerdict}
				r := newRig(t, accepting(b, mode, then(tt.repair)))
				id := r.submit(request(alice, "a snake"))
				r.gaveUp(id, mode, tt.warning)
				r.checked(b, 2)
				if j := r.final(id); j.Acceptance.Verdict != tt.verdict {
					t.Errorf("%+v", j.Acceptance)
				}
				if a := r.allOf(id, "acceptance"); len(a) != 2 || a[1]["verdict"] != "unknown" || a[1]["attempt"] != 2.0 {
					t.Errorf("%v", a)
				}
				if v := must(r.parts.History.Log(t.Context(), alice, project, 0))(t); v[0].Acceptance != tt.verdict {
					t.Errorf("%+v", v)
				}
			})
		}
	}
}

func TestAFailureInARepairLeavesTheGame(t *testing.T) {
	breaks := func(err error) program { return func(guest) (int, error) { return 0, err } }
	for name, repair := range map[string]program{
		"the sandbox is lost":         breaks(sandbox.ErrLost),
		"the sandbox is out of space": breaks(errors.Join(sandbox.ErrOutOfMemory, sandbox.ErrLost)),
		"another error":               breaks(errFake),
		"the agent fails":             func(g guest) (int, error) { _, _, _ = g.ask(question); return 7, nil },
		"the time is over":            untilStopped,
		"the project is full": func(g guest) (int, error) {
			for i := range 50 {
				if err := g.write(fmt.Sprint(i), "x"); err != nil {
					return 0, err
				}
			}
			return untilStopped(g)
		},
	} {
		for _, mode := range modes {
			t.Run(fmt.Sprintf("%s, %s", name, mode), func(t *testing.T) {
				b := &browser{fn: noVerdict}
				o := accepting(b, mode, then(repair))
				o.files = 20
				r := newRig(t, limited(o, 4*time.Second))
				id := r.submit(request(alice, "a snake"))
				r.gaveUp(id, mode, dreamcore.NoteStillFails)
				if j := r.final(id); j.Acceptance.Verdict != "failed" || j.Repairs != 1 {
					t.Errorf("%+v", j)
				}
			})
		}
	}
}

func TestACancelledRepairEndsTheJob(t *testing.T) {
	for name, end := range map[string]func(*rig, string){
		"cancelled": func(r *rig, id string) { r.service.Cancel(id) },
		"stopped": func(r *rig, _ string) {
			if err := r.parts.Workspaces.Stop(context.Background(), "user-"+string(alice)); err != nil {
				r.t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := &browser{fn: inOrder(fails("hero is not defined"))}
			r := newRig(t, accepting(b, AcceptanceWarn, then(untilStopped)))
			id := r.submit(request(alice, "a snake"))
			r.until(id, isType("began"))
			end(r, id)
			if last, _ := r.ends(r.events(id)); last.Code != string(dreamcore.FailCLITerminated) {
				t.Errorf("%+v\n%s", last, r.log)
			}
		})
	}
}

// A repair that was cut by the end of the service gets another attempt, whose failure
// leaves the game, too.
func TestAFailureAfterACutRepairLeavesTheGame(t *testing.T) {
	for name, tt := range map[string]struct {
		limit time.Duration
		again program
		runs  int // of the agent
	}{
		"the agent fails": {time.Minute, func(g guest) (int, error) { _, _, _ = g.ask(question); return 7, nil }, 1},
		"no time is left": {time.Millisecond, nil, 0},
	} {
		for _, mode := range modes {
			t.Run(fmt.Sprintf("%s, %s", name, mode), func(t *testing.T) {
				b := &browser{fn: inOrder(fails("hero is not defined"))}
				r := resuming(t, accepting(b, mode, then(untilStopped)))
				id := r.submit(request(alice, "a snake"))
				r.until(id, isType("began"))
				r.close()

				var prompts asked
				c := &browser{fn: func(context.Context, int) (verdict.Report, error) { return verdict.Report{}, errFake }}
				o := accepting(c, mode, func(g guest) (int, error) {
					prompts.note(g)
					if tt.again == nil {
						return 1, nil
					}
					return tt.again(g)
				})
				o.dir = r.dir
				next := resuming(t, limited(o, tt.limit))
				next.recover()
				next.gaveUp(id, mode, dreamcore.NoteStillFails)
				got := prompts.list()
				if len(got) != tt.runs || tt.runs > 0 && (!strings.Contains(got[0], interrupted) || !strings.Contains(got[0], "hero is not defined")) {
					t.Errorf("%q", got)
				}
			})
		}
	}
}

func TestOnlyOperatorsLearnWhyACheckHasNoVerdict(t *testing.T) {
	const secret = "/srv/state/sandboxes/17"
	for _, err := range []error{
		errors.New("open " + secret),
		fmt.Errorf("check: %w", &dreamcore.Error{Reason: acceptance.ReasonDied, Message: "the browser ended during the check", Err: errors.New(secret)}),
		&dreamcore.Error{Code: dreamcore.CodeSetup, Message: secret, Err: errFake},
	} {
		b := &browser{fn: func(context.Context, int) (verdict.Report, error) { return verdict.Report{}, err }}
		var prompts asked
		r := newRig(t, accepting(b, AcceptanceWarn, mends(&prompts)))
		id := r.submit(request(alice, "a snake"))
		a := r.allOf(id, "acceptance")
		if text := fmt.Sprint(a[0]["reason"]); len(a) != 1 || text == "" || strings.Contains(text, secret) {
			t.Errorf("%v", a)
		}
		if dreamcore.ReasonOf(err) != "" && a[0]["reason"] != "the browser ended during the check" {
			t.Errorf("%v", a)
		}
		if j := r.final(id); !strings.Contains(j.Acceptance.Reason, secret) || !strings.Contains(r.log.String(), secret) {
			t.Errorf("operators do not learn it: %+v", j.Acceptance)
		}
	}
}

func TestACutRepairWithoutBudgetLeavesTheGame(t *testing.T) {
	ledger := openLedger(t, t.TempDir(), usage.Limits{})
	spends := func(o options) options {
		o.upstream = gateway.HandlerUpstream(&teller{})
		parts := o.parts
		o.parts = func(p *Parts) { parts(p); p.Ledger = ledger }
		return o
	}
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			ledger.Apply(usage.Prices{}, usage.Limits{})
			b := &browser{fn: inOrder(fails("hero is not defined"))}
			r := resuming(t, spends(accepting(b, mode, then(func(g guest) (int, error) {
				_, _, _ = g.ask(question)
				return untilStopped(g)
			}))))
			id := r.submit(request(alice, "a snake"))
			r.until(id, isType("began"))
			r.close()

			ledger.Apply(usage.Prices{}, usage.Limits{JobTokens: 1})
			var prompts asked
			c := &browser{fn: inOrder(fails("hero is not defined"))}
			o := spends(accepting(c, mode, mends(&prompts)))
			o.dir = r.dir
			next := resuming(t, o)
			next.recover()
			next.gaveUp(id, mode, dreamcore.NoteStillFails)
			next.checked(c, 1) // what the repair has left
			if len(prompts.list()) != 0 {
				t.Errorf("%q", prompts.list())
			}
		})
	}
}

// A game that was made is not lost because the service ends too often while it is
// checked or mended.
func TestAGameOutlivesTheAttemptsOfItsRepair(t *testing.T) {
	for name, cut := range map[string]func(*rig) string{
		"crash": (*rig).crashed,
		"stop":  func(r *rig) string { r.close(); return r.dir },
	} {
		for _, mode := range modes {
			t.Run(fmt.Sprintf("%s, %s", name, mode), func(t *testing.T) {
				b := &browser{fn: inOrder(fails("hero is not defined"))}
				o := accepting(b, mode, then(untilStopped))
				r := resuming(t, o)
				id := r.submit(stays(request(alice, "a snake")))
				r.until(id, isType("began"))
				o.dir = cut(r)
				r = resuming(t, o)
				r.recover()
				began := 0
				r.until(id, func(e event) bool {
					began += count([]event{e}, isType("began"))
					return began == 2
				})
				o.dir = cut(r)

				c := &browser{fn: inOrder(plays())}
				o.parts, o.play = func(p *Parts) { p.Checker = c }, func(guest) (int, error) {
					t.Error("the agent runs again")
					return 1, nil
				}
				next := resuming(t, o)
				next.recover()
				next.gaveUp(id, mode, dreamcore.NoteStillFails)
				next.checked(c, 0)
				if v := must(next.parts.History.Log(t.Context(), alice, project, 0))(t); len(v) != 2 { // with what the repair has left
					t.Errorf("%+v", v)
				}
			})
		}
	}
}
