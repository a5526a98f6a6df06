package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// roundsEnv sets how often the disk is filled and freed.
const roundsEnv = "DREAMCORE_TEST_DISK_ROUNDS"

// smallDisk returns an installation whose state directory is a disk of its own.
func smallDisk(t *testing.T, mib int) *host {
	t.Helper()
	h := emptyHost(t)
	image := filepath.Join(filepath.Dir(h.state), "disk.ext4")
	if err := os.Mkdir(h.state, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"truncate", "-s", fmt.Sprintf("%dM", mib), image},
		{"mkfs.ext4", "-q", "-F", "-m", "0", image},
		{"mount", "-o", "loop", image, h.state},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", h.state).CombinedOutput(); err != nil {
			t.Errorf("unmount the disk: %v\n%s", err, out)
		}
	})
	h.must("setup", "--yes", "--claude", claude(t))
	return h
}

// fill uses all remaining space on the disk of the state directory.
func (h *host) fill(name string) {
	h.t.Helper()
	fillDisk(h.t, filepath.Join(h.state, name))
}

// fillDisk writes a file until there is no space left.
func fillDisk(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	for chunk := make([]byte, 1<<20); len(chunk) > 0; {
		if _, err := f.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2]
		}
	}
}

// squeeze fills the disk again and again until the service says so: its reserve gives
// way in steps, jobs give space back, and old versions are removed.
func (h *host) squeeze(s *service) {
	h.t.Helper()
	for i := range 60 {
		h.fill(fmt.Sprint("other.", i))
		status, _ := h.health(s)
		time.Sleep(2 * time.Second) // the reserve gives way once a second, so that logs can be written
		if status == http.StatusServiceUnavailable {
			return
		}
	}
	h.t.Fatalf("the service does not notice that its disk is full\n%s", s.log)
}

// makeSpace removes what has filled the disk.
func (h *host) makeSpace() {
	h.t.Helper()
	names, _ := filepath.Glob(filepath.Join(h.state, "other*"))
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			h.t.Error(err)
		}
	}
}

func (h *host) health(s *service) (status int, answer map[string]any) {
	h.t.Helper()
	resp, err := http.Get(s.url + "/health")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, answer
}

// waitHealth waits until the health has a status.
func (h *host) waitHealth(s *service, want int) map[string]any {
	h.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		status, answer := h.health(s)
		if status == want {
			return answer
		}
		if time.Now().After(end) {
			h.t.Fatalf("the health is %d %v, want %d\n%s", status, answer, want, s.log)
		}
	}
}

// newest returns the name of the newest version of a project, or "".
func (s *service) newest(user, project string) string {
	s.h.t.Helper()
	_, log := s.object("/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"action":"git_log","limit":1}`, user, project))
	commits, _ := log["commits"].([]any)
	if len(commits) == 0 {
		return ""
	}
	commit, _ := commits[0].(map[string]any)
	name, _ := commit["message"].(string)
	return name
}

// The users fill their own disks, and another program fills the disk of the
// machine: each job is done and has its version, or says that it is not, and
// nothing stays broken.
func TestAFullDiskHarmsNothing(t *testing.T) {
	rounds := 2
	if n, err := strconv.Atoi(os.Getenv(roundsEnv)); err == nil {
		rounds = n
	}
	h := smallDisk(t, 2000)
	h.env = append(h.env, "DREAMCORE_DISK_MIB=96", "DREAMCORE_PROJECT_MIB=64", "DREAMCORE_MIN_FREE_DISK_MIB=256", "DREAMCORE_MAX_GENERATIONS=3",
		"DREAMCORE_HISTORY_MIB=48")
	var talk []string
	for i := range 2 * rounds {
		talk = append(talk, fmt.Sprintf(`[{"tools":[{"name":"Bash","input":{"command":"rm -f big; echo %d >index.html; (head -c %d /dev/urandom >big) 2>&1; true","description":"fill"}}]},{"text":"done"}]`, i, 8<<20+(i%2)*(100<<20)))
	}
	s := h.serve("--model-script", writeScript(t, `{"conversations":[`+strings.Join(talk, ",")+`]}`))
	users := []string{alice, bob, "ca401000-0000-4000-8000-000000000003"}
	var done atomic.Int64
	for round := range rounds {
		for half := range 2 {
			var wg sync.WaitGroup
			for _, user := range users {
				wg.Go(func() {
					prompt := fmt.Sprintf("round %d.%d", round, half) // and the name of the version
					events := s.events("/generate_game", generateBody(user, project, prompt))
					last := events[len(events)-1]
					switch code, _ := last["code"].(string); {
					case last["type"] == "done":
						if got := s.newest(user, project); got != prompt {
							t.Errorf("a job is done and has no version: the newest is %q, not %q\n%v", got, prompt, events)
						}
						done.Add(1)
					case code != "DISK_FULL" && code != "QUOTA_EXCEEDED":
						t.Errorf("%v", last)
					}
				})
				if half == 0 {
					wg.Wait() // one after the other, on a disk that has space
				}
			}
			if half == 1 {
				time.Sleep(500 * time.Millisecond)
				h.fill("other")
				h.fill("other2")
			}
			wg.Wait()
		}
		h.squeeze(s)
		if answer := h.waitHealth(s, http.StatusServiceUnavailable); !strings.Contains(fmt.Sprint(answer["reason"]), "disk") {
			t.Errorf("the health of a service without space: %v", answer)
		}
		if got := s.file(alice, project, "index.html"); !strings.HasSuffix(got, "\n") {
			t.Errorf("a game cannot be seen: %q", got)
		}
		h.makeSpace()
		h.waitHealth(s, http.StatusOK)
		h.noneReadOnly()
	}
	if done.Load() < int64(rounds*len(users)) {
		t.Errorf("only %d jobs were done\n%s", done.Load(), s.log)
	}
	h.filledStart(s)
	h.checkDisks()
}

// noneReadOnly checks that no file system of a user is read-only.
func (h *host) noneReadOnly() {
	h.t.Helper()
	raw, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if strings.HasPrefix(f[1], h.state+"/") && (strings.HasPrefix(f[3], "ro,") || strings.Contains(f[3], "emergency_ro")) {
			h.t.Errorf("read-only: %s", line)
		}
	}
}

// waitReserve waits until the service has the reserve again with which it can start
// on a full disk.
func (h *host) waitReserve() {
	h.t.Helper()
	const enough = 128 << 20 // bytes
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if info, err := os.Stat(filepath.Join(h.state, "reserve")); err == nil && info.Size() >= enough {
			return
		}
	}
	h.t.Error("the reserve does not grow again")
}

// filledStart restarts the service on a full disk: it serves games, makes none, and
// makes them again when there is space.
func (h *host) filledStart(s *service) {
	h.t.Helper()
	h.waitReserve()
	s.stop()
	h.fill("other")
	s = h.serve("--model-script", "demo")
	h.squeeze(s)
	if got := s.file(alice, project, "index.html"); !strings.HasSuffix(got, "\n") {
		h.t.Errorf("a game cannot be seen: %q", got)
	}
	events := s.events("/generate_game", generateBody(alice, project, "a game"))
	if last := events[len(events)-1]; last["code"] != "DISK_FULL" {
		h.t.Errorf("a job on a full disk: %v", last)
	}
	if r := h.run("doctor"); r.code == 0 || !strings.Contains(r.stdout+r.stderr, "disk") {
		h.t.Errorf("doctor is content with a full disk: %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	h.makeSpace()
	h.waitHealth(s, http.StatusOK)
	events = s.events("/generate_game", generateBody(bob, "123e4567-e89b-42d3-a456-426614174999", "a game"))
	if last := events[len(events)-1]; last["type"] != "done" {
		h.t.Errorf("a job after that: %v\n%s", last, s.log)
	}
	s.stop()
}

// checkDisks checks every file system and every history.
func (h *host) checkDisks() {
	h.t.Helper()
	images, _ := filepath.Glob(filepath.Join(h.state, "volumes/dreamcore-data/.disks/*.ext4"))
	if len(images) == 0 {
		h.t.Error("there is no disk of a user")
	}
	for _, image := range images {
		if out, err := exec.Command("e2fsck", "-f", "-n", image).CombinedOutput(); err != nil {
			h.t.Errorf("%s: %v\n%s", image, err, out)
		}
	}
	repositories, _ := filepath.Glob(filepath.Join(h.state, "history/*/*.git"))
	if len(repositories) == 0 {
		h.t.Error("there is no history")
	}
	for _, dir := range repositories {
		var errOut bytes.Buffer
		cmd := exec.Command("git", "-c", "safe.directory=*", "-C", dir, "fsck", "--strict")
		cmd.Stderr = &errOut
		if err := cmd.Run(); err != nil {
			h.t.Errorf("%s: %v\n%s", dir, err, &errOut)
		}
	}
}
