package cgroup

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestMemoryLimit(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"v2": {map[string]string{
			"proc/self/cgroup": "0::/system.slice/dreamcore.service/main\n", "proc/meminfo": "MemFree: 1 kB\nMemTotal:       8388608 kB\n",
			"sys/memory.max": "max\n", "sys/system.slice/dreamcore.service/memory.max": "1073741824\n", "sys/system.slice/dreamcore.service/main/memory.max": "max\n",
		}, 1024 * mib},
		"v2 above": {map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "sys/a/memory.max": "104857600\n", "sys/a/b/memory.max": "209715200\n",
		}, 100 * mib},
		"v1": {map[string]string{
			"proc/self/cgroup": "9:cpu,cpuacct:/x\n5:memory:/docker/1\n0::/docker/1\n", "proc/meminfo": "MemTotal: 8388608 kB\n",
			"sys/memory/memory.limit_in_bytes": "524288000\n", // the host's path is not visible
		}, 500 * mib},
		"v1 without a limit": {map[string]string{
			"proc/self/cgroup": "5:memory:/\n", "proc/meminfo": "MemTotal: 1048576 kB\n", "sys/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 1024 * mib},
		"both": {map[string]string{
			"proc/self/cgroup": "0::/a\n5:memory:/a\n", "sys/unified/a/memory.max": "max", "sys/memory/a/memory.limit_in_bytes": "104857600\n",
		}, 100 * mib},
		"nothing":   {nil, 0},
		"nonsense":  {map[string]string{"proc/self/cgroup": "x\n0::/../..\n", "proc/meminfo": "MemTotal: x\n", "sys/memory.max": "-1\n"}, 0},
		"too large": {map[string]string{"proc/meminfo": "MemTotal: 9223372036854775807 kB\n"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeFiles(t, dir, c.files)
			if got := memoryLimit(filepath.Join(dir, "proc"), filepath.Join(dir, "sys")); got != c.want {
				t.Errorf("%d, want %d", got, c.want)
			}
		})
	}
	if MemoryLimit() <= 0 {
		t.Error("no limit found on this host")
	}
}

func TestMemoryRoom(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"v2": {map[string]string{
			"proc/self/cgroup": "0::/pod/cell\n", "sys/pod/memory.max": "1073741824\n", "sys/pod/memory.current": "943718400\n",
			"sys/pod/memory.stat": "anon 1\ninactive_file 104857600\nactive_file 20971520\n", "sys/pod/cell/memory.max": "max\n", "sys/pod/cell/memory.current": "5\n",
		}, 234 * mib},
		"v2 of a container": {map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/memory.max": "104857600\n", "sys/memory.current": "52428800\n",
		}, 50 * mib},
		"v1 of a container": {map[string]string{
			"proc/self/cgroup": "5:memory:/kubepods/pod1/c\n0::/\n", "sys/memory/memory.limit_in_bytes": "104857600\n", "sys/memory/memory.usage_in_bytes": "104857600\n",
			"sys/memory/memory.stat": "inactive_file 1\nactive_file 1\ntotal_inactive_file 10485760\ntotal_active_file 4194304\n",
		}, 12 * mib},
		"more pages than used": {map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/memory.max": "100\n", "sys/memory.current": "80\n", "sys/memory.stat": "inactive_file 70\nactive_file 9000\n",
		}, 100},
		"beyond the limit": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/memory.max": "100\n", "sys/memory.current": "200\n"}, 0},
		"no limit":         {map[string]string{"proc/self/cgroup": "0::/\n", "sys/memory.max": "max\n", "sys/memory.current": "200\n"}, math.MaxInt64},
		"nothing":          {nil, math.MaxInt64},
		"nonsense":         {map[string]string{"proc/self/cgroup": "x\n0::/../..\n", "sys/memory.max": "10\n", "sys/memory.current": "-1\n"}, math.MaxInt64},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeFiles(t, dir, c.files)
			if got := memoryRoom(filepath.Join(dir, "proc"), filepath.Join(dir, "sys")); got != c.want {
				t.Errorf("%d, want %d", got, c.want)
			}
		})
	}
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
