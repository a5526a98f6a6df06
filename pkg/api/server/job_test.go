package server

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

const noJob = "99999999-9999-4999-8999-999999999999"

// get returns the status, header and JSON object of a response.
func (sv *service) get(path string) (int, http.Header, map[string]any) {
	sv.t.Helper()
	return object(sv.t, sv.do(sv.request(http.MethodGet, path, "")))
}

// has reports whether an object has all the members that are wanted; nil wants none
// of that name.
func has(body, want map[string]any) bool {
	for name, value := range want {
		if body[name] != value {
			return false
		}
	}
	return true
}

// follow returns the stream of a job's events.
func (sv *service) follow(job, query string, header ...string) *stream {
	sv.t.Helper()
	req := sv.request(http.MethodGet, "/jobs/"+job+"/events"+query, "")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res := sv.do(req)
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("X-Accel-Buffering") != "no" {
		sv.t.Fatalf("status %d, %v", res.StatusCode, res.Header)
	}
	if res.Header.Get(JobHeader) != strings.ToLower(job) {
		sv.t.Errorf("%s is %q", JobHeader, res.Header.Get(JobHeader))
	}
	return readStream(sv.t, res.Body)
}

// ids reads a stream to its end and returns the ids of its events.
func (s *stream) ids() (ids []string) {
	s.t.Helper()
	for {
		f, err := s.next()
		if err == io.EOF {
			return ids
		}
		if err != nil {
			s.t.Fatalf("after %v: %v", ids, err)
		}
		if f.data != "" {
			ids = append(ids, f.id)
		}
	}
}

func TestEventsOfAJobFromAnyPoint(t *testing.T) {
	sv := start(t, options{run: events(dreamcore.StatusEvent("1"), dreamcore.StatusEvent("2"), dreamcore.StatusEvent("3"), dreamcore.DoneEvent())})
	res, s := sv.open()
	s.all()
	job := res.Header.Get(JobHeader)
	for _, tt := range []struct {
		name, query string
		header      []string
		want        []string
	}{
		{"all", "", nil, []string{"1", "2", "3", "4"}},
		{"after 0", "?after=0", nil, []string{"1", "2", "3", "4"}},
		{"after 2", "?after=2", nil, []string{"3", "4"}},
		{"by the header", "", []string{"Last-Event-ID", "3"}, []string{"4"}},
		{"the header is newer", "?after=1", []string{"Last-Event-ID", "3"}, []string{"4"}},
		{"after the last", "?after=4", nil, nil},
		{"far after the last", "?after=4000", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, sv.follow(job, tt.query, tt.header...).ids()); diff != "" {
				t.Error(diff)
			}
		})
	}
	if got := sv.follow(strings.ToUpper(job), "").ids(); len(got) != 4 {
		t.Errorf("in upper case: %v", got)
	}
}

func TestEventsOfARunningJob(t *testing.T) {
	more := make(chan struct{})
	sv := start(t, options{run: func(log *journal.Log) {
		_, _ = log.Append(dreamcore.StatusEvent("1"))
		<-more
		_, _ = log.Append(dreamcore.StatusEvent("2"))
		_, _ = log.Append(dreamcore.DoneEvent())
	}})
	res, s := sv.open()
	if _, err := s.next(); err != nil {
		t.Fatal(err)
	}
	late := sv.follow(res.Header.Get(JobHeader), "?after=1")
	close(more)
	if diff := cmp.Diff([]string{"2", "3"}, late.ids()); diff != "" {
		t.Error(diff)
	}
}

func TestIncompleteLogEndsWithAnErrorEvent(t *testing.T) {
	sv := start(t, options{run: events(dreamcore.StatusEvent("1"))})
	res, s := sv.open()
	_, _ = s.next()
	_, _ = s.next()
	job := res.Header.Get(JobHeader)
	sv.generator.jobs.Wait()
	for _, query := range []string{"", "?after=1", "?after=9"} {
		late := sv.follow(job, query)
		last := ""
		for f, err := late.next(); err == nil; f, err = late.next() {
			last = f.data
		}
		if want := string(dreamcore.ErrorEvent(dreamcore.Failure{Code: dreamcore.FailUnknown}, dreamcore.English)); last != want {
			t.Errorf("%q: the last event is %q", query, last)
		}
	}
}

func TestCancelJob(t *testing.T) {
	end := make(chan struct{})
	sv := start(t, options{run: func(log *journal.Log) {
		_, _ = log.Append(dreamcore.StatusEvent("1"))
		<-end
		_, _ = log.Append(dreamcore.ErrorEvent(dreamcore.ExitFailure(dreamcore.ExitTerminated), dreamcore.English))
	}})
	res, s := sv.open()
	if _, err := s.next(); err != nil {
		t.Fatal(err)
	}
	job := res.Header.Get(JobHeader)
	if status, _, body := sv.get("/jobs/" + job); status != 200 || !has(body, map[string]any{"id": job, "state": "running", "cancel_requested": nil}) {
		t.Errorf("before: %d %v", status, body)
	}
	for range 2 {
		status, _, body := sv.post("/jobs/"+job+"/cancel", "")
		if status != 200 || !has(body, map[string]any{"id": job, "state": "running", "cancel_requested": true}) {
			t.Errorf("cancelled: %d %v", status, body)
		}
	}
	close(end)
	for _, err := s.next(); err == nil; _, err = s.next() {
	}
	if status, _, body := sv.post("/jobs/"+strings.ToUpper(job)+"/cancel", "{}"); status != 200 || !has(body, map[string]any{"id": job, "state": "cancelled", "cancel_requested": nil}) {
		t.Errorf("after its end: %d %v", status, body)
	}
	if n := len(sv.generator.stopped); n != 3 || sv.generator.stopped[2] != job {
		t.Errorf("cancelled: %v", sv.generator.stopped)
	}
}

func TestStatesOfEndedJobs(t *testing.T) {
	for want, last := range map[string]dreamcore.Event{
		"succeeded": dreamcore.DoneEvent(),
		"failed":    dreamcore.ErrorEvent(dreamcore.Failure{Code: dreamcore.FailSandbox}, dreamcore.English),
		"cancelled": dreamcore.ErrorEvent(dreamcore.ExitFailure(dreamcore.ExitTerminated), dreamcore.Japanese),
	} {
		more := make(chan struct{})
		sv := start(t, options{run: func(log *journal.Log) {
			_, _ = log.Append(last)
			<-more // the terminal event takes precedence over the generator's state
		}})
		res, s := sv.open()
		s.all()
		if status, _, body := sv.get("/jobs/" + res.Header.Get(JobHeader)); status != 200 || body["state"] != want {
			t.Errorf("%s: %d %v", want, status, body)
		}
		close(more)
	}
}

func TestUnknownJobs(t *testing.T) {
	sv := start(t, options{})
	for _, e := range []struct{ method, path string }{{"GET", "/jobs/%s"}, {"GET", "/jobs/%s/events"}, {"POST", "/jobs/%s/cancel"}} {
		for id, want := range map[string]int{noJob: 404, "1": 400, "..": 400, noJob + "0": 400, "%2e%2e%2fpasswd": 404, strings.ReplaceAll(noJob, "-", ""): 400} {
			status, _, body := object(t, sv.do(sv.request(e.method, fmt.Sprintf(e.path, id), "")))
			if status != want || want == 404 && id == noJob && body["error"] != "Job not found" || want == 400 && !strings.Contains(body["error"].(string), "job id") {
				t.Errorf("%s %s: %d %v", e.path, id, status, body)
			}
		}
	}
	if len(sv.generator.stopped) > 1 {
		t.Errorf("cancelled: %v", sv.generator.stopped)
	}
	res, s := sv.open()
	s.all()
	for _, after := range []string{"x", "-1", "1.5", "99999999999999999999", "1%20"} {
		if status, _, body := sv.get("/jobs/" + res.Header.Get(JobHeader) + "/events?after=" + after); status != 400 || !strings.Contains(body["error"].(string), "after") {
			t.Errorf("after=%s: %d %v", after, status, body)
		}
	}
	for _, e := range []struct{ method, path, allow string }{
		{"POST", "/jobs/" + noJob, "GET, HEAD"}, {"HEAD", "/jobs/" + noJob + "/events", "GET"}, {"GET", "/jobs/" + noJob + "/cancel", "POST"},
	} {
		if res := sv.do(sv.request(e.method, e.path, "")); res.StatusCode != 405 || res.Header.Get("Allow") != e.allow {
			t.Errorf("%s %s: %d, Allow %q", e.method, e.path, res.StatusCode, res.Header.Get("Allow"))
		}
	}
}

func TestDetachIsABoolean(t *testing.T) {
	sv := start(t, options{})
	for value, want := range map[string]struct {
		status int
		detach bool
	}{"true": {200, true}, "false": {200, false}, "null": {200, false}, `"true"`: {400, false}, "1": {400, false}, "[]": {400, false}} {
		res := sv.do(sv.request(http.MethodPost, "/generate_game", strings.TrimSuffix(generateBody, "}")+`,"detach": `+value+`}`))
		raw, _ := io.ReadAll(res.Body)
		if res.StatusCode != want.status || want.status == 400 && !strings.Contains(string(raw), "Invalid detach") {
			t.Errorf("%s: %d %s", value, res.StatusCode, raw)
		}
		if want.status == 200 && sv.generator.lastRequest().Detach != want.detach {
			t.Errorf("%s: %+v", value, sv.generator.lastRequest())
		}
	}
}
