package job

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

func TestTheNextJobOfAUserGetsTheSameSandbox(t *testing.T) {
	r := newRig(t, options{})
	reused := func(user dreamcore.UserID) bool {
		t.Helper()
		last, debug := r.ends(r.run(request(user, "x")))
		if last.Type != "done" {
			t.Fatalf("%+v\n%s", last, r.log)
		}
		return debug.Reused
	}
	if reused(alice) || !reused(alice) || reused(bob) || !reused(alice) {
		t.Errorf("each user's first job must create a sandbox, and the next ones must use it\n%s", r.log)
	}
	if len(r.specs) != 2 {
		t.Errorf("%d sandboxes were created", len(r.specs))
	}
	list := r.parts.Workspaces.List()
	if len(list) != 2 || list[0].Name != "user-"+string(alice) || list[0].Jobs != 3 || list[0].State != workspace.StateIdle {
		t.Errorf("the list: %+v", list)
	}
	if jobs, err := r.parts.Workspaces.Jobs(list[0].Name); err != nil || len(jobs) != 3 {
		t.Errorf("jobs: %q, %v", jobs, err)
	}
	// Sandboxes that were created from other settings are not used again.
	r.pooling.Template.Limits.Processes = 99
	r.parts.Workspaces.Apply(r.pooling)
	if reused(alice) || !reused(alice) {
		t.Error("a sandbox with old settings was used")
	}
}

func TestASandboxThatCannotBeCleanedIsNotUsedAgain(t *testing.T) {
	r := newRig(t, options{})
	r.wrap = func(sb sandbox.Sandbox) sandbox.Sandbox { return dirty{sb} }
	for range 2 {
		if last, debug := r.ends(r.run(request(alice, "x"))); last.Type != "done" || debug.Reused {
			t.Errorf("%+v %+v", last, debug)
		}
	}
	if !strings.Contains(r.log.String(), "not everything") {
		t.Errorf("the log: %s", r.log)
	}
}

// dirty is a sandbox that cannot be cleaned.
type dirty struct{ sandbox.Sandbox }

func (dirty) Clean(context.Context, sandbox.Residue) error { return errors.New("not everything") }

func TestPrewarmedSandboxesAreUsed(t *testing.T) {
	r := newRig(t, options{})
	for i, want := range []bool{false, true} {
		already, err := r.parts.Workspaces.Prewarm(t.Context(), alice)
		if err != nil || already != want {
			t.Errorf("time %d: %v %v", i, already, err)
		}
	}
	if last, debug := r.ends(r.run(request(alice, "x"))); last.Type != "done" || !debug.Reused {
		t.Errorf("%+v %+v", last, debug)
	}
}

func TestStoppingASandboxStopsItsJob(t *testing.T) {
	r := newRig(t, options{play: untilStopped})
	id := r.submit(request(alice, "x"))
	r.until(id, isType("began"))
	if err := r.parts.Workspaces.Stop(t.Context(), "user-"+string(alice)); err != nil {
		t.Fatal(err)
	}
	if last, _ := r.ends(r.events(id)); last.Code != string(dreamcore.FailCLITerminated) && last.Code != string(dreamcore.FailSandbox) {
		t.Errorf("%+v", last)
	}
	if len(r.versions(alice)) != 1 {
		t.Error("the files of the job are not saved")
	}
	if err := r.parts.Workspaces.Stop(t.Context(), "user-"+string(bob)); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("of an unknown sandbox: %v", err)
	}
}

func TestExec(t *testing.T) {
	r := newRig(t, options{play: func(g guest) (int, error) {
		if filepath.Base(g.Args[0]) != "echo" {
			return makesGame(g)
		}
		g.say(strings.Join(g.Args[1:], " ") + " in " + g.Dir)
		return 3, nil
	}})
	var out strings.Builder
	cmd := sandbox.Command{Args: []string{"/bin/echo", "hello"}, Stdout: &out}
	name := "user-" + string(alice)
	if _, err := r.parts.Workspaces.Exec(t.Context(), name, cmd); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("without a sandbox: %v", err)
	}
	r.run(request(alice, "x"))
	exit, err := r.parts.Workspaces.Exec(t.Context(), name, cmd)
	if err != nil || exit.Code != 3 || out.String() != "hello in /data/users/"+string(alice)+"/projects" {
		t.Errorf("%+v, %v, %q", exit, err, out.String())
	}
	if list := r.parts.Workspaces.List(); list[0].State != workspace.StateIdle {
		t.Errorf("after it: %+v", list)
	}
}

func TestProgramsGetTheVariablesOfTheSettings(t *testing.T) {
	var seen []string
	var settings Settings
	r := newRig(t, options{
		settings: func(s *Settings) {
			s.Agent.Given = []string{"IMAGE_API=one"}
			settings = *s
		},
		play: func(g guest) (int, error) {
			i := slices.IndexFunc(g.Env, func(kv string) bool { return strings.HasPrefix(kv, "IMAGE_API=") })
			if i < 0 {
				seen = append(seen, "none")
			} else {
				seen = append(seen, filepath.Base(g.Args[0])+" "+g.Env[i])
			}
			if filepath.Base(g.Args[0]) == "env" {
				return 0, nil
			}
			return makesGame(g)
		},
	})
	exec := func() {
		if _, err := r.parts.Workspaces.Exec(t.Context(), "user-"+string(alice), sandbox.Command{Args: []string{"/usr/bin/env"}}); err != nil {
			t.Error(err)
		}
	}
	r.run(request(alice, "x"))
	exec()
	settings.Agent.Given = []string{"IMAGE_API=two"}
	r.service.Apply(settings)
	r.pooling.Env = settings.Agent.Given
	r.parts.Workspaces.Apply(r.pooling)
	r.run(request(alice, "y")) // in the same sandbox
	exec()
	want := []string{"claude IMAGE_API=one", "env IMAGE_API=one", "claude IMAGE_API=two", "env IMAGE_API=two"}
	if !slices.Equal(seen, want) {
		t.Errorf("%q, not %q", seen, want)
	}
}

func TestAFailedCreationLeavesNothing(t *testing.T) {
	r := newRig(t, options{})
	r.create = func(*sandboxtest.Fake) error { return errFake }
	if _, err := r.parts.Workspaces.Prewarm(t.Context(), alice); !errors.Is(err, errFake) {
		t.Errorf("Prewarm: %v", err)
	}
	if left, err := os.ReadDir(r.spaces.SocketDir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if list := r.parts.Workspaces.List(); len(list) != 0 {
		t.Errorf("listed: %+v", list)
	}
}
