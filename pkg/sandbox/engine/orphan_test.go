package engine

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestStatIsParsedForAnyName(t *testing.T) {
	for _, tt := range []struct {
		line string
		want stat
		ok   bool
	}{
		{"123 (exe) Z 77 1 2 0", stat{"exe", "Z", 123, 77, 1, 2}, true},
		{"123 (a (b) c) S 1 2 3", stat{"a (b) c", "S", 123, 1, 2, 3}, true},
		{"123 () R 9 8 7", stat{"", "R", 123, 9, 8, 7}, true},
		{"123 (x)", stat{}, false},
		{"123 (x) R 1 2", stat{}, false},
		{"x (x) R 1 2 3", stat{}, false},
		{"1 (x) R 1 2 y", stat{}, false},
		{"garbage", stat{}, false},
		{")(", stat{}, false},
	} {
		got, ok := parseStat([]byte(tt.line))
		if ok != tt.ok || ok && got != tt.want {
			t.Errorf("%q: %+v, %v", tt.line, got, ok)
		}
	}
}

func TestOrphansAreDistinguishedFromCommands(t *testing.T) {
	const own = "dreamcore"
	for name, tt := range map[string]struct {
		stat stat
		want bool
	}{
		"command":                         {stat{comm: own, pid: 5, group: 5, session: 1}, false},
		"child interrupted before setsid": {stat{comm: own, pid: 6, group: 5, session: 1}, true},
		"child interrupted after setsid":  {stat{comm: own, pid: 6, group: 6, session: 6}, true},
		"gofer":                           {stat{comm: "exe", pid: 6, group: 6, session: 6}, true},
		"kernel of the guest":             {stat{comm: "gvisor_sentry", pid: 6, group: 6, session: 6}, true},
		"helper that starts it":           {stat{comm: "gvisor-sentry-p", pid: 6, group: 6, session: 6}, true},
		"other command of the service":    {stat{comm: "git", pid: 6, group: 1, session: 1}, false},
	} {
		if got := tt.stat.orphan(own, []string{"exe", "gvisor_sentry", "gvisor-sentry-p"}); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestReapOrphansLeavesCommandsToTheirStarter(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &Provider{cfg: Config{Exe: self}}
	cmd := exec.Command(self, "-test.run=^$")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as box.launch does
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	other := exec.Command("/bin/false")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{cmd.Process.Pid, other.Process.Pid} {
		awaitZombie(t, pid)
	}
	if err := p.reapOrphans(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the command was reaped: %v", err)
	}
	if err := other.Wait(); err == nil || strings.Contains(err.Error(), syscall.ECHILD.Error()) {
		t.Errorf("the other command: %v", err)
	}
}

// awaitZombie waits until a child has died, and leaves it unreaped.
func awaitZombie(t *testing.T, pid int) {
	t.Helper()
	for {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := parseStat(raw); ok && s.state == "Z" {
			return
		}
	}
}
