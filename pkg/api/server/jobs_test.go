package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
)

// realJobs is a server with the job service and its stores. Requests with
// _test_error need no sandbox.
type realJobs struct {
	*service
	jobs    *job.Service
	records *record.Store
	journal *journal.Store
}

func startJobs(t testing.TB, dir string, settings job.Settings) *realJobs {
	t.Helper()
	logs, err := journal.Open(filepath.Join(dir, "logs"), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	records, err := record.Open(filepath.Join(dir, "index"), record.Options{})
	if err != nil {
		t.Fatal(err)
	}
	jobs := job.New(job.Parts{Journal: logs, Records: records, Resume: true}, settings)
	if err := errors.Join(jobs.Recover(), jobs.Reconcile(t.Context())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := records.Close(); err != nil {
			t.Error(err)
		}
		if err := logs.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { jobs.Close(t.Context()) })
	sv := start(t, options{config: func(c *Config) { c.Generator, c.Jobs, c.Journal = jobs, jobs, logs }})
	return &realJobs{sv, jobs, records, logs}
}

// oneAtATime is enough for tests; no job is refused.
var oneAtATime = job.Settings{Running: 1, Waiting: 1000, PerUser: 1000, DisconnectGrace: time.Minute, Attempts: 2}

// played is a request whose job fails without a sandbox.
func played(user, project, prompt string) string {
	return fmt.Sprintf(`{"user_id":%q,"project_id":%q,"prompt":%q,"_test_error":"general"}`, user, project, prompt)
}

// generate sends a request to the end of its stream, and returns the job.
func (r *realJobs) generate(body string) (id string) {
	r.t.Helper()
	res := r.do(r.request(http.MethodPost, "/generate_game", body))
	if res.StatusCode != http.StatusOK {
		raw, _ := io.ReadAll(res.Body)
		r.t.Fatalf("status %d: %s", res.StatusCode, raw)
	}
	readStream(r.t, res.Body).all()
	return res.Header.Get(JobHeader)
}

// ids returns the jobs of a list, and the cursor of the next page.
func (r *realJobs) ids(query url.Values) (ids []string, next string) {
	r.t.Helper()
	status, _, body := r.get("/jobs?" + query.Encode())
	if status != http.StatusOK {
		r.t.Fatalf("%v: %d %v", query, status, body)
	}
	for _, j := range body["jobs"].([]any) {
		ids = append(ids, j.(map[string]any)["id"].(string))
	}
	next, _ = body["next"].(string)
	return ids, next
}

const (
	otherUser    = "1b9e2c2e-93c5-4b0c-8a08-9d3c1a5b6f10"
	otherProject = "6c0fbe1c-7f0b-4a3d-b0cb-0f0d5a9d3c11"
)

func TestJobsAreListed(t *testing.T) {
	r := startJobs(t, t.TempDir(), oneAtATime)
	if status, _, body := r.get("/jobs"); status != 200 || !cmp.Equal(body, map[string]any{"jobs": []any{}}) {
		t.Errorf("no jobs: %d %v", status, body)
	}
	began := time.Now()
	first := r.generate(played(user, projectID, "one"))
	second := r.generate(played(user, otherProject, "two"))
	third := r.generate(played(otherUser, otherProject, "three"))
	later := time.Now().Add(time.Second)
	for _, tt := range []struct {
		query url.Values
		want  []string
	}{
		{nil, []string{third, second, first}},
		{url.Values{"user_id": {user}}, []string{second, first}},
		{url.Values{"user_id": {strings.ToUpper(user)}}, []string{second, first}},
		{url.Values{"project_id": {otherProject}}, []string{third, second}},
		{url.Values{"user_id": {user}, "project_id": {otherProject}}, []string{second}},
		{url.Values{"state": {"failed"}}, []string{third, second, first}},
		{url.Values{"state": {"running"}}, nil},
		{url.Values{"since": {began.Format(time.RFC3339Nano)}}, []string{third, second, first}},
		{url.Values{"since": {later.Format(time.RFC3339)}}, nil},
		{url.Values{"until": {began.Format(time.RFC3339)}}, nil},
		{url.Values{"since": {"2026-01-01"}, "until": {later.UTC().Format(time.RFC3339Nano)}}, []string{third, second, first}},
	} {
		if got, next := r.ids(tt.query); !slices.Equal(got, tt.want) || next != "" {
			t.Errorf("%v: %v, next %q", tt.query, got, next)
		}
	}
	var paged []string
	for q := (url.Values{"limit": {"1"}}); ; {
		ids, next := r.ids(q)
		paged = append(paged, ids...)
		if next == "" {
			break
		}
		q.Set("cursor", next)
	}
	if !slices.Equal(paged, []string{third, second, first}) {
		t.Errorf("by page: %v", paged)
	}
}

func TestTheRecordOfAJob(t *testing.T) {
	r := startJobs(t, t.TempDir(), oneAtATime)
	id := r.generate(played(user, projectID, "a <snake> game"))
	status, _, body := r.get("/jobs/" + id)
	want := map[string]any{
		"id": id, "user_id": user, "project_id": projectID, "prompt": "a <snake> game", "prompt_bytes": 14.0, "state": "failed", "language": "en",
		"attempt": 1.0, "last_event_id": 2.0, "cost_usd": 0.0, "input_tokens": 0.0, "output_tokens": 0.0, "exit_code": 1.0, "code": "CLI_GENERAL_ERROR",
	}
	for _, name := range []string{"created", "started", "ended"} {
		if at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(body[name])); err != nil || time.Since(at) > time.Hour {
			t.Errorf("%s is %v", name, body[name])
		}
		delete(body, name)
	}
	if cause, ok := body["cause"].(string); !ok || cause == "" {
		t.Errorf("the cause is %v", body["cause"])
	}
	delete(body, "cause")
	if diff := cmp.Diff(want, body); status != http.StatusOK || diff != "" {
		t.Errorf("status %d %s", status, diff)
	}
}

func TestBadFiltersNameTheirField(t *testing.T) {
	r := startJobs(t, t.TempDir(), oneAtATime)
	for query, field := range map[string]string{
		"user_id=x": "user_id", "user_id=": "user_id", "project_id=7": "project_id", "state=done": "state", "state=": "state", "state=FAILED": "state",
		"since=yesterday": "since", "since=1700000000": "since", "until=2026-13-01": "until", "until=2026-11-01T12:00:00": "until",
		"limit=0": "limit", "limit=-1": "limit", "limit=1001": "limit", "limit=x": "limit", "limit=1e2": "limit", "limit=": "limit",
		"cursor=x": "cursor", "cursor=%00": "cursor", "cursor=" + strings.Repeat("A", 5000): "cursor",
		"user=" + user: "user", "State=failed": "State", "limit=1&limit=2": "limit", "user_id=" + user + "&user_id=" + otherUser: "user_id",
	} {
		status, _, body := r.get("/jobs?" + query)
		if status != http.StatusBadRequest || body["code"] != "INVALID" || !strings.Contains(body["error"].(string), field) {
			t.Errorf("%.60s: %d %v", query, status, body)
		}
	}
	if status, _, body := r.get("/jobs?limit=%zz"); status != http.StatusBadRequest || body["error"] != "Invalid query" {
		t.Errorf("%d %v", status, body)
	}
}

func TestExpiredJobsAreGone(t *testing.T) {
	r := startJobs(t, t.TempDir(), oneAtATime)
	id := r.generate(played(user, projectID, "old"))
	err := r.journal.Remove(id)
	for dreamcore.CodeOf(err) == dreamcore.CodeConflict { // the server closes its reader after the response
		runtime.Gosched()
		err = r.journal.Remove(id)
	}
	if err != nil {
		t.Fatal(err)
	}
	gone := func(stage, method, path string) {
		t.Helper()
		status, _, body := object(t, r.do(r.request(method, path, "")))
		if status != http.StatusGone || body["code"] != "EXPIRED" || body["error"] != "Job expired" {
			t.Errorf("%s: %s %s: %d %v", stage, method, path, status, body)
		}
	}
	gone("before the row is removed", "GET", "/jobs/"+id+"/events")
	if err := r.records.Expire(id); err != nil {
		t.Fatal(err)
	}
	for _, e := range []struct{ method, path string }{{"GET", ""}, {"GET", "/events"}, {"GET", "/events?after=1"}, {"POST", "/cancel"}, {"POST", "/retry"}, {"POST", "/link"}} {
		gone("after it", e.method, "/jobs/"+id+e.path)
	}
}

func TestAJobIsRepeated(t *testing.T) {
	r := startJobs(t, t.TempDir(), oneAtATime)
	id := r.generate(played(user, projectID, "again"))
	res := r.do(r.request(http.MethodPost, "/jobs/"+id+"/retry", ""))
	again := res.Header.Get(JobHeader)
	if events := readStream(t, res.Body).all(); res.StatusCode != 200 || len(events) != 2 || again == id {
		t.Errorf("%d, job %s: %q", res.StatusCode, again, events)
	}
	if _, _, body := r.get("/jobs/" + again); !has(body, map[string]any{"prompt": "again", "user_id": user, "project_id": projectID, "detach": nil}) {
		t.Errorf("%v", body)
	}
	res = r.do(r.request(http.MethodPost, "/jobs/"+id+"/retry", `{"detach":true}`))
	readStream(t, res.Body).all()
	if _, _, body := r.get("/jobs/" + res.Header.Get(JobHeader)); body["detach"] != true {
		t.Errorf("detached: %v", body)
	}
	for body, want := range map[string]int{"[]": 400, `{"detach":1}`: 400} {
		if status, _, answer := r.post("/jobs/"+id+"/retry", body); status != want {
			t.Errorf("%s: %d %v", body, status, answer)
		}
	}
	if status, _, answer := r.post("/jobs/"+noJob+"/retry", ""); status != 404 || answer["error"] != "Job not found" {
		t.Errorf("%d %v", status, answer)
	}
}

func TestAJobThatHasNotEndedIsNotRepeated(t *testing.T) {
	r := startJobs(t, t.TempDir(), job.Settings{Running: 0, Waiting: 2, PerUser: 2, DisconnectGrace: time.Minute})
	res := r.do(r.request(http.MethodPost, "/generate_game", played(user, projectID, "waits")))
	id := res.Header.Get(JobHeader)
	status, h, body := r.post("/jobs/"+id+"/retry", "")
	if status != http.StatusConflict || body["error"] != "Job has not ended" || h.Get("Retry-After") == "" || body["hint"] != "follow it with GET /jobs/ID/events, or cancel it first" {
		t.Errorf("%d %v", status, body)
	}
	if _, _, body := r.get("/jobs"); len(body["jobs"].([]any)) != 1 {
		t.Errorf("%v", body)
	}
	r.jobs.Cancel(id)
	readStream(t, res.Body).all()
}

func TestRequestsNameConfiguredWebhooksOnly(t *testing.T) {
	r := startJobs(t, t.TempDir(), oneAtATime)
	with := strings.Replace(generateBody, "{", `{"webhook_url":"https://evil.example/",`, 1)
	if status, _, body := r.post("/generate_game", with); status != http.StatusBadRequest || !strings.HasPrefix(body["error"].(string), "Invalid webhook_url") {
		t.Errorf("status %d, %v", status, body)
	}
	if _, _, body := r.get("/jobs"); len(body["jobs"].([]any)) != 0 {
		t.Errorf("%v", body)
	}
}

// withKey returns a request with an idempotency key.
func (r *realJobs) withKey(path, key, body string) *http.Request {
	req := r.request(http.MethodPost, path, body)
	req.Header.Set(KeyHeader, key)
	return req
}

func TestOneKeyMakesOneJob(t *testing.T) {
	const clients = 50
	r := startJobs(t, t.TempDir(), oneAtATime)
	var mu sync.Mutex
	streams := map[string]int{}
	jobs := map[string]int{}
	var all sync.WaitGroup
	begin := make(chan struct{})
	for range clients {
		req := r.withKey("/generate_game", "order-4711", played(user, projectID, "once"))
		all.Go(func() {
			<-begin
			res, err := r.client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			raw, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != http.StatusOK {
				t.Errorf("status %d, %v: %.200s", res.StatusCode, err, raw)
			}
			mu.Lock()
			defer mu.Unlock()
			streams[string(raw)]++
			jobs[res.Header.Get(JobHeader)]++
		})
	}
	close(begin)
	all.Wait()
	if len(streams) != 1 || len(jobs) != 1 {
		t.Errorf("%d different streams of the jobs %v", len(streams), jobs)
	}
	if ids, _ := r.ids(nil); len(ids) != 1 || jobs[ids[0]] != clients {
		t.Errorf("listed: %v", ids)
	}
	for stream := range streams {
		if !strings.Contains(stream, "id: 1\n") || !strings.Contains(stream, `"type":"error"`) {
			t.Errorf("stream %q", stream)
		}
	}
}

func TestAKeyBelongsToOneRequest(t *testing.T) {
	dir := t.TempDir()
	r := startJobs(t, dir, oneAtATime)
	submit := func(path, key, body string) (int, string) {
		res := r.do(r.withKey(path, key, body))
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode, res.Header.Get(JobHeader)
	}
	body := played(user, projectID, "one")
	_, first := submit("/generate_game", "k", body)
	// The same fields in another spelling are the same request.
	for _, same := range []string{body, strings.Replace(body, ":", ": ", 1), strings.Replace(body, user, strings.ToUpper(user), 1)} {
		if status, id := submit("/generate_game", "k", same); status != 200 || id != first {
			t.Errorf("%s: %d, job %s, want %s", same, status, id, first)
		}
	}
	for _, other := range []string{played(user, projectID, "two"), played(user, otherProject, "one"), strings.Replace(body, "}", `,"detach":true}`, 1)} {
		status, _, answer := object(t, r.do(r.withKey("/generate_game", "k", other)))
		if status != http.StatusUnprocessableEntity || answer["code"] != "IDEMPOTENCY_KEY_REUSED" || !strings.Contains(answer["error"].(string), KeyHeader) {
			t.Errorf("%s: %d %v", other, status, answer)
		}
	}
	for name, other := range map[string]string{"another user": played(otherUser, projectID, "one")} {
		if status, id := submit("/generate_game", "k", other); status != 200 || id == first {
			t.Errorf("%s: %d, job %s", name, status, id)
		}
	}
	_, retried := submit("/jobs/"+first+"/retry", "r", "")
	if status, id := submit("/jobs/"+first+"/retry", "r", ""); status != 200 || id != retried || id == first {
		t.Errorf("a retry with a key: %d, jobs %s and %s", status, retried, id)
	}
	if ids, _ := r.ids(nil); len(ids) != 3 {
		t.Errorf("jobs: %v", ids)
	}
}

func TestKeysAreChecked(t *testing.T) {
	sv := start(t, options{})
	for _, tt := range []struct {
		values []string
		ok     bool
	}{
		{[]string{"8e03978e-40d5-43dd-bc93-6894a57f9324"}, true}, {[]string{`"quoted"`}, true}, {[]string{strings.Repeat("k", 255)}, true},
		{[]string{strings.Repeat("k", 256)}, false}, {[]string{""}, false}, {[]string{"a b"}, false}, {[]string{"é"}, false},
		{[]string{"a", "a"}, false}, {[]string{"a", "b"}, false},
	} {
		req := sv.request(http.MethodPost, "/generate_game", generateBody)
		req.Header[KeyHeader] = tt.values
		res := sv.do(req)
		raw, _ := io.ReadAll(res.Body)
		if ok := res.StatusCode == http.StatusOK; ok != tt.ok || !ok && (res.StatusCode != http.StatusBadRequest || !strings.Contains(string(raw), KeyHeader)) {
			t.Errorf("%.40q: %d %s", tt.values, res.StatusCode, raw)
		}
		if tt.ok && sv.generator.lastRequest().IdempotencyKey != tt.values[0] {
			t.Errorf("%q was passed on as %q", tt.values, sv.generator.lastRequest().IdempotencyKey)
		}
	}
}

func TestAQueuedJobIsCancelledAfterARestart(t *testing.T) {
	dir := t.TempDir()
	// With no place to run, every job waits.
	waits := job.Settings{Running: 0, Waiting: 10, PerUser: 10, RunOn: true, Attempts: 2}
	id := ""
	t.Run("the first process", func(t *testing.T) {
		r := startJobs(t, dir, waits)
		res := r.do(r.request(http.MethodPost, "/generate_game", played(user, projectID, "waits")))
		if f, err := readStream(t, res.Body).next(); err != nil || !strings.Contains(f.data, "place 1") {
			t.Fatalf("%+v, %v", f, err)
		}
		id = res.Header.Get(JobHeader)
		r.jobs.Close(t.Context())
	})
	r := startJobs(t, dir, waits)
	if _, _, body := r.get("/jobs/" + id); !has(body, map[string]any{"state": "queued", "queue_position": 1.0}) {
		t.Errorf("after the restart: %v", body)
	}
	stream := r.follow(id, "")
	for range 2 {
		if status, _, body := r.post("/jobs/"+id+"/cancel", ""); status != 200 || !has(body, map[string]any{"id": id}) {
			t.Errorf("cancel: %d %v", status, body)
		}
	}
	events := stream.all()
	if len(events) == 0 || !strings.Contains(events[len(events)-1], "CLI_TERMINATED") {
		t.Errorf("events %q", events)
	}
	if _, _, body := r.get("/jobs/" + id); !has(body, map[string]any{"state": "cancelled", "cancel_requested": nil, "queue_position": nil}) {
		t.Errorf("at the end: %v", body)
	}
}

func TestABusyServiceSaysWhenToComeBack(t *testing.T) {
	r := startJobs(t, t.TempDir(), job.Settings{Running: 0, Waiting: 1, PerUser: 10, RunOn: true})
	req := r.request(http.MethodPost, "/generate_game", played(user, projectID, "waits"))
	res := r.do(req)
	status, h, body := r.post("/generate_game", played(otherUser, projectID, "too much"))
	if status != http.StatusTooManyRequests || body["code"] != "BUSY" || h.Get("Retry-After") == "" {
		t.Errorf("%d %v %v", status, h, body)
	}
	if status, _, _ := r.post("/jobs/"+res.Header.Get(JobHeader)+"/cancel", ""); status != 200 {
		t.Errorf("cancel: %d", status)
	}
	readStream(t, res.Body).all()
}
