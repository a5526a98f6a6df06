package e2e

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// strangerID is a user id that does not exist on the machine.
const strangerID = 23456

const cannotLimit = "these limits of sandboxes cannot be enforced: CPU, processes on the host"

// strangersHost returns an installation of an ordinary user before setup.
func strangersHost(t *testing.T) (h *host, agent string) {
	t.Helper()
	by := emptyHost(t)                                  // for the program
	dir, err := os.MkdirTemp("", "dreamcore-rootless-") // t.TempDir is root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	home := filepath.Join(dir, "home")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(home, 0o700), os.Chown(home, strangerID, strangerID)); err != nil {
		t.Fatal(err)
	}
	h = &host{t: t, exe: filepath.Join(dir, "dreamcore"), state: filepath.Join(home, "state")}
	h.user = &syscall.Credential{Uid: strangerID, Gid: strangerID}
	h.env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + home, "TERM=dumb", "DREAMCORE_ACCEPTANCE=off", "DREAMCORE_STATE=" + h.state}
	agent = filepath.Join(dir, "claude")
	for from, to := range map[string]string{by.exe: h.exe, claude(t): agent} {
		if out, err := exec.Command("install", "-m", "755", from, to).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	h.leavesNothing(dir)
	h.keepsSecrets()
	return h, agent
}

func TestWithoutRoot(t *testing.T) {
	h, agent := strangersHost(t)
	for _, args := range [][]string{
		{"setup", "--yes", "--claude", agent}, {"generate", "a snake game", "-o", filepath.Join(filepath.Dir(h.state), "game")}, {"gate", "--all"},
	} {
		r := h.run(args...)
		if r.code != 0 || strings.Count(r.stdout+r.stderr, cannotLimit) != 1 {
			t.Fatalf("%q: exit code %d, and it must warn once\n%s\n%s", args, r.code, r.stdout, r.stderr)
		}
	}
	if out := h.must("doctor", "--model-script", "demo", "--listen", "127.0.0.1:0"); strings.Count(out, cannotLimit) != 1 {
		t.Errorf("doctor:\n%s", out)
	}
	err := filepath.WalkDir(h.state, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Sys().(*syscall.Stat_t).Uid != strangerID {
			t.Errorf("%s belongs to %d", path, fi.Sys().(*syscall.Stat_t).Uid)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	r := h.run("generate", "--runtime", "runc", "a snake game")
	if r.code != 1 || !strings.Contains(r.stderr, "sandboxes of runc need root") || !strings.Contains(r.stderr, "sudo") {
		t.Errorf("runc: exit code %d\n%s", r.code, r.stderr)
	}
}

func TestServeWithoutRootMustBeAllowed(t *testing.T) {
	h, agent := strangersHost(t)
	h.must("setup", "--yes", "--claude", agent)
	r := h.run("serve", "--model-script", "demo", "--listen", "127.0.0.1:0")
	if r.code != 1 || !strings.Contains(r.stderr, cannotLimit) || !strings.Contains(r.stderr, "→ run the command with sudo, or accept it with serve --allow-unlimited") {
		t.Fatalf("serve: exit code %d\n%s", r.code, r.stderr)
	}
	s := h.serve("--model-script", "demo", "--allow-unlimited")
	if !strings.Contains(s.log.String(), cannotLimit) {
		t.Errorf("the service does not warn:\n%s", s.log)
	}
	there := []string{"generate", "a snake game", "--endpoint", s.url}
	h.env = append(h.env, "MODAL_INTERNAL_SECRET="+s.secret)
	h.must(there...)
	if ps := h.must("ps"); !strings.Contains(ps, "user-") {
		t.Errorf("no sandbox is kept:\n%s", ps)
	}
	s.kill()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		left := processesOf(t, h.exe)
		if len(left) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Errorf("left after SIGKILL: %q", left)
			break
		}
	}
	h.env = append(h.env, "DREAMCORE_ALLOW_UNLIMITED=true")
	h.serve("--model-script", "demo").stop() // sweeps
	if left, err := filepath.Glob(filepath.Join(h.state, "run", "i-*")); err != nil || len(left) > 0 {
		t.Errorf("left by the one that was killed: %q, %v", left, err)
	}
}

// A user who fills the memory of a sandbox loses it, and nobody else does.
func TestWithoutRootMemoryIsMeasured(t *testing.T) {
	h, agent := strangersHost(t)
	h.must("setup", "--yes", "--claude", agent)
	h.env = append(h.env, "DREAMCORE_MEMORY_MIB=300")
	s := h.serve("--model-script", "demo", "--allow-unlimited")
	h.env = append(h.env, "MODAL_INTERNAL_SECRET="+s.secret)
	for _, user := range []string{alice, bob} {
		h.must("generate", "a snake game", "--user", user, "--endpoint", s.url)
	}
	const fill = "import time\nheld = []\nwhile True:\n  held.append(b'x' * (16 << 20))\n  time.sleep(0.02)"
	exec := func(user, program string) result {
		return h.run("sandbox", "exec", "user-"+user, "--", "/usr/bin/python3", "-c", program)
	}
	if r := exec(alice, "b = b'x' * (100 << 20)"); r.code != 0 {
		t.Errorf("within the limit: exit code %d\n%s", r.code, r.stderr)
	}
	if r := exec(alice, fill); r.code == 0 || !strings.Contains(r.stderr, "out of memory") {
		t.Errorf("beyond the limit: exit code %d\n%s", r.code, r.stderr)
	}
	if r := exec(bob, "print('alive')"); r.code != 0 || r.stdout != "alive\n" {
		t.Errorf("another user: exit code %d, %q\n%s", r.code, r.stdout, r.stderr)
	}
	h.must("generate", "a faster snake", "--user", alice, "--endpoint", s.url) // in a new sandbox
}

// processesOf returns the processes of a program.
func processesOf(t *testing.T, exe string) (found []string) {
	t.Helper()
	for _, s := range traces(t, exe, exe) {
		if strings.HasPrefix(s, "process ") {
			found = append(found, s)
		}
	}
	return found
}
