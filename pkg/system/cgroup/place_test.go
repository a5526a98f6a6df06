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

// tree makes directories that look like a hierarchy of version 2.
func tree(t *testing.T, lent ...string) *Hierarchy {
	t.Helper()
	h := &Hierarchy{unified: t.TempDir()}
	for _, dir := range []string{"a.slice/one.service/service", "a.slice/few.service", "b.scope"} {
		if err := os.MkdirAll(filepath.Join(h.unified, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for ; dir != "."; dir = filepath.Dir(dir) {
			given := "cpuset cpu io memory pids\n"
			if strings.Contains(dir, "few") {
				given = "memory pids\n"
			}
			if err := os.WriteFile(filepath.Join(h.unified, dir, "cgroup.controllers"), []byte(given), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, dir := range lent {
		err := unix.Setxattr(filepath.Join(h.unified, dir), delegated[i%len(delegated)], []byte("1"), 0)
		sandboxtest.Need(t, err == nil, "root, and extended attributes of temporary files")
	}
	return h
}

func TestGroupsGoWhereSystemdHasLentAPlace(t *testing.T) {
	lent := []string{"a.slice/one.service", "a.slice/few.service"}
	for _, tt := range []struct {
		name, own, base string
		lent            []string
	}{
		{"a service", "0::/a.slice/one.service\n", "a.slice/one.service", lent},
		{"by the other attribute", "0::/b.scope\n", "b.scope", []string{"a.slice/one.service", "b.scope"}},
		{"one that has made room", "0::/a.slice/one.service/service\n", "a.slice/one.service", lent},
		{"a service that nothing is lent to", "0::/b.scope\n", "", lent},
		{"not enough is lent", "0::/a.slice/few.service\n", "", lent},
		{"below one that is lent", "0::/a.slice/one.service/x\n", "", lent},
		{"the top", "0::/\n", "", lent},
		{"beside version 1", "5:memory:/x\n0::/a.slice/one.service\n", "a.slice/one.service", lent},
		{"only version 1", "5:memory:/a.slice/one.service\n", "", lent},
		{"outside of our view", "0::/../a.slice/one.service\n", "", lent},
		{"a way out", "0::/a.slice/../a.slice/one.service\n", "", lent},
		{"gone", "0::/a.slice/none.service\n", "", lent},
		{"junk", "0::", "", lent},
	} {
		h := tree(t, tt.lent...)
		h.settle([]byte(tt.own))
		if h.Base() != tt.base || h.lent != (tt.base != "") {
			t.Errorf("%s: %q, lent %v, want %q", tt.name, h.Base(), h.lent, tt.base)
		}
		want := filepath.Join("/", tt.base, "dreamcore/i/s")
		if got := h.Path("dreamcore/i/s"); got != want || !slices.Equal(h.Open("dreamcore/i/s").Dirs(), []string{filepath.Join(h.unified, want)}) {
			t.Errorf("%s: %s, %q, want %s", tt.name, got, h.Open("dreamcore/i/s").Dirs(), want)
		}
	}
}

func TestTheTopOfAContainerIsLent(t *testing.T) {
	for _, own := range []string{"0::/\n", "0::/service\n"} {
		h := tree(t)
		if h.settle([]byte(own)); h.lent {
			t.Error("the machine's own top need not be made room in")
		}
		if err := os.WriteFile(filepath.Join(h.unified, "cgroup.type"), []byte("domain\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if h.settle([]byte(own)); !h.lent || h.Base() != "" {
			t.Errorf("%q: %q, lent %v", own, h.Base(), h.lent)
		}
	}
}

func TestPlacesOfOthers(t *testing.T) {
	h := &Hierarchy{unified: "/cg", base: "a/b", lent: true}
	for base, ok := range map[string]bool{"": true, "a/b": true, "x.service": true, "..": false, "a/../..": false, "/a": false, "a//b": false, "a/": false} {
		in, got := h.In(base)
		if got != ok || ok && (in.Base() != base || h.Base() != "a/b") {
			t.Errorf("%q: %v", base, got)
		}
	}
	old := &Hierarchy{v1: map[string]string{"memory": "/cg/memory"}}
	if in, ok := old.In(""); !ok || in.Open("x").Dirs()[0] != "/cg/memory/x" {
		t.Error("version 1 has one place")
	}
	if _, ok := old.In("a"); ok {
		t.Error("version 1 has a second place")
	}
}

// TestProcessesMakeRoom needs a controller that no hierarchy of version 1 has.
func TestProcessesMakeRoom(t *testing.T) {
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
		t.Skip("version 1 has every controller of this machine")
	}
	give := free[len(free)-1:]
	if err := giveBelow(top, give, false); err != nil {
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
	if err := giveBelow(dir, give, false); !errors.Is(err, syscall.EBUSY) {
		t.Fatalf("a group that is not ours made room, or needs none: %v", err)
	}
	for range 2 { // the second time there is nothing to do
		if err := giveBelow(dir, give, true); err != nil {
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
