package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

func TestAJobThatSucceeds(t *testing.T) {
	r := newRig(t, options{})
	events := r.run(request(alice, "a snake game\nwith ice"))
	last, debug := r.ends(events)
	if last.Type != "done" || last.Debug != 0 {
		t.Errorf("last event %+v\n%s", last, r.log)
	}
	versions := r.versions(alice)
	if len(versions) != 1 || versions[0] != "a snake game with ice" {
		t.Errorf("versions %q", versions)
	}
	if len(debug.Commit) != 7 || count(events, says("Git commit created: "+debug.Commit)) != 1 || debug.Lines != 3 || debug.Files == nil || *debug.Files != 1 {
		t.Errorf("debug event %+v", debug)
	}
	var order []string
	for _, e := range events {
		order = append(order, e.Type)
	}
	want := []string{"status", "status", "status", "system", "assistant", "result", "status", "log", "debug", "done"}
	if !slices.Equal(order, want) {
		t.Errorf("events %v, want %v", order, want)
	}
	// Without a change there is no new version, and the old one is reported.
	r.playing(func(g guest) (int, error) { g.say(good); return 0, nil })
	events = r.run(request(alice, "nothing"))
	last, again := r.ends(events)
	if last.Type != "done" || again.Commit != debug.Commit || count(events, says("Git commit")) != 0 || *again.Files != 0 {
		t.Errorf("without a change: %+v, %+v", last, again)
	}
	if n := count(events, func(e event) bool { return e.Type == "warning" && e.Message == unchanged }); n != 1 {
		t.Errorf("%d warnings that nothing was changed", n)
	}
}

func TestMountsOfASandbox(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // the umask of the operator must not affect the agent's access
	r := newRig(t, options{play: func(g guest) (int, error) {
		for _, dir := range []string{g.project(), g.home(), g.sockets()} {
			var st syscall.Stat_t
			if err := syscall.Stat(dir, &st); err != nil {
				return 0, err
			}
			if st.Uid != agentU && st.Mode&0o005 != 0o005 {
				g.say(fmt.Sprintf("locked out of %s: mode %o\n", dir, st.Mode))
			}
		}
		return makesGame(g)
	}})
	events := r.run(request(alice, "x"))
	if last, _ := r.ends(events); last.Type != "done" || count(events, says("locked out")) > 0 {
		t.Errorf("%+v", events)
	}
	inside := "/data/users/" + string(alice) + "/projects"
	got := map[string]bool{} // target → writable
	for _, m := range r.specs[0].Mounts {
		got[m.Target] = m.Writable
		if strings.Contains(m.Source, string(alice)) != m.Writable {
			t.Errorf("mount %+v", m)
		}
	}
	want := map[string]bool{inside: true, "/home/agent": true, "/opt/claude": false, "/run/gw": false, "/global": false}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("mounts %v, want %v", got, want)
	}
}

func TestFailuresEndWithTheirEvent(t *testing.T) {
	exits := func(code int) program {
		return func(g guest) (int, error) {
			if err := g.write("half.js", "half"); err != nil {
				return 0, err
			}
			return code, nil
		}
	}
	breaks := func(err error) program {
		return func(g guest) (int, error) { return 0, err }
	}
	oom := fmt.Errorf("%w: %w", sandbox.ErrOutOfMemory, sandbox.ErrLost)
	for _, tt := range []struct {
		name   string
		play   program
		create func(*sandboxtest.Fake) error
		wrap   func(sandbox.Sandbox) sandbox.Sandbox
		code   dreamcore.FailureCode
		exit   int // 0 if the event has none
		saved  bool
	}{
		{name: "the agent fails", play: exits(1), code: dreamcore.FailCLIGeneral, exit: 1, saved: true},
		{name: "an unknown exit code", play: exits(7), code: dreamcore.FailCLIUnknown, exit: 7, saved: true},
		{name: "killed", play: exits(137), code: dreamcore.FailCLIKilled, exit: 137, saved: true},
		{name: "exit 0 without a result", play: exits(0), code: dreamcore.FailCLIGeneral, exit: 1, saved: true},
		{name: "no sandbox", create: func(*sandboxtest.Fake) error { return errFake }, code: dreamcore.FailSandbox},
		{name: "the agent cannot be started", create: func(f *sandboxtest.Fake) error { f.StartErr = errFake; return nil }, code: dreamcore.FailUnknown},
		{name: "a sandbox that is lost", play: breaks(sandbox.ErrLost), code: dreamcore.FailSandboxLost},
		{name: "out of memory", play: breaks(oom), code: dreamcore.FailCLIKilled, exit: 137},
		{name: "processes that do not end", create: func(f *sandboxtest.Fake) error { f.EndAllErr = errFake; return nil }, code: dreamcore.FailUnknown, saved: true},
		{name: "a panic during its creation", create: func(*sandboxtest.Fake) error { panic("boom") }, code: dreamcore.FailUnknown},
		{name: "a panic in the middle", wrap: func(sb sandbox.Sandbox) sandbox.Sandbox { return panics{sb} }, code: dreamcore.FailUnknown, saved: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, options{play: tt.play})
			r.create, r.wrap = tt.create, tt.wrap
			last, debug := r.ends(r.run(request(alice, "x")))
			if last.Type != "error" || last.Code != string(tt.code) || last.User == "" {
				t.Errorf("last event %+v, want %s\n%s", last, tt.code, r.log)
			}
			if (last.Exit != nil) != (tt.exit != 0) || last.Exit != nil && (*last.Exit != tt.exit || debug.Debug != tt.exit) {
				t.Errorf("exit code in %+v and %+v, want %d", last, debug, tt.exit)
			}
			if got := len(r.versions(alice)) == 1; got != tt.saved || (debug.Commit != "") != tt.saved {
				t.Errorf("saved: %v, want %v; debug event %+v", got, tt.saved, debug)
			}
			for _, secret := range []string{"boom", errFake.Error()} {
				if strings.Contains(last.User, secret) {
					t.Errorf("the player sees %q", last.User)
				}
			}
			// The project and the user's slot are free again.
			r.create, r.wrap = nil, nil
			r.playing(makesGame)
			if last, _ := r.ends(r.run(request(alice, "again"))); last.Type != "done" {
				t.Errorf("afterwards: %+v\n%s", last, r.log)
			}
		})
	}
}

// panics is a sandbox that panics after the agent has made something.
type panics struct{ sandbox.Sandbox }

func (p panics) Start(ctx context.Context, cmd sandbox.Command) (sandbox.Process, error) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(""), nil, nil
	if proc, err := p.Sandbox.Start(ctx, sandbox.Command{Args: cmd.Args, Dir: cmd.Dir, Stdout: &logBuffer{}}); err == nil {
		_, _ = proc.Wait()
	}
	panic("boom")
}

func (panics) Clean(context.Context, sandbox.Residue) error { panic("boom") }

func TestAFailureOfTheModelIsTheFailureOfTheJob(t *testing.T) {
	r := newRig(t, options{upstream: failingModel(t, 429), play: func(g guest) (int, error) {
		status, _, err := g.ask(`{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"x"}],"tools":[{"name":"Write"}]}`)
		g.say(fmt.Sprintf("status %d, %v\n", status, err))
		return 1, nil
	}})
	events := r.run(request(alice, "x"))
	if last, debug := r.ends(events); last.Code != string(dreamcore.FailRateLimit) || last.Exit != nil || debug.Debug != 1 {
		t.Errorf("%+v\n%s", events, r.log)
	}
}

func TestTheTimeLimit(t *testing.T) {
	r := newRig(t, options{play: untilStopped, settings: func(s *Settings) { s.TimeLimit = 50 * time.Millisecond }})
	last, debug := r.ends(r.run(request(alice, "x")))
	if last.Code != string(dreamcore.FailCLITimeout) || *last.Exit != 124 || !debug.Timeout || debug.Commit == "" {
		t.Errorf("%+v %+v\n%s", last, debug, r.log)
	}
}

func TestTestErrorsHaveNoSideEffects(t *testing.T) {
	for _, te := range []dreamcore.TestError{
		dreamcore.TestErrorTimeout, dreamcore.TestErrorGeneral, dreamcore.TestErrorSandbox, dreamcore.TestErrorNetwork, dreamcore.TestErrorRateLimit,
	} {
		r := newRig(t, options{})
		w := request(alice, "x")
		w.TestError = te
		events := r.run(w)
		want, _ := te.Failure()
		if len(events) != 2 || events[0].Type != "status" || events[1].Type != "error" || events[1].Code != string(want.Code) {
			t.Errorf("%s: %+v", te, events)
		}
		if len(r.specs) != 0 || len(r.versions(alice)) != 0 {
			t.Errorf("%s made a sandbox or a version", te)
		}
		if _, err := r.parts.Volumes.Find(alice, project); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
			t.Errorf("%s touched the project: %v", te, err)
		}
	}
}

func TestOutputOverTheLimitIsNotForwarded(t *testing.T) {
	play := func(n int) program {
		return func(g guest) (int, error) {
			g.say(lines(n, `{"type":"user","n":%d}`))
			return makesGame(g)
		}
	}
	for _, tt := range []struct{ lines, warnings, shown int }{{10, 1, 5}, {3, 1, 5}, {2, 0, 5}} {
		r := newRig(t, options{play: play(tt.lines), settings: func(s *Settings) { s.OutputLines = 5 }})
		events := r.run(request(alice, "x"))
		last, debug := r.ends(events)
		ofAgent := count(events, func(e event) bool {
			return slices.Contains([]string{"user", "system", "assistant", "result"}, e.Type)
		})
		if last.Type != "done" || debug.Lines != tt.lines+3 || ofAgent != tt.shown || count(events, isType("warning")) != tt.warnings {
			t.Errorf("%d lines: %d shown, %d warnings, debug %+v", tt.lines+3, ofAgent, count(events, isType("warning")), debug)
		}
	}
}

func TestAFullJournalDoesNotEndTheRun(t *testing.T) {
	r := newRig(t, options{journal: journal.Options{MaxLogBytes: 8 << 10}, play: func(g guest) (int, error) {
		g.say(lines(50, `{"type":"user","n":%d,"x":"`+strings.Repeat("x", 1000)+`"}`))
		return makesGame(g)
	}})
	events := r.run(request(alice, "x"))
	last, debug := r.ends(events)
	if last.Type != "done" || debug.Lines != 53 || count(events, isType("warning")) != 1 || count(events, isType("user")) != 7 {
		t.Errorf("%+v\n%s", events, r.log)
	}
}

func TestAFullDiskUnderTheJournalDoesNotBlockAJob(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root")
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		sandboxtest.Need(t, false, "to mount a tmpfs")
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	r := newRig(t, options{jobs: filepath.Join(disk, "jobs"), play: func(g guest) (int, error) {
		f, err := os.Create(filepath.Join(disk, "filler"))
		if err != nil {
			return 0, err
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		if err := g.write("index.html", "made"); err != nil {
			return 0, err
		}
		g.say(lines(1000, `{"type":"user","n":%d,"x":"`+strings.Repeat("x", 2000)+`"}`))
		g.say(good)
		return 0, nil
	}})
	events := r.events(r.submit(request(alice, "x")))
	last := events[len(events)-1]
	if last.Type != "error" || last.Code != string(dreamcore.FailDisk) || count(events, isType("error")) != 1 {
		t.Errorf("last event %+v\n%s", last, r.log)
	}
	if len(r.versions(alice)) != 1 {
		t.Error("the files are not saved")
	}
}

func TestSkillsAreReported(t *testing.T) {
	r := newRig(t, options{play: func(g guest) (int, error) {
		g.say(fmt.Sprintf("plugins %q\n", g.arg("--plugin-dir")))
		return makesGame(g)
	}})
	if events := r.run(request(alice, "x")); count(events, says("Skills")) != 0 || count(events, says(`plugins ""`)) != 1 {
		t.Errorf("without skills: %+v", events)
	}
	dir := filepath.Join(must(r.parts.Volumes.Path(volume.Global))(t), ".claude/skills")
	for _, d := range []string{"threejs", "[odd] name", "empty", "linked"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"threejs/SKILL.md", "[odd] name/SKILL.md", "README.md"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "linked/SKILL.md")); err != nil {
		t.Fatal(err)
	}
	events := r.run(request(alice, "x"))
	if count(events, func(e event) bool { return e.Message == "Skills loaded: [odd] name, threejs" }) != 1 || count(events, says(`plugins "/global/.claude"`)) != 1 {
		t.Errorf("with skills: %+v", events)
	}
	// A removed skill is not passed to the next job.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if events := r.run(request(alice, "x")); count(events, says(`plugins ""`)) != 1 {
		t.Errorf("after their removal: %+v", events)
	}
}

// TestSkillsAreInTheProjectOfARunningJob reads the link as the agent sees it: the
// fake sandbox is the host, where the target of the link does not exist.
func TestSkillsAreInTheProjectOfARunningJob(t *testing.T) {
	r := newRig(t, options{play: func(g guest) (int, error) {
		target, err := os.Readlink(filepath.Join(g.project(), ".claude/skills"))
		g.say(fmt.Sprintf("skills %q %v\n", target, err))
		return makesGame(g)
	}})
	dir := filepath.Join(must(r.parts.Volumes.Path(volume.Global))(t), ".claude/skills/p5js")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "SKILL.md"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	inProject := func() (names []string) {
		p := must(r.parts.Volumes.Project(alice, project))(t)
		defer p.Close()
		for _, e := range must(os.ReadDir(p.Path()))(t) {
			names = append(names, e.Name())
		}
		return names
	}
	for range 2 {
		if events := r.run(request(alice, "x")); count(events, says(`skills "/global/.claude/skills" <nil>`)) != 1 {
			t.Errorf("%+v", events)
		}
		if got := inProject(); !slices.Equal(got, []string{"index.html"}) {
			t.Errorf("after the job: %q", got)
		}
	}
	// A cancelled job hides them, too.
	r.playing(untilStopped)
	id := r.submit(request(alice, "x"))
	r.until(id, isType("began"))
	r.service.Cancel(id)
	r.events(id)
	if got := inProject(); !slices.Equal(got, []string{"half.js", "index.html"}) {
		t.Errorf("after a cancelled job: %q", got)
	}
}
