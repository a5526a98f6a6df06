package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAStartWaitsForNoLogOfAJob starts a service that has lost its index, with a log
// that cannot be opened yet: a pipe that nobody writes to. It answers all the same. Then
// the jobs of the other logs, which have no end, end.
func TestAStartWaitsForNoLogOfAJob(t *testing.T) {
	h := newHost(t).unbounded()
	s := h.serve("--model-script", "demo")
	s.stop()
	jobs := filepath.Join(h.state, "jobs")
	if err := os.Remove(filepath.Join(jobs, "index.db")); err != nil {
		t.Fatal(err)
	}
	blocked, left := filepath.Join(jobs, "11111111-1111-4111-8111-111111111111.ndjson"), "22222222-2222-4222-8222-222222222222"
	if err := unix.Mkfifo(blocked, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(jobs, left+".ndjson"), []byte(`{"type":"status","message":"x"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	s = h.serve("--model-script", "demo")
	if status, answer := h.health(s); status != http.StatusOK {
		t.Errorf("%d %v", status, answer)
	}
	if status, job := s.get("/jobs/"+left, s.secret); status != http.StatusOK || !strings.Contains(job, `"state":"queued"`) {
		t.Errorf("a job that was left: %d %s", status, job)
	}
	pipe, err := os.OpenFile(blocked, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if last := s.watch(http.MethodGet, "/jobs/"+left+"/events", "").until(never); last["code"] != "CLI_TERMINATED" {
		t.Errorf("it ends with %v\n%s", last, s.log)
	}
	s.stop()
}
