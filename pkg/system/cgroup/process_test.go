package cgroup

import (
	"math"
	"path/filepath"
	"testing"
)

func TestProcessLimit(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  int
	}{
		"of the kernel":     {map[string]string{"proc/sys/kernel/pid_max": "32768\n", "proc/sys/kernel/threads-max": "192730\n", "proc/self/cgroup": "0::/\n"}, 32768},
		"of few threads":    {map[string]string{"proc/sys/kernel/pid_max": "4194304\n", "proc/sys/kernel/threads-max": "7000\n"}, 7000},
		"of a pod":          {map[string]string{"proc/sys/kernel/pid_max": "4194304\n", "proc/self/cgroup": "0::/\n", "sys/pids.max": "4096\n"}, 4096},
		"of a pod, v1":      {map[string]string{"proc/sys/kernel/pid_max": "4194304\n", "proc/self/cgroup": "3:pids:/kubepods/pod1\n", "sys/pids/pids.max": "2048\n"}, 2048},
		"of a unit":         {map[string]string{"proc/sys/kernel/pid_max": "4194304\n", "proc/self/cgroup": "0::/a/service\n", "sys/a/pids.max": "500\n", "sys/a/service/pids.max": "max\n"}, 500},
		"nothing is known":  {nil, 0},
		"nothing is bound":  {map[string]string{"proc/self/cgroup": "0::/\n", "sys/pids.max": "max\n"}, 0},
		"nothing but chaff": {map[string]string{"proc/sys/kernel/pid_max": "x\n", "proc/self/cgroup": "x\n0::/../..\n", "sys/pids.max": "-1\n"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeFiles(t, dir, c.files)
			if got := processLimit(filepath.Join(dir, "proc"), filepath.Join(dir, "sys")); got != c.want {
				t.Errorf("%d, want %d", got, c.want)
			}
		})
	}
	// The groups above that of all sandboxes count, and those beside it do not.
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"proc/sys/kernel/pid_max": "32768\n", "sys/a/pids.max": "3000\n", "sys/a/b/pids.max": "max\n", "sys/a/b/all/pids.max": "5\n", "sys/a/other/pids.max": "7\n",
	})
	for group, want := range map[string]int{"a/b/all": 3000, "all": 32768} {
		g := &Group{dirs: []string{filepath.Join(dir, "sys", group)}}
		if got := g.processLimit(filepath.Join(dir, "proc")); got != want {
			t.Errorf("above %s: %d, want %d", group, got, want)
		}
	}
	all := ProcessLimit()
	if some := SandboxProcesses(all); all <= 0 || some <= 0 || some >= all {
		t.Errorf("%d processes, %d of them for sandboxes", all, some)
	}
	for limit, want := range map[int]int{0: math.MaxInt, 1: 1, 32768: 597, 4194304: 76458} {
		if got := SandboxRoom(limit); got != want {
			t.Errorf("%d processes: %d sandboxes", limit, got)
		}
	}
}
