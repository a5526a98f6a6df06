package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// waits is a CLI that waits for a message and repeats it.
func waits(r sandboxtest.Run) (sandbox.Exit, error) {
	got := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(r.Stdin).ReadString('\n')
		rest, _ := io.ReadAll(r.Stdin)
		got <- line + string(rest)
	}()
	select {
	case text := <-got:
		_, _ = io.WriteString(r.Stdout, text+good)
		return sandbox.Exit{}, nil
	case <-r.Killed:
		return sandbox.Exit{Code: 137, Signal: syscall.SIGKILL}, nil
	}
}

func TestAStartedCLIWaitsForItsPrompt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Config{Path: "/claude"}.Start(t.Context(), start(&sandboxtest.Fake{Program: waits}))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // the time limit begins with the prompt
		if !s.Alive(t.Context()) {
			t.Fatal("it has ended")
		}
		var got events
		w := turn()
		w.Prompt, w.Emit = "a \"game\"\nwith </ice>", got.emit
		o, err := s.Run(t.Context(), w)
		if err != nil || !o.Success() || o.Lines != 3 {
			t.Errorf("%+v, %v", o, err)
		}
		var line struct {
			Type    string
			Message struct{ Role, Content string }
		}
		if len(got.all) != 3 || json.Unmarshal([]byte(got.all[0]), &line) != nil || line.Type != "user" || line.Message.Role != "user" || line.Message.Content != Prompt(w.Prompt) {
			t.Errorf("its input: %q", got.all)
		}
		if s.Alive(t.Context()) {
			t.Error("it is still alive")
		}
	})
}

// claimed is a CLI that is claimed, answers, and repeats its prompt. answer gets the id and
// the directory of the request.
func claimed(answer func(id, dir string) string) func(sandboxtest.Run) (sandbox.Exit, error) {
	return func(r sandboxtest.Run) (sandbox.Exit, error) {
		lines := bufio.NewReader(r.Stdin)
		first := make(chan string, 1)
		go func() {
			line, _ := lines.ReadString('\n')
			first <- line
		}()
		var q struct {
			Type    string
			ID      string `json:"request_id"`
			Request struct {
				Subtype string
				Dir     string `json:"cwd"`
			}
		}
		select {
		case line := <-first:
			if err := json.Unmarshal([]byte(line), &q); err != nil || q.Type != "control_request" || q.Request.Subtype != "claim_session" || r.Args[len(r.Args)-1] != "--await-claim" {
				return sandbox.Exit{Code: 3}, nil
			}
		case <-r.Killed:
			return sandbox.Exit{Code: 137, Signal: syscall.SIGKILL}, nil
		}
		text := answer(q.ID, q.Request.Dir)
		if text == "" {
			return sandbox.Exit{Code: 9}, nil
		}
		_, _ = io.WriteString(r.Stdout, "{\"type\":\"before\"}\n"+text+"\n")
		r.Stdin = lines
		return waits(r)
	}
}

// runs checks that a CLI that waited gets its prompt, and that its events are those of its
// run alone.
func runs(t *testing.T, s *Started) {
	t.Helper()
	var got events
	w := turn()
	w.Prompt, w.Emit = "a game", got.emit
	o, err := s.Run(t.Context(), w)
	if err != nil || !o.Success() || o.Lines != 3 || len(got.all) != 3 || !strings.Contains(got.all[0], "a game") {
		t.Errorf("%+v, %v, %q", o, err, got.all)
	}
}

// TestAParkedCLIIsClaimed: what it says before its prompt is not of the run.
func TestAParkedCLIIsClaimed(t *testing.T) {
	const to = "/data/p \"q\""
	response := func(id, rest string) string {
		return `{"type":"control_response","response":{"request_id":"` + id + `",` + rest + `}}`
	}
	at := func(dir string) string { return `"response":{"status":"ok","cwd":` + strconv.Quote(dir) + `}` }
	for name, c := range map[string]struct {
		answer func(id, dir string) string
		want   string // in the error
		never  bool   // it is ErrNoClaim
	}{
		"claimed":           {func(id, dir string) string { return response(id, `"subtype":"success",`+at(dir)) }, "", false},
		"after another one": {func(id, dir string) string { return response("x", at("/x")) + "\n" + response(id, at(dir)) }, "", false},
		"it goes on talking": {func(id, dir string) string {
			return good + response(id, at(dir)) + strings.Repeat("\n{\"type\":\"after\"}", 2*maxEarly)
		}, "", false},
		"elsewhere": {func(id, dir string) string { return response(id, at("/")) }, "claimed", true},
		"refused":   {func(id, dir string) string { return response(id, `"response":{"status":"rejected"}`) }, "rejected", true},
		"not known": {func(id, dir string) string { return response(id, `"subtype":"error","error":"no such request"`) }, "no such request", true},
		"no answer": {func(id, dir string) string { return response("x", at(dir)) }, "no answer", true},
		"no JSON":   {func(id, dir string) string { return "{" }, "no answer", true},
		"ended":     {func(id, dir string) string { return "" }, "ended with code 9", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := Config{Path: "/claude"}.Start(t.Context(), parked(&sandboxtest.Fake{Program: claimed(c.answer)}))
				if err != nil {
					t.Fatal(err)
				}
				err = s.Claim(t.Context(), to)
				synctest.Wait()
				if c.want != "" {
					if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrNoClaim) != c.never {
						t.Errorf("%v, want %q", err, c.want)
					}
					if err := s.End(t.Context()); err != nil {
						t.Error(err)
					}
					return
				}
				runs(t, s)
			})
		})
	}
}

func parked(sb sandbox.Sandbox) Start {
	s := start(sb)
	s.Parked = true
	return s
}

// TestACancelledClaim says nothing about the CLI.
func TestACancelledClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Config{Path: "/claude"}.Start(t.Context(), parked(&sandboxtest.Fake{Program: claimed(func(string, string) string { return "{}" })}))
		if err != nil {
			t.Fatal(err)
		}
		cancelled := errors.New("cancelled")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cancelled) })
		if err := s.Claim(ctx, "/p"); !errors.Is(err, cancelled) || errors.Is(err, ErrNoClaim) {
			t.Error(err)
		}
		if err := s.End(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestARehearsalIsNoPartOfTheRun: neither what it answers, nor when it does.
func TestARehearsalIsNoPartOfTheRun(t *testing.T) {
	for name, late := range map[string]bool{"before the prompt": false, "after it": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				prompted := make(chan struct{})
				s, err := Config{Path: "/claude"}.Start(t.Context(), start(&sandboxtest.Fake{Program: func(r sandboxtest.Run) (sandbox.Exit, error) {
					lines := bufio.NewReader(r.Stdin)
					first, err := lines.ReadString('\n')
					if err != nil {
						return sandbox.Exit{}, err
					}
					var q struct {
						Type    string
						ID      string `json:"request_id"`
						Request struct{ Subtype string }
					}
					if json.Unmarshal([]byte(first), &q) != nil || q.Type != "control_request" || q.Request.Subtype != "get_context_usage" {
						return sandbox.Exit{Code: 3}, nil
					}
					if late {
						<-prompted
					}
					_, _ = io.WriteString(r.Stdout, `{"type":"control_response","response":{"subtype":"success","request_id":"`+q.ID+`","response":{"totalTokens":1}}}`+"\n")
					r.Stdin = lines
					return waits(r)
				}}))
				if err != nil {
					t.Fatal(err)
				}
				rehearsed := s.Rehearse()
				synctest.Wait()
				ctx, stop := context.WithTimeout(t.Context(), time.Second)
				defer stop()
				if err := rehearsed(ctx); (err == nil) == late {
					t.Errorf("it has rehearsed: %v", err)
				}
				if late {
					time.AfterFunc(time.Millisecond, func() { close(prompted) })
				}
				runs(t, s)
			})
		})
	}
}

func TestTheEndOfTheCallersContextDoesNotEndAStartedCLI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := Config{}.Start(ctx, start(&sandboxtest.Fake{Program: waits}))
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		if o, err := s.Run(t.Context(), turn()); err != nil || !o.Success() {
			t.Errorf("%+v, %v", o, err)
		}
	})
}

func TestAStartedCLICanBeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &sandboxtest.Fake{Program: waits}
		s, err := Config{}.Start(t.Context(), start(fake))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.End(t.Context()); err != nil || s.Alive(t.Context()) || fake.EndAlls() != 1 {
			t.Errorf("%v, alive %v, ended %d times", err, s.Alive(t.Context()), fake.EndAlls())
		}
	})
}

func TestStartErrors(t *testing.T) {
	disk := errors.New("disk full")
	if s, err := (Config{}).Start(t.Context(), start(&sandboxtest.Fake{StartErr: disk})); s != nil || !errors.Is(err, disk) {
		t.Errorf("%v, %v", s, err)
	}
}

// A CLI that ended while it waited ends its run at once, without success.
func TestARunOfACLIThatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Config{}.Start(t.Context(), start(&sandboxtest.Fake{Program: says("", 1)}))
		if err != nil {
			t.Fatal(err)
		}
		<-s.Done()
		if o, err := s.Run(t.Context(), turn()); err != nil || o.ExitCode != 1 || o.Success() || o.Talked {
			t.Errorf("%+v, %v", o, err)
		}
	})
}

func TestLinesBeforeThePromptAreKeptWithinBounds(t *testing.T) {
	early := func(text string) func(sandboxtest.Run) (sandbox.Exit, error) {
		return func(r sandboxtest.Run) (sandbox.Exit, error) {
			_, _ = io.WriteString(r.Stdout, text)
			return waits(r)
		}
	}
	for _, tt := range []struct {
		name, text string
		alive      bool
	}{
		{"a line", "{\"type\":\"early\"}\n", true},
		{"too many lines", strings.Repeat("{\"type\":\"early\"}\n", maxEarly+1), false},
		{"a long line", `"` + strings.Repeat("x", earlyBytes) + "\"\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := Config{}.Start(t.Context(), start(&sandboxtest.Fake{Program: early(tt.text)}))
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if s.Alive(t.Context()) != tt.alive {
					t.Fatalf("alive: %v", s.Alive(t.Context()))
				}
				var got events
				w := turn()
				w.Emit = got.emit
				o, err := s.Run(t.Context(), w)
				if tt.alive && (err != nil || !o.Success() || len(got.all) != 4 || got.all[0] != strings.TrimSpace(tt.text)) {
					t.Errorf("%+v, %v, %q", o, err, got.all)
				}
				if !tt.alive && !errors.Is(err, errEarly) {
					t.Errorf("%+v, %v", o, err)
				}
			})
		})
	}
}

func TestAnErrorOfEmitForAnEarlyLineEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := errors.New("disk full")
		s, err := Config{}.Start(t.Context(), start(&sandboxtest.Fake{Program: func(r sandboxtest.Run) (sandbox.Exit, error) {
			_, _ = io.WriteString(r.Stdout, "{\"type\":\"early\"}\n")
			return waits(r)
		}}))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w := turn()
		w.Emit = func(dreamcore.Event) error { return disk }
		if o, err := s.Run(t.Context(), w); !errors.Is(err, disk) {
			t.Errorf("%+v, %v", o, err)
		}
	})
}

// scene is a start with its files.
type scene struct {
	config Config
	start  Start
	from   Sources
	now    time.Time
	dirs   [3]string // project, home, skills
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{
		config: Config{Path: "/claude", Skills: "/global/.claude", UID: 7},
		start:  Start{Dir: "/p", Token: "one", Session: Session{ID: session, Resume: true}, Limit: time.Minute},
		now:    time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC),
	}
	for i := range s.dirs {
		s.dirs[i] = t.TempDir()
	}
	s.put(t, 1, SessionFile("/p", session), "{}\n")
	s.put(t, 2, "skills/p5js/SKILL.md", "how")
	s.from = Sources{Project: root(t, s.dirs[0]), Home: root(t, s.dirs[1]), Skills: s.dirs[2]}
	return s
}

func root(t *testing.T, dir string) *os.Root {
	t.Helper()
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func (s *scene) put(t *testing.T, dir int, name, text string) {
	t.Helper()
	file := filepath.Join(s.dirs[dir], name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func (s *scene) origin(t *testing.T) Origin {
	t.Helper()
	o, err := s.config.Origin(s.start, s.from, s.now)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOrigin(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, s *scene)
		same   bool
	}{
		{"nothing", func(*testing.T, *scene) {}, true},
		{"the token", func(_ *testing.T, s *scene) { s.start.Token = "two" }, true},
		{"an hour later", func(_ *testing.T, s *scene) { s.now = s.now.Add(time.Hour) }, true},
		{"the CLI writes to its home", func(t *testing.T, s *scene) { s.put(t, 1, ".claude.json", "{}") }, true},
		{"the CLI appends to the conversation", func(t *testing.T, s *scene) { s.put(t, 1, SessionFile("/p", session), "{}\n{}\n") }, true},
		{"a file of the project", func(t *testing.T, s *scene) { s.put(t, 0, "index.html", "<p>") }, true},
		{"the next day", func(_ *testing.T, s *scene) { s.now = s.now.Add(12 * time.Hour) }, false},
		{"the model", func(_ *testing.T, s *scene) { s.config.Model = "other" }, false},
		{"the tools", func(_ *testing.T, s *scene) { s.config.Tools = []string{"Read"} }, false},
		{"a variable", func(_ *testing.T, s *scene) { s.config.Given = []string{"A=b"} }, false},
		{"the time limit", func(_ *testing.T, s *scene) { s.start.Limit = time.Second }, false},
		{"the user", func(_ *testing.T, s *scene) { s.config.UID = 8 }, false},
		{"the conversation", func(t *testing.T, s *scene) {
			s.start.Session.ID = "x"
			s.put(t, 1, SessionFile("/p", "x"), "{}\n")
		}, false},
		{"a new conversation", func(_ *testing.T, s *scene) { s.start.Session.Resume = false }, false},
		{"a conversation that was replaced", func(t *testing.T, s *scene) {
			file := filepath.Join(s.dirs[1], SessionFile("/p", session))
			if err := os.Rename(file, file+".old"); err != nil {
				t.Fatal(err)
			}
			s.put(t, 1, SessionFile("/p", session), "{}\n")
		}, false},
		{"another project", func(t *testing.T, s *scene) { s.from.Project = root(t, t.TempDir()) }, false},
		{"the text of a skill", func(t *testing.T, s *scene) { s.put(t, 2, "skills/p5js/SKILL.md", "why") }, false},
		{"one more skill", func(t *testing.T, s *scene) { s.put(t, 2, "skills/new/SKILL.md", "new") }, false},
		{"no skills", func(_ *testing.T, s *scene) { s.config.Skills, s.from.Skills = "", "" }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			before := s.origin(t)
			tt.change(t, s)
			if same := s.origin(t) == before; same != tt.same {
				t.Errorf("same origin: %v", same)
			}
		})
	}
	t.Run("new conversations with different ids", func(t *testing.T) {
		s := newScene(t)
		s.start.Session = Session{ID: "a"}
		before := s.origin(t)
		if s.start.Session.ID = "b"; s.origin(t) != before {
			t.Error("they differ")
		}
	})
}

func TestOriginErrors(t *testing.T) {
	for name, change := range map[string]func(*scene){
		"a conversation that is missing": func(s *scene) { s.start.Session.ID = "missing" },
		"skills that are missing":        func(s *scene) { s.from.Skills += "/missing" },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			change(s)
			if o, err := s.config.Origin(s.start, s.from, s.now); err == nil {
				t.Errorf("%s", o)
			}
		})
	}
	t.Run("too many skills", func(t *testing.T) {
		s := newScene(t)
		for i := range maxSkillFiles {
			s.put(t, 2, "skills/"+strings.Repeat("x", 1+i%200)+"/"+string(rune('a'+i/200)), "")
		}
		if o, err := s.config.Origin(s.start, s.from, s.now); !errors.Is(err, errManySkills) {
			t.Errorf("%s, %v", o, err)
		}
	})
}
