package cgroup

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// tree creates directories that look like a cgroup v2 hierarchy.
func tree(t *testing.T, delegated ...string) *Hierarchy {
	t.Helper()
	h := &Hierarchy{unified: t.TempDir()}
	for _, dir := range []string{"a.slice/one.service/service", "a.slice/few.service", "b.scope"} {
		if err := os.MkdirAll(filepath.Join(h.unified, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for ; dir != "."; dir = filepath.Dir(dir) {
			available := "cpuset cpu io memory pids\n"
			if strings.Contains(dir, "few") {
				available = "memory pids\n"
			}
			if err := os.WriteFile(filepath.Join(h.unified, dir, "cgroup.controllers"), []byte(available), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, dir := range delegated {
		err := unix.Setxattr(filepath.Join(h.unified, dir), delegateAttributes[i%len(delegateAttributes)], []byte("1"), 0)
		sandboxtest.Need(t, err == nil, "root, and extended attributes of temporary files")
	}
	return h
}

func TestBaseIsTheDelegatedGroup(t *testing.T) {
	delegated := []string{"a.slice/one.service", "a.slice/few.service"}
	for _, tt := range []struct {
		name, own, base string
		delegated       []string
	}{
		{"a service", "0::/a.slice/one.service\n", "a.slice/one.service", delegated},
		{"by the other attribute", "0::/b.scope\n", "b.scope", []string{"a.slice/one.service", "b.scope"}},
		{"processes already moved", "0::/a.slice/one.service/service\n", "a.slice/one.service", delegated},
		{"a service without delegation", "0::/b.scope\n", "", delegated},
		{"not enough controllers", "0::/a.slice/few.service\n", "", delegated},
		{"below a delegated group", "0::/a.slice/one.service/x\n", "", delegated},
		{"the root", "0::/\n", "", delegated},
		{"alongside version 1", "5:memory:/x\n0::/a.slice/one.service\n", "a.slice/one.service", delegated},
		{"only version 1", "5:memory:/a.slice/one.service\n", "", delegated},
		{"outside of the process's view", "0::/../a.slice/one.service\n", "", delegated},
		{"a path with dots", "0::/a.slice/../a.slice/one.service\n", "", delegated},
		{"gone", "0::/a.slice/none.service\n", "", delegated},
		{"junk", "0::", "", delegated},
	} {
		h := tree(t, tt.delegated...)
		h.setBase([]byte(tt.own))
		if h.Base() != tt.base || h.delegated != (tt.base != "") {
			t.Errorf("%s: %q, delegated %v, want %q", tt.name, h.Base(), h.delegated, tt.base)
		}
		want := filepath.Join("/", tt.base, "dreamcore/i/s")
		if got := h.Path("dreamcore/i/s"); got != want || !slices.Equal(h.Open("dreamcore/i/s").Dirs(), []string{filepath.Join(h.unified, want)}) {
			t.Errorf("%s: %s, %q, want %s", tt.name, got, h.Open("dreamcore/i/s").Dirs(), want)
		}
	}
}

func TestRootOfAContainerIsDelegated(t *testing.T) {
	for _, own := range []string{"0::/\n", "0::/service\n"} {
		h := tree(t)
		if h.setBase([]byte(own)); h.delegated {
			t.Error("the host's own root group counts as delegated")
		}
		if err := os.WriteFile(filepath.Join(h.unified, "cgroup.type"), []byte("domain\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if h.setBase([]byte(own)); !h.delegated || h.Base() != "" {
			t.Errorf("%q: %q, delegated %v", own, h.Base(), h.delegated)
		}
	}
}

func TestInOtherBases(t *testing.T) {
	h := &Hierarchy{unified: "/cg", base: "a/b", delegated: true}
	for base, ok := range map[string]bool{"": true, "a/b": true, "x.service": true, "..": false, "a/../..": false, "/a": false, "a//b": false, "a/": false} {
		in, got := h.In(base)
		if got != ok || ok && (in.Base() != base || h.Base() != "a/b") {
			t.Errorf("%q: %v", base, got)
		}
	}
	old := &Hierarchy{v1: map[string]string{"memory": "/cg/memory"}}
	if in, ok := old.In(""); !ok || in.Open("x").Dirs()[0] != "/cg/memory/x" {
		t.Error("version 1 has the root as base")
	}
	if _, ok := old.In("a"); ok {
		t.Error("version 1 has no other base")
	}
}

// TestProcessesOfADelegatedGroupAreMoved needs a controller that no v1 hierarchy has.
func TestProcessesOfADelegatedGroupAreMoved(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root")
	top := t.TempDir()
	sandboxtest.Need(t, unix.Mount("none", top, "cgroup2", 0, "") == nil, "cgroup v2")
	t.Cleanup(func() {
		if err := unix.Unmount(top, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	b, err := os.ReadFile(filepath.Join(top, "cgroup.controllers"))
	free := strings.Fields(string(b))
	if err != nil {
		t.Fatal(err)
	}
	if len(free) == 0 {
		t.Skip("version 1 has every controller of this host")
	}
	enabled := free[len(free)-1:]
	if err := enableBelow(top, enabled, false); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(top, "dreamcore-test-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	group, service := &Group{dirs: []string{dir}}, &Group{dirs: []string{filepath.Join(dir, serviceGroup)}}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for _, g := range []*Group{service, group} {
			if _, err := g.Remove(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if err := enableBelow(dir, enabled, false); !errors.Is(err, syscall.EBUSY) {
		t.Fatalf("processes of a group that is not delegated were moved, or did not have to be: %v", err)
	}
	for range 2 { // the second time there is nothing to do
		if err := enableBelow(dir, enabled, true); err != nil {
			t.Fatal(err)
		}
	}
	if pids, err := service.Processes(); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("moved: %v, %v", pids, err)
	}
	if pids, err := group.Processes(); err != nil || len(pids) > 0 {
		t.Errorf("stayed: %v, %v", pids, err)
	}
}
