package cgroup_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/system/cgroup"
)

// inGroup starts a shell script in a group.
func inGroup(t *testing.T, g *cgroup.Group, script string) *exec.Cmd {
	t.Helper()
	join := ""
	for _, d := range g.Dirs() {
		join += "echo $$ >" + d + "/cgroup.procs && "
	}
	cmd := exec.Command("/bin/sh", "-c", join+script)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestOutOfMemoryKillsTheWholeGroup(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to create cgroups")
	h, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	g, err := h.Create(fmt.Sprintf("dreamcore-test-oom-%d", os.Getpid()), cgroup.Limits{MemoryBytes: 32 << 20, Processes: 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := g.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watched := make(chan error, 1)
	go func() { watched <- g.KillOutOfMemory(ctx) }()
	bystander := inGroup(t, g, "exec sleep 1000")
	for {
		if pids, err := g.Processes(); err != nil || len(pids) > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	glutton := inGroup(t, g, "head -c 200000000 /dev/zero | tail -c 190000000 >/dev/null; exec sleep 1000")
	for _, cmd := range []*exec.Cmd{bystander, glutton} {
		if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Errorf("%v: %v", cmd.Args, err)
		}
	}
	if strings.HasPrefix(h.String(), "cgroup v2") {
		cancel() // KillOutOfMemory only waits while the kernel kills
	}
	if err := <-watched; err != nil {
		t.Errorf("KillOutOfMemory: %v", err)
	}
}

func TestKillOutOfMemoryEndsWithItsContextAndWithTheGroup(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to create cgroups")
	h, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"context", "group"} {
		g, err := h.Create(fmt.Sprintf("dreamcore-test-watch-%d", os.Getpid()), cgroup.Limits{MemoryBytes: 32 << 20})
		if err != nil {
			t.Fatal(err)
		}
		bystander := inGroup(t, g, "exec sleep 1000")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		watched := make(chan error, 1)
		go func() { watched <- g.KillOutOfMemory(ctx) }()
		select {
		case err := <-watched:
			t.Errorf("%s: returned early: %v", how, err)
		case <-time.After(50 * time.Millisecond):
		}
		if how == "context" {
			cancel()
			if err := <-watched; err != nil {
				t.Errorf("KillOutOfMemory: %v", err)
			}
		}
		if err := bystander.Process.Signal(os.Interrupt); err != nil {
			t.Errorf("%s: the bystander has ended: %v", how, err)
		}
		if _, err := g.Remove(t.Context()); err != nil {
			t.Error(err)
		}
		_ = bystander.Wait()
		if how == "group" {
			cancel() // only cgroup v2 needs this
			if err := <-watched; err != nil {
				t.Errorf("KillOutOfMemory: %v", err)
			}
		}
	}
}
