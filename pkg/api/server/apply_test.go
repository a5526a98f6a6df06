package server

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

func aDesk(t testing.TB, s *volume.Store) *project.Editor {
	t.Helper()
	versions, err := history.Open(t.TempDir(), history.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return project.New(s, versions)
}

// applyBody returns a request body of apply_files for the tests' project.
func applyBody(members string) string {
	return `{"user_id":"` + user + `","project_id":"` + projectID + `",` + members + `}`
}

// editor is a service with an empty project, and the project's files on disk.
type editor struct {
	*service
	volumes *volume.Store
}

func startEditor(t *testing.T) editor {
	t.Helper()
	store := openVolumes(t)
	return editor{start(t, options{config: func(c *Config) { c.Projects, c.Editor, c.Skills = store, aDesk(t, store), store }}), store}
}

// apply returns the events of a change, without their ids.
func (e editor) apply(members string) []string {
	e.t.Helper()
	res := e.do(e.request(http.MethodPost, "/apply_files", applyBody(members)))
	raw, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		e.t.Fatalf("%s %s %v", res.Status, raw, err)
	}
	var events []string
	for line := range strings.SplitSeq(string(raw), "\n") {
		if event, ok := strings.CutPrefix(line, "data: "); ok {
			events = append(events, event)
		}
	}
	return events
}

func (e editor) action(members string) (int, string) {
	e.t.Helper()
	res := e.do(e.request(http.MethodPost, "/apply-files", applyBody(members)))
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	return res.StatusCode, strings.TrimSpace(string(raw))
}

// log returns the versions of the project.
func (e editor) log() (commits []struct{ Hash, Message, Date string }) {
	e.t.Helper()
	var got struct {
		Commits []struct{ Hash, Message, Date string }
	}
	code, body := e.action(`"action":"git_log"`)
	if err := json.Unmarshal([]byte(body), &got); err != nil || code != 200 {
		e.t.Fatal(code, body)
	}
	return got.Commits
}

func (e editor) file(name string) string {
	e.t.Helper()
	p, err := e.volumes.Find(dreamcore.UserID(user), dreamcore.ProjectID(projectID))
	if err != nil {
		e.t.Fatal(err)
	}
	defer p.Close()
	raw, err := os.ReadFile(filepath.Join(p.Path(), name))
	if err != nil {
		return "(" + err.Error() + ")"
	}
	return string(raw)
}

func TestApplyFilesFollowsTheContract(t *testing.T) {
	e := startEditor(t)
	events := e.apply(`"files":[{"path":"index.html","content":"<p>é","action":"create"},{"path":"./a/b.js","content":"let a","action":"update"}],"commit_message":"two files"`)
	if len(events) != 3 || events[0] != `{"type":"status","message":"Applying 2 files"}` ||
		events[1] != `{"type":"result","files":[{"path":"index.html","action":"create","size":5},{"path":"a/b.js","action":"update","size":5}]}` ||
		!strings.HasPrefix(events[2], `{"type":"done","exit_code":0,"duration_ms":`) {
		t.Errorf("%q", events)
	}
	if got := e.file("index.html") + e.file("a/b.js"); got != "<p>élet a" {
		t.Errorf("%q", got)
	}
	events = e.apply(`"files":[{"path":"a/b.js","action":"delete"},{"path":"index.html","content":"<b>"}]`)
	if events[1] != `{"type":"result","files":[{"path":"a/b.js","action":"delete","size":0},{"path":"index.html","action":"update","size":3}]}` {
		t.Errorf("%q", events)
	}
	commits := e.log()
	if len(commits) != 2 || commits[0].Message != "Update files" || commits[1].Message != "two files" || len(commits[0].Hash) != 7 {
		t.Fatalf("%+v", commits)
	}
	if when, err := time.Parse(time.RFC3339, commits[0].Date); err != nil || time.Since(when) > time.Minute {
		t.Errorf("%v %v", when, err)
	}
	code, body := e.action(`"action":"git_diff","commit":"` + commits[0].Hash + `"`)
	var diff struct{ Diff string }
	if err := json.Unmarshal([]byte(body), &diff); err != nil || code != 200 || !strings.Contains(diff.Diff, "-<p>é\n") || !strings.Contains(diff.Diff, "deleted file mode 100644") {
		t.Errorf("%d %s", code, body)
	}
}

func TestInvalidPathChangesNothing(t *testing.T) {
	e := startEditor(t)
	e.apply(`"files":[{"path":"index.html","content":"old"}]`)
	for _, bad := range []string{"../x", "/etc/passwd", "a/../../x", ".git/config", "index.html/x", "a\\u0000b", "..", "index.html"} {
		events := e.apply(`"files":[{"path":"index.html","content":"new"},{"path":"` + bad + `","content":"x"}]`)
		last := events[len(events)-1]
		if !strings.HasPrefix(last, `{"type":"error","message":"Invalid file path: `) || !strings.HasSuffix(last, `"code":"PERMISSION_ERROR"}`) || e.file("index.html") != "old" {
			t.Errorf("%s: %q, %s", bad, events, e.file("index.html"))
		}
	}
	if commits := e.log(); len(commits) != 1 {
		t.Errorf("%v", commits)
	}
}

func TestApplyFilesRefusesInvalidRequests(t *testing.T) {
	e := startEditor(t)
	many := strings.Repeat(`{"path":"a","content":""},`, maxApplied)
	for body, want := range map[string]string{
		`"files":[]`:                             "files array is required",
		`"x":1`:                                  "files array is required",
		`"files":{}`:                             "files array is required",
		`"files":[{"content":"x"}]`:              "Invalid files[0]: path is required",
		`"files":[{"path":"a","content":"x"},7]`: "Invalid files[1]: must be an object",
		`"files":[{"path":"a","content":7}]`:     "Invalid files[0]: content must be text",
		`"files":[{"path":"a","content":"","action":"rename"}]`: "Invalid files[0]: action must be create, update or delete",
		`"files":[` + many + `{"path":"b","content":""}]`:       "Too many files: at most 1000",
		`"action":"x"`:                                            "Unknown action: x",
		`"action":7`:                                              "Unknown action: 7",
		`"action":"(not a string)"`:                               "Unknown action: (not a string)",
		`"action":"git_diff","commit":1234567`:                    "Invalid commit hash",
		`"action":"git_restore","commit":["a"]`:                   "Invalid commit hash",
		`"files":[{"path":"a","content":"x"}],"commit_message":7`: "Invalid commit_message: must be a string",
		`"files":[{"path":"a","content":"x","action":7}]`:         "Invalid files[0]: action must be create, update or delete",
		`"files":[{"path":"a","content":["x"]}]`:                  "Invalid files[0]: content must be text",
		`"files":[{"path":7,"content":"x"}]`:                      "Invalid files[0]: path is required",
		`"action":"git_diff"`:                                     "commit is required",
		`"action":"git_restore"`:                                  "commit is required",
		`"action":"git_diff","commit":"HEAD"`:                     "Invalid commit hash",
		`"action":"git_restore","commit":"123456"`:                "Invalid commit hash",
		`"action":"git_log","limit":"many"`:                       "Invalid limit: must be a positive number",
	} {
		if code, got := e.action(body); code != 400 || !strings.Contains(got, `"error":"`+want+`"`) {
			t.Errorf("%.100s: %d %s", body, code, got)
		}
	}
	for body, want := range map[string]string{
		`"action":"git_diff","commit":"1234567"`:    "Git not initialized",
		`"action":"git_restore","commit":"1234567"`: "Git not initialized",
	} {
		if code, got := e.action(body); code != 404 || !strings.Contains(got, `"error":"`+want+`"`) {
			t.Errorf("%s: %d %s", body, code, got)
		}
	}
	if code, got := e.action(`"action":"git_log"`); code != 200 || got != `{"commits":[]}` {
		t.Errorf("an unknown project: %d %s", code, got)
	}
	withFiles(t, e.volumes, map[string]string{"index.html": "x"})
	if code, got := e.action(`"action":"git_log"`); code != 200 || !strings.HasSuffix(got, `,"autoInitialized":true}`) {
		t.Errorf("a project without a version: %d %s", code, got)
	}
	if code, got := e.action(`"action":"git_log","limit":1`); code != 200 || strings.Contains(got, "autoInitialized") {
		t.Errorf("afterwards: %d %s", code, got)
	}
	if code, got := e.action(`"action":"git_diff","commit":"1234567"`); code != 404 || !strings.Contains(got, `"error":"Commit not found"`) {
		t.Errorf("%d %s", code, got)
	}
	// The project is locked by a generation.
	unlock, err := e.volumes.TryLock(dreamcore.UserID(user), dreamcore.ProjectID(projectID))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if code, got := e.action(`"files":[{"path":"a","content":""}]`); code != 409 || !strings.Contains(got, "in use") {
		t.Errorf("%d %s", code, got)
	}
}

func TestRestoreChangesOnlyCode(t *testing.T) {
	e := startEditor(t)
	e.apply(`"files":[{"path":"index.html","content":"1"},{"path":"js/a.js","content":"1"},{"path":"SPEC.md","content":"1"},{"path":"notes.md","content":"1"},{"path":"a.png","content":"1"}]`)
	first := e.log()[0].Hash
	e.apply(`"files":[{"path":"index.html","content":"2"},{"path":"js/a.js","action":"delete"},{"path":"SPEC.md","content":"2"},{"path":"notes.md","content":"2"},{"path":"a.png","content":"2"},{"path":"new.js","content":"2"}]`)
	withFiles(t, e.volumes, map[string]string{"index.html": "not in any version"})
	if code, got := e.action(`"action":"git_restore","commit":"` + first + `"`); code != 200 || got != `{"success":true,"restored_files":["SPEC.md","index.html","js/a.js"]}` {
		t.Errorf("%d %s", code, got)
	}
	if got := e.file("index.html") + e.file("js/a.js") + e.file("SPEC.md") + e.file("notes.md") + e.file("a.png") + e.file("new.js"); got != "111222" {
		t.Errorf("%q", got)
	}
	commits := e.log()
	if len(commits) != 4 || commits[0].Message != "Restored to "+first || commits[1].Message != "Before a change" {
		t.Errorf("%+v", commits)
	}
}

func TestConcurrentChangesAreAtomic(t *testing.T) {
	e := startEditor(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			code, got := http.StatusConflict, ""
			for range 20 { // a request that waited too long is retried
				if code != http.StatusConflict {
					break
				}
				code, got = e.action(fmt.Sprintf(`"files":[{"path":"a.js","content":"%d"},{"path":"b.js","content":"%d"}]`, i, i))
			}
			if code != http.StatusOK || !strings.Contains(got, `"done"`) {
				t.Errorf("%d %q", code, got)
			}
		})
	}
	all.Wait()
	if a, b := e.file("a.js"), e.file("b.js"); a != b || len(e.log()) != 8 {
		t.Errorf("%q %q, %d versions", a, b, len(e.log()))
	}
}

func TestGetSkillContentFollowsTheContract(t *testing.T) {
	e := startEditor(t)
	if _, err := e.volumes.Create(volume.Global); err != nil {
		t.Fatal(err)
	}
	dir, err := e.volumes.Path(volume.Global)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"threejs-setup": "# three <js>", "big": strings.Repeat("x", maxSkillBytes+1), "a_B9": "b", "../evil": "evil"} {
		if err := os.MkdirAll(filepath.Join(dir, ".claude/skills", name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, ".claude/skills", name, "SKILL.md"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(body string) (int, string) {
		res := e.do(e.request(http.MethodPost, "/get_skill_content", body))
		raw, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, strings.TrimSpace(string(raw))
	}
	code, got := ask(`{"skill_names":["threejs-setup","missing","big","a_B9","../evil","","a/b",7,"threejs-setup"]}`)
	if code != 200 || got != `{"skills":{"a_B9":"b","threejs-setup":"# three <js>"}}` {
		t.Errorf("%d %s", code, got)
	}
	if code, got := ask(`{"skill_names":[` + strings.Repeat(`"a",`, maxSkills) + `"a"]}`); code != 400 {
		t.Errorf("%d %s", code, got)
	}
	for _, empty := range []string{"", " \n", "{}", `{"skill_names":[]}`, `{"skill_names":null}`, `{"skills":["a_B9"]}`, `{"skill_names":["(not a string)"]}`} {
		if code, got := ask(empty); code != 200 || got != `{"skills":{}}` {
			t.Errorf("%q: %d %s", empty, code, got)
		}
	}
	for _, bad := range []string{`{"skill_names":"a_B9"}`, `{"skill_names":7}`, `{"skill_names":{}}`, `{"skill_names":false}`} {
		if code, got := ask(bad); code != 400 || !strings.Contains(got, "Invalid skill_names: must be an array") {
			t.Errorf("%s: %d %s", bad, code, got)
		}
	}
	for _, bad := range []string{"x", "[]", "null", "{}{}"} {
		if code, got := ask(bad); code != 400 || !strings.Contains(got, "Invalid JSON") {
			t.Errorf("%s: %d %s", bad, code, got)
		}
	}
}

func TestGetFileSupportsRangesAndTags(t *testing.T) {
	e := startEditor(t)
	withFiles(t, e.volumes, map[string]string{"a.js": "0123456789"})
	time.Sleep(2 * project.TagDelay)
	get := func(headers ...string) (*http.Response, string) {
		req := e.request(http.MethodGet, "/get_file?user_id="+user+"&project_id="+projectID+"&path=a.js", "")
		req.Body, req.ContentLength = nil, 0
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		res := e.do(req)
		raw, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(raw)
	}
	res, body := get()
	tag := res.Header.Get("ETag")
	if body != "0123456789" || tag == "" || res.Header.Get("Accept-Ranges") != "bytes" {
		t.Fatalf("%q %v", body, res.Header)
	}
	if res, body := get("If-None-Match", tag); res.StatusCode != 304 || body != "" || res.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("%s %q %v", res.Status, body, res.Header)
	}
	if res, body := get("Range", "bytes=2-4"); res.StatusCode != 206 || body != "234" || res.Header.Get("Content-Range") != "bytes 2-4/10" {
		t.Errorf("%s %q", res.Status, body)
	}
	if res, body := get("Range", "bytes=-3", "If-Range", tag); res.StatusCode != 206 || body != "789" {
		t.Errorf("%s %q", res.Status, body)
	}
	if res, body := get("Range", "bytes=2-4", "If-Range", `"old"`); res.StatusCode != 200 || body != "0123456789" {
		t.Errorf("%s %q", res.Status, body)
	}
	if res, _ := get("Range", "bytes=20-"); res.StatusCode != 416 {
		t.Errorf("%s", res.Status)
	}
	withFiles(t, e.volumes, map[string]string{"a.js": "9876543210"})
	if res, body := get("If-None-Match", tag); res.StatusCode != 200 || body != "9876543210" || res.Header.Get("ETag") == tag {
		t.Errorf("a changed file: %s %q", res.Status, body)
	}
}

func TestNoStringIsSpecial(t *testing.T) {
	e := startEditor(t)
	events := e.apply(`"files":[{"path":"(not a string)","content":"(not a string)"}],"commit_message":"(not a string)"`)
	if events[1] != `{"type":"result","files":[{"path":"(not a string)","action":"update","size":14}]}` || e.file("(not a string)") != "(not a string)" {
		t.Errorf("%q, %q", events, e.file("(not a string)"))
	}
	if commits := e.log(); len(commits) != 1 || commits[0].Message != "(not a string)" {
		t.Errorf("%v", commits)
	}
}

func TestBinaryFilesAsBase64(t *testing.T) {
	e := startEditor(t)
	picture := "\x89PNG\r\n\x1a\n\x00\xff\xfe"
	encoded := base64.StdEncoding.EncodeToString([]byte(picture))
	events := e.apply(`"files":[{"path":"a.png","content":"` + encoded + `","encoding":"base64","action":"create"},` +
		`{"path":"b.txt","content":"` + encoded + `","encoding":"utf-8"},{"path":"c.txt","content":"` + encoded + `","encoding":null},{"path":"empty","content":"","encoding":"base64"}]`)
	want := fmt.Sprintf(`{"type":"result","files":[{"path":"a.png","action":"create","size":%d},{"path":"b.txt","action":"update","size":%d},{"path":"c.txt","action":"update","size":%[2]d},{"path":"empty","action":"update","size":0}]}`, len(picture), len(encoded))
	if events[1] != want {
		t.Errorf("%q, not %s", events, want)
	}
	if e.file("a.png") != picture || e.file("b.txt") != encoded || e.file("c.txt") != encoded || e.file("empty") != "" {
		t.Errorf("%q %q", e.file("a.png"), e.file("b.txt"))
	}
	const bad64 = "Invalid files[1].content: must be base64 in the standard alphabet with padding, on one line"
	const badName = `Invalid files[1].encoding: must be \"utf-8\" or \"base64\"`
	for member, want := range map[string]string{
		`"content":"a","encoding":"base64"`:                          bad64,
		`"content":"YQ","encoding":"base64"`:                         bad64, // no padding
		`"content":"YR==","encoding":"base64"`:                       bad64, // unused bits are set
		`"content":"_-__","encoding":"base64"`:                       bad64, // the alphabet of URLs
		`"content":"YWJj\nYWJj","encoding":"base64"`:                 bad64,
		`"content":"YWJj\r\n","encoding":"base64"`:                   bad64,
		`"content":" YWJj","encoding":"base64"`:                      bad64,
		`"content":"data:image/png;base64,YWJj","encoding":"base64"`: bad64,
		`"content":"YWJjYQ==YWJj","encoding":"base64"`:               bad64,
		`"content":"é","encoding":"base64"`:                          bad64,
		`"content":"YWJj","encoding":"hex"`:                          badName,
		`"content":"YWJj","encoding":"BASE64"`:                       badName,
		`"content":"YWJj","encoding":7`:                              badName,
		`"content":"YWJj","encoding":["base64"]`:                     badName,
		`"content":"YWJj","encoding":"(not a string)"`:               badName,
	} {
		events := e.apply(`"files":[{"path":"b.txt","content":"new"},{"path":"x",` + member + `}]`)
		last := events[len(events)-1]
		if last != `{"type":"error","message":"`+want+`","code":"PERMISSION_ERROR"}` || e.file("b.txt") != encoded {
			t.Errorf("%s: %q, %q", member, events, e.file("b.txt"))
		}
	}
	if n := len(e.log()); n != 1 {
		t.Errorf("%d versions", n)
	}
}

func TestFilesWhoseNamesAreNotUTF8AreCounted(t *testing.T) {
	e := startEditor(t)
	withFiles(t, e.volumes, map[string]string{
		"index.html": "1", "\x83\x51.js": "1", "\x83\x52.js": "1", "dir\xff/a.js": "1", "\uFFFD.js": "1", "日本.js": "1", "a\nb%#?+ 🎮.js": "1", "e\u0301.js": "1", "é.js": "2",
	})
	list := func() (got struct {
		Files   []string
		LeftOut int `json:"left_out"`
	}) {
		res := e.do(e.requestFor(endpoint{name: "list_files", methods: []string{http.MethodGet}}, "/list_files"))
		if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	got := list()
	if len(got.Files) != 6 || got.LeftOut != 3 {
		t.Errorf("%q, %d left out", got.Files, got.LeftOut)
	}
	for _, name := range got.Files {
		req := e.requestFor(endpoint{name: "get_file", methods: []string{http.MethodGet}}, "/get_file")
		q := req.URL.Query()
		q.Set("path", name)
		req.URL.RawQuery = q.Encode()
		if res := e.do(req); res.StatusCode != http.StatusOK {
			t.Errorf("%q is listed: status %d", name, res.StatusCode)
		}
	}
	code, body := e.action(`"action":"git_log"`)
	if code != 200 || !strings.Contains(body, "autoInitialized") {
		t.Fatal(code, body)
	}
	// Versions contain them, and a restore restores them under their own names.
	first := e.log()[0].Hash
	withFiles(t, e.volumes, map[string]string{"\x83\x51.js": "2", "\x83\x52.js": "2"})
	code, body = e.action(`"action":"git_restore","commit":"` + first + `"`)
	if code != 200 || !strings.Contains(body, `"left_out":3`) || strings.Contains(body, `"\ufffd\ufffd`) || strings.Contains(body, "\uFFFDQ.js") {
		t.Errorf("%d %s", code, body)
	}
	if e.file("\x83\x51.js")+e.file("\x83\x52.js") != "11" {
		t.Errorf("%q", e.file("\x83\x51.js"))
	}
	if got := list(); len(got.Files) != 6 || got.LeftOut != 3 {
		t.Errorf("afterwards %q, %d left out", got.Files, got.LeftOut)
	}
}

// TestTooManyFilesCostNoMemory sends a list that is short as text but would be
// large in memory.
func TestTooManyFilesCostNoMemory(t *testing.T) {
	raw := json.RawMessage("[" + strings.Repeat("0,", 1<<20) + "0]")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := decodeChanges(raw)
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "Too many files") {
		t.Error(err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
		t.Errorf("decoding allocated %d bytes", took)
	}
}
