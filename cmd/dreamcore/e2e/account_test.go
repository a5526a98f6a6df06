package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// doomedScript makes a game whose code and name can be found again.
const doomedScript = `{"conversations":[
	[{"tools":[{"name":"Write","input":{"file_path":"index.html","content":"<p>doomed-content-91c4"}}]},{"text":"doomed-answer-91c4"}]
]}`

// bytesBelow returns the files of the state directory whose name or content has a
// text, except for the ledger and the audit log if kept is set.
func bytesBelow(t *testing.T, h *host, text string, kept bool) (found []string) {
	t.Helper()
	err := filepath.WalkDir(h.state, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, h.state)
		if kept && (name == "/usage" || name == "/audit") || name == "/agent" {
			return fs.SkipDir
		}
		if strings.Contains(name, text) {
			found = append(found, name)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		has, err := holds(path, text)
		if has {
			found = append(found, "in "+name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// holds reports whether a file has a text. It does not read the holes of a sparse file:
// the disk of a user has gigabytes of them, and reading them took most of the time of
// this test.
func holds(path, text string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	const seekData, seekHole = 3, 4
	var before []byte // the end of the data before, which the text may begin in
	for end, at := info.Size(), int64(0); at < end; {
		from, err := f.Seek(at, seekData)
		if errors.Is(err, syscall.ENXIO) { // only a hole follows
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if from > at {
			before = nil // text has no zeros
		}
		if at, err = f.Seek(from, seekHole); err != nil {
			return false, err
		}
		for part := make([]byte, 1<<20); from < at; {
			n, err := f.ReadAt(part[:min(int64(len(part)), at-from)], from)
			if err != nil && !errors.Is(err, io.EOF) {
				return false, err
			}
			if n == 0 { // it has been cut meanwhile
				return false, nil
			}
			from += int64(n)
			before = append(before, part[:n]...)
			if bytes.Contains(before, []byte(text)) {
				return true, nil
			}
			before = bytes.Clone(before[max(0, len(before)-len(text)+1):])
		}
	}
	return false, nil
}

func TestHoldsFindsTextsAcrossParts(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const hole = 64 << 20
	_, err = f.WriteAt([]byte("first"), 1<<20-2)
	_, err2 := f.WriteAt([]byte("second"), hole+1<<20-3)
	if err := errors.Join(err, err2, f.Truncate(2*hole)); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"first": true, "second": true, "firstsecond": false, "absent": false} {
		if got, err := holds(name, text); got != want || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func (s *service) status(method, path string) (int, string) {
	s.h.t.Helper()
	req, err := http.NewRequest(method, s.url+path, nil)
	if err != nil {
		s.h.t.Fatal(err)
	}
	req.Header.Set("X-Modal-Secret", s.secret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.h.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body json.RawMessage
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		s.h.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestADeletedUserLeavesNoByte makes a game, blocks and deletes the user, and searches
// the state directory for the user's ids and content.
func TestADeletedUserLeavesNoByte(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", writeScript(t, doomedScript))
	events := s.events("/generate_game", generateBody(alice, project, "doomed-prompt-91c4"))
	if last := events[len(events)-1]; last["type"] != "done" {
		t.Fatalf("%v\n%s", last, s.log)
	}
	for _, text := range []string{alice, "doomed-prompt-91c4", "doomed-answer-91c4"} {
		if len(bytesBelow(t, h, text, true)) == 0 {
			t.Errorf("there is no trace of %s to delete", text)
		}
	}
	if status, body := s.status("GET", "/projects/"+project); status != http.StatusOK || !strings.Contains(body, alice) {
		t.Errorf("the project: %d %s", status, body)
	}
	if out := h.must("preview", project); !strings.Contains(out, "http") {
		t.Errorf("preview by id alone: %s", out)
	}
	h.must("users", "block", alice, "--reason", "a test")
	if status, o := s.object("/generate_game", generateBody(alice, project, "more")); status != http.StatusForbidden || o["code"] != "BLOCKED" || o["userMessage"] == nil {
		t.Errorf("a blocked user: %d %v", status, o)
	}
	if r := h.run("users", "delete", alice); r.code == 0 || !strings.Contains(r.stderr, "--yes") {
		t.Errorf("without --yes: %+v", r)
	}
	var report struct {
		Jobs int
		Kept []struct{ Records int }
	}
	if out := h.must("users", "delete", alice, "--yes", "--json"); json.Unmarshal([]byte(out), &report) != nil || report.Jobs != 1 || len(report.Kept) != 2 || report.Kept[1].Records == 0 {
		t.Errorf("%+v", report)
	}
	for _, text := range []string{alice, project} {
		if left := bytesBelow(t, h, text, true); len(left) > 0 {
			t.Errorf("%s is left: %q", text, left)
		}
	}
	for _, text := range []string{"doomed-prompt-91c4", "doomed-content-91c4", "doomed-answer-91c4"} {
		if left := bytesBelow(t, h, text, false); len(left) > 0 {
			t.Errorf("%s is left: %q", text, left)
		}
	}
	if status, _ := s.status("GET", "/users/"+alice); status != http.StatusNotFound {
		t.Errorf("the user: %d", status)
	}
	if got := s.file(alice, project, "index.html"); !strings.HasPrefix(got, "404") {
		t.Errorf("the game: %s", got)
	}
	events = s.events("/generate_game", generateBody(alice, project, "again"))
	if last := events[len(events)-1]; last["type"] != "done" {
		t.Errorf("the id cannot be used again: %v", last)
	}
	s.stop()
	if out := h.must("projects", "list", "--json"); !strings.Contains(out, project) {
		t.Errorf("without a service: %s", out)
	}
	h.must("projects", "delete", project, "--yes")
	if left := bytesBelow(t, h, "again", false); len(left) > 0 && strings.Contains(strings.Join(left, ""), "jobs") {
		t.Errorf("left: %q", left)
	}
	h.must("users", "delete", alice, "--yes")
	if left := bytesBelow(t, h, alice, true); len(left) > 0 {
		t.Errorf("left without a service: %q", left)
	}
}
