package job

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// failingModel returns a model that answers every request with a status.
func failingModel(t *testing.T, status int) gateway.Upstream {
	t.Helper()
	script, err := replay.Parse(fmt.Appendf(nil, `{"conversations":[[{"text":"x","fail":{"status":%d}}]]}`, status))
	if err != nil {
		t.Fatal(err)
	}
	return gateway.HandlerUpstream(replay.New(script))
}

const question = `{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"x"}],"tools":[{"name":"Write"}]}`

// talks returns an agent that keeps its conversation in the same file as the CLI.
func talks(seen *[]string) program {
	return func(g guest) (int, error) {
		id := g.arg("--session-id")
		if id != "" {
			file := filepath.Join(g.home(), agent.SessionFile(g.Dir, id))
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				return 0, err
			}
			if err := os.WriteFile(file, []byte("{}\n"), 0o600); err != nil {
				return 0, err
			}
		}
		*seen = append(*seen, "new "+id)
		if resumed := g.arg("--resume"); resumed != "" {
			(*seen)[len(*seen)-1] = "resume " + resumed
		}
		g.say(good)
		return 0, g.write("index.html", "made")
	}
}

// ifResumed plays a program only if a conversation is resumed.
func ifResumed(resumed, other program) program {
	return func(g guest) (int, error) {
		if g.arg("--resume") != "" {
			return resumed(g)
		}
		return other(g)
	}
}

func TestAConversationIsContinuedInItsProject(t *testing.T) {
	var seen []string
	r := newRig(t, options{play: talks(&seen)})
	for range 3 {
		r.run(request(alice, "x"))
	}
	r.run(request(bob, "x")) // the same project id of another user is another project
	if len(seen) != 4 || seen[0] == "new " {
		t.Fatalf("sessions %q", seen)
	}
	id := seen[0][len("new "):]
	if seen[1] != "resume "+id || seen[2] != "resume "+id || seen[3] == "new "+id || seen[3] == "resume "+id {
		t.Errorf("sessions %q", seen)
	}
}

func TestAConversationThatTheAgentNeverWroteIsNotResumed(t *testing.T) {
	var seen []string
	note := func(g guest) (int, error) {
		seen = append(seen, g.arg("--session-id"))
		return 1, nil
	}
	r := newRig(t, options{play: note})
	r.run(request(alice, "x"))
	r.run(request(alice, "x"))
	// Each job runs the agent twice.
	slices.Sort(seen)
	if distinct := slices.Compact(slices.Clone(seen)); len(distinct) != 4 || seen[0] == "" {
		t.Errorf("sessions %q", seen)
	}
}

func TestAConversationIsForgottenOnlyWhenItCannotBeContinued(t *testing.T) {
	synthetic := `{"type":"assistant","message":{"model":"<synthetic>"}}` + "\n" + `{"type":"result","is_error":true}` + "\n"
	asks := func(exit int) program {
		return func(g guest) (int, error) {
			if _, _, err := g.ask(question); err != nil {
				return 0, err
			}
			g.say(synthetic)
			return exit, nil
		}
	}
	for _, tt := range []struct {
		name   string
		play   program // of the second job, which resumes
		model  int     // status of the model
		forget bool
		runs   int // of the second job
	}{
		{"nothing to resume", func(g guest) (int, error) { g.say("No conversation found\n"); return 1, nil }, 500, true, 2},
		{"exit 0 without output", func(guest) (int, error) { return 0, nil }, 500, true, 2},
		{"the model refuses all of it", asks(1), 400, true, 2},
		{"it crashes the agent", func(guest) (int, error) { return 137, nil }, 500, true, 2},
		{"it blocks the agent", untilStopped, 500, true, 1},
		{"the model is busy", asks(1), 429, false, 1},
		{"the model is broken", asks(1), 500, false, 1},
		{"the key is wrong", asks(1), 401, false, 1},
		{"the agent is killed after it asked", asks(137), 400, false, 2},
		{"the agent fails after the model answered", func(g guest) (int, error) {
			g.say(`{"type":"assistant","message":{"model":"m"}}` + "\n")
			return 1, nil
		}, 500, false, 1},
		{"it succeeds", func(g guest) (int, error) { g.say(good); return 0, nil }, 500, false, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var seen []string
			r := newRig(t, options{
				play: talks(&seen), upstream: failingModel(t, tt.model),
				settings: func(s *Settings) { s.TimeLimit = time.Second },
			})
			r.run(request(alice, "first"))
			runs := 0
			r.playing(func(g guest) (int, error) {
				runs++
				return ifResumed(tt.play, talks(&seen))(g)
			})
			events := r.run(request(alice, "second"))
			if runs != tt.runs || count(events, says("started once more")) != runs-1 {
				t.Errorf("the agent ran %d times, want %d: %+v", runs, tt.runs, events)
			}
			if last, _ := r.ends(events); tt.forget && tt.runs == 2 && last.Type != "done" {
				t.Errorf("%+v\n%s", last, r.log)
			}
			r.playing(talks(&seen))
			r.run(request(alice, "third"))
			if len(seen) < 2 || strings.Contains(r.log.String(), "UNKNOWN_ERROR") {
				t.Fatalf("sessions %q\n%s", seen, r.log)
			}
			if forgot := seen[1] != "resume "+seen[0][len("new "):]; forgot != tt.forget {
				t.Errorf("sessions %q; forgotten: %v, want %v\n%s", seen, forgot, tt.forget, r.log)
			}
		})
	}
}

func TestACancelledRunKeepsItsConversation(t *testing.T) {
	var seen []string
	r := newRig(t, options{play: talks(&seen)})
	r.run(request(alice, "first"))
	r.playing(untilStopped)
	id := r.submit(request(alice, "second"))
	r.until(id, isType("began"))
	r.service.Cancel(id)
	r.events(id)
	r.playing(talks(&seen))
	r.run(request(alice, "third"))
	if len(seen) != 2 || seen[1] != "resume "+seen[0][len("new "):] {
		t.Errorf("sessions %q", seen)
	}
}
