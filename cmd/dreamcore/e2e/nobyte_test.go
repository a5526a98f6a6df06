package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// TestEveryRequestSaysThatTheDiskIsFull sends every request that changes something to a
// service whose disk has no byte free, and none kept free for it.
func TestEveryRequestSaysThatTheDiskIsFull(t *testing.T) {
	h := smallDisk(t, 1500)
	h.env = append(h.env, "DREAMCORE_MIN_FREE_DISK_MIB=0", "DREAMCORE_DISK_MIB=64")
	s := h.serve("--model-script", "demo")
	const key = "3f1c8a52-key"
	made := s.post("/generate_game", generateBody(alice, project, "a game"), "Idempotency-Key", key)
	raw, err := io.ReadAll(made.Body)
	made.Body.Close()
	if err != nil || !strings.Contains(string(raw), `"type":"done"`) {
		t.Fatalf("%v, %s\n%s", err, raw, s.log)
	}
	id := made.Header.Get("X-Job-Id")
	stranger := uuid.NewString()
	apply := `{"user_id":%q,"project_id":%q,"files":[{"path":"new.txt","content":%q,"action":"create"}]}`
	type answer struct {
		status int
		body   string
	}
	ok := func(a answer) bool { return a.status == http.StatusOK }
	full := func(a answer) bool {
		return a.status == http.StatusServiceUnavailable && strings.Contains(a.body, `"code":"DISK_FULL"`) && strings.Contains(a.body, `"hint":"`) && strings.Contains(a.body, `"userMessage":"`)
	}
	event := func(code string) func(answer) bool {
		return func(a answer) bool { return ok(a) && strings.Contains(a.body, `"code":"`+code+`"`) }
	}
	for i := range 4 {
		h.fill(fmt.Sprint("other.", i)) // until nothing gives back space any more
	}
	var st unix.Statfs_t
	if err := unix.Statfs(h.state, &st); err != nil || st.Bavail > 16 {
		t.Fatalf("%v, %d blocks are free", err, st.Bavail)
	}
	for _, c := range []struct {
		method, path, body string
		header             []string
		want               func(answer) bool
	}{
		{"POST", "/generate_game", generateBody(bob, project, "a game"), nil, full},
		{"POST", "/generate_game", generateBody(bob, project, "a game"), []string{"Idempotency-Key", "another"}, full},
		{"POST", "/generate_game", generateBody(alice, project, "a game"), []string{"Idempotency-Key", key}, ok}, // its job has ended
		{"POST", "/jobs/" + id + "/retry", "", nil, full},
		{"POST", "/jobs/" + id + "/cancel", "", nil, ok},
		{"POST", "/jobs/" + id + "/link", "", nil, ok},
		{"POST", "/apply_files", fmt.Sprintf(apply, alice, project, strings.Repeat("x", 100_000)), nil, event("OS_ERROR")},
		{"POST", "/apply_files", fmt.Sprintf(apply, stranger, project, "x"), nil, event("OS_ERROR")},
		{"POST", "/prewarm_sandbox", `{"user_id":"` + stranger + `"}`, nil, full},
		{"POST", "/preview_link", `{"user_id":"` + alice + `","project_id":"` + project + `"}`, nil, ok},
		{"POST", "/users/" + bob + "/block", `{"reason":"x"}`, nil, full},
		{"POST", "/users/" + bob + "/unblock", "", nil, ok},
		// What has room in a file that has it is written.
		{"POST", "/detect_intent", `{"message":"a game","user_id":"` + alice + `"}`, nil, func(a answer) bool { return ok(a) || full(a) }},
		{"POST", "/test_sandbox_io", "", nil, func(a answer) bool { return ok(a) || full(a) }},
		{"DELETE", "/users/" + alice + "", "", nil, func(a answer) bool { return ok(a) || full(a) }},
	} {
		req, err := http.NewRequest(c.method, s.url+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Modal-Secret", s.secret)
		for i := 0; i < len(c.header); i += 2 {
			req.Header.Set(c.header[i], c.header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !c.want(answer{resp.StatusCode, string(raw)}) {
			t.Errorf("%s %s %v: %v, %s, %s", c.method, c.path, c.header, err, resp.Status, raw)
		}
		if full := resp.StatusCode == http.StatusServiceUnavailable; full != (resp.Header.Get("Retry-After") != "") {
			t.Errorf("%s %s: %s, Retry-After %q", c.method, c.path, resp.Status, resp.Header.Get("Retry-After"))
		}
		var o any
		if resp.Header.Get("Content-Type") == "application/json" && json.Unmarshal(raw, &o) != nil {
			t.Errorf("%s %s: %s", c.method, c.path, raw)
		}
	}
	if names, _ := filepath.Glob(filepath.Join(h.state, "jobs", "*.ndjson")); len(names) > 1 {
		t.Errorf("a refused request has left a log: %v", names)
	}
	h.makeSpace()
	again := s.events("/generate_game", generateBody(bob, project, "a game"), "Idempotency-Key", "another")
	if last := again[len(again)-1]; last["type"] != "done" {
		t.Errorf("with space again: %v\n%s", last, s.log)
	}
}
