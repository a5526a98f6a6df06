package server

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation"
)

// fakeMoves notes its calls.
type fakeMoves struct {
	mu     sync.Mutex
	calls  []string // guarded by mu
	held   relocation.HoldOptions
	loaded string
	away   []dreamcore.UserID
	err    error // of steps
	save   error // after the first bytes of an archive
	read   error // of CheckRead
	change error // of CheckChange
	none   bool
}

func (f *fakeMoves) step(name string, s residence.Subject) (relocation.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, name+" "+s.String())
	return relocation.Status{Subject: s.String(), State: residence.Leaving}, f.err
}

func (f *fakeMoves) List() []relocation.Status { return []relocation.Status{{Subject: user}} }

func (f *fakeMoves) Status(_ context.Context, s residence.Subject) (relocation.Status, error) {
	return f.step("status", s)
}

func (f *fakeMoves) Hold(_ context.Context, s residence.Subject, o relocation.HoldOptions) (relocation.Status, error) {
	f.held = o
	return f.step("hold", s)
}

func (f *fakeMoves) Save(_ context.Context, user dreamcore.UserID, w io.Writer) error {
	if _, err := f.step("save", residence.Subject{User: user}); err != nil {
		return err
	}
	text := "an archive"
	if f.save != nil {
		text = strings.Repeat(text, archiveBuffer)
	}
	_, err := io.WriteString(w, text)
	return errors.Join(err, f.save)
}

func (f *fakeMoves) Load(_ context.Context, user dreamcore.UserID, from, move string, r io.Reader) (relocation.Status, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return relocation.Status{}, err
	}
	f.loaded = from + " " + move + " " + string(raw)
	return f.step("load", residence.Subject{User: user})
}

func (f *fakeMoves) Release(_ context.Context, s residence.Subject, to, move string) (relocation.Status, error) {
	return f.step("release to "+to+" "+move, s)
}

func (f *fakeMoves) Accept(_ context.Context, s residence.Subject, move string, away []dreamcore.UserID) (relocation.Status, error) {
	f.away = away
	return f.step("accept "+move, s)
}

func (f *fakeMoves) Undo(_ context.Context, s residence.Subject, move string) (relocation.Status, error) {
	return f.step("undo "+move, s)
}

func (f *fakeMoves) None() bool                         { return f.none }
func (f *fakeMoves) CheckRead(dreamcore.UserID) error   { return f.read }
func (f *fakeMoves) CheckChange(dreamcore.UserID) error { return f.change }

func startMoves(t *testing.T, m *fakeMoves) *service {
	t.Helper()
	return start(t, options{config: func(c *Config) { c.Moves = m }})
}

func TestStepsOfMoves(t *testing.T) {
	m := &fakeMoves{}
	sv := startMoves(t, m)
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/moves", "", 200},
		{"GET", "/moves/" + user, "", 200},
		{"GET", "/moves/slot-17", "", 200},
		{"GET", "/moves/slot-1024", "", 400},
		{"GET", "/moves/slot-017", "", 400},
		{"GET", "/moves/x", "", 400},
		{"POST", "/moves/slot-17/hold", `{"to":"cell-1","wait_seconds":1.5,"cut":true,"stay":["` + user + `"]}`, 200},
		{"POST", "/moves/slot-17/hold", `{}`, 400},
		{"POST", "/moves/slot-17/hold", `{"to":"cell-1","move":""}`, 400},
		{"POST", "/moves/slot-17/hold", `{"to":"cell-1","wait_seconds":301}`, 400},
		{"POST", "/moves/slot-17/hold", `{"to":"cell-1","wait_seconds":-1}`, 400},
		{"POST", "/moves/slot-17/hold", `{"to":"cell-1","stay":["x"]}`, 400},
		{"POST", "/moves/slot-17/hold", `{"to":"` + strings.Repeat("a", 64) + `"}`, 400},
		{"POST", "/moves/" + user + "/release", `{"to":"cell-1","move":"m1"}`, 200},
		{"POST", "/moves/" + user + "/release", `{"to":"cell-1"}`, 400},
		{"POST", "/moves/" + user + "/release", ``, 400},
		{"POST", "/moves/" + user + "/accept", `{"move":"m1","away":["` + user + `"]}`, 200},
		{"POST", "/moves/" + user + "/accept", `{"move":"m1","away":"x"}`, 400},
		{"POST", "/moves/" + user + "/accept", `{}`, 400},
		{"POST", "/moves/" + user + "/undo", `{"move":"m1"}`, 200},
		{"POST", "/moves/" + user + "/undo", `{"move":"` + strings.Repeat("a", 64) + `"}`, 400},
		{"GET", "/moves/slot-17/archive", ``, 400},
		{"PUT", "/moves/slot-17/archive?from=a&move=m", `x`, 400},
		{"PUT", "/moves/" + user + "/archive", `x`, 400},
		{"PUT", "/moves/" + user + "/archive?from=cell-0&move=m1", `an archive`, 200},
		{"DELETE", "/moves/" + user, ``, 405},
	} {
		if res := sv.do(sv.request(tt.method, tt.path, tt.body)); res.StatusCode != tt.status {
			t.Errorf("%s %s %s: %d, want %d", tt.method, tt.path, tt.body, res.StatusCode, tt.status)
		}
	}
	if m.held.To != "cell-1" || m.held.Wait != 1500*time.Millisecond || !m.held.Cut || len(m.held.Stay) != 1 {
		t.Errorf("%+v", m.held)
	}
	if len(m.away) != 1 || m.away[0] != user {
		t.Errorf("%v", m.away)
	}
	if m.loaded != "cell-0 m1 an archive" {
		t.Errorf("%q", m.loaded)
	}
	res := sv.do(sv.request("GET", "/moves/"+user+"/archive", ""))
	if raw, err := io.ReadAll(res.Body); err != nil || string(raw) != "an archive" || res.Header.Get("Content-Type") != archiveType {
		t.Errorf("%q, %v", raw, err)
	}
	m.save = errors.New("the disk is gone")
	res = sv.do(sv.request("GET", "/moves/"+user+"/archive", ""))
	if raw, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("an archive that is cut looks complete: %d bytes", len(raw))
	}
	m.err = &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "not held"}
	if res := sv.do(sv.request("GET", "/moves/"+user+"/archive", "")); res.StatusCode != http.StatusConflict {
		t.Errorf("status %d", res.StatusCode)
	}
}

// TestUsersOfOtherCellsAreRefused asks a cell about a user who lives elsewhere: in the
// path, the query, and by job.
func TestUsersOfOtherCellsAreRefused(t *testing.T) {
	moving := &dreamcore.Error{Code: dreamcore.CodeMoving, Message: "The user lives in another cell"}
	m := &fakeMoves{}
	sv := startMoves(t, m)
	res := sv.do(sv.request(http.MethodPost, "/generate_game", generateBody))
	job := res.Header.Get(JobHeader)
	readStream(t, res.Body).all()
	query := "?user_id=" + user + "&project_id=" + projectID
	for _, left := range []bool{false, true} {
		m.change = moving
		if left {
			m.read = moving
		}
		for _, path := range []string{"/get_file" + query, "/list_files" + query, "/thumbnail" + query, "/jobs?user_id=" + user, "/projects?user_id=" + user, "/projects/" + projectID + "?user_id=" + user, "/users/" + user} {
			res := sv.do(sv.request(http.MethodGet, path, ""))
			if refused := res.StatusCode == http.StatusServiceUnavailable && res.Header.Get(MovingHeader) != "" && res.Header.Get("Retry-After") != ""; refused != left {
				t.Errorf("left %v: %s: %s", left, path, res.Status)
			}
		}
		for _, path := range []string{"/users/" + user + "/block", "/users/" + user + "/unblock"} {
			if res := sv.do(sv.request(http.MethodPost, path, "")); res.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%s: %s", path, res.Status)
			}
		}
		for _, path := range []string{"/users/" + user, "/projects/" + projectID + "?user_id=" + user} {
			if res := sv.do(sv.request(http.MethodDelete, path, "")); res.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%s: %s", path, res.Status)
			}
		}
		for _, path := range []string{"/jobs/" + job, "/jobs/" + job + "/events"} {
			if res := sv.do(sv.request(http.MethodGet, path, "")); (res.StatusCode == http.StatusNotFound) != left {
				t.Errorf("left %v: %s: %s", left, path, res.Status)
			}
		}
		// A job can be cancelled while it is waited for.
		if res := sv.do(sv.request(http.MethodPost, "/jobs/"+job+"/cancel", "")); (res.StatusCode == http.StatusNotFound) != left {
			t.Errorf("left %v: cancel: %s", left, res.Status)
		}
	}
	// Unless it waits for the other cell: that would be lost.
	m.read, sv.generator.cancelErr = nil, moving
	if res := sv.do(sv.request(http.MethodPost, "/jobs/"+job+"/cancel", "")); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get(MovingHeader) == "" || res.Header.Get("Retry-After") == "" {
		t.Errorf("cancel of a job that waits: %s", res.Status)
	}
}

// brokenJobs counts how often a job is read, and cannot read it if err is set.
type brokenJobs struct {
	Jobs
	reads atomic.Int32
	err   error
}

func (b *brokenJobs) Get(job string) (dreamcore.Job, error) {
	b.reads.Add(1)
	if b.err != nil {
		return dreamcore.Job{}, b.err
	}
	return b.Jobs.Get(job)
}

// A job is read a second time only where users have moved; then a job that cannot be
// read is not taken for one of a user who lives here.
func TestJobsAreReadOnceUnlessUsersMove(t *testing.T) {
	m := &fakeMoves{none: true}
	jobs := &brokenJobs{}
	sv := start(t, options{config: func(c *Config) {
		c.Moves, jobs.Jobs = m, c.Jobs
		c.Jobs = jobs
	}})
	res := sv.do(sv.request(http.MethodPost, "/generate_game", generateBody))
	job := res.Header.Get(JobHeader)
	readStream(t, res.Body).all()
	for none, want := range map[bool]int32{true: 1, false: 2} {
		m.none = none
		jobs.reads.Store(0)
		if res := sv.do(sv.request(http.MethodGet, "/jobs/"+job, "")); res.StatusCode != http.StatusOK || jobs.reads.Load() != want {
			t.Errorf("no moves %v: %s, %d reads", none, res.Status, jobs.reads.Load())
		}
	}
	m.none = false
	jobs.err = errors.New("the disk is gone")
	for _, path := range []string{"", "/events"} {
		if res := sv.do(sv.request(http.MethodGet, "/jobs/"+job+path, "")); res.StatusCode != http.StatusInternalServerError {
			t.Errorf("%q: %s", path, res.Status)
		}
	}
	jobs.err = &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "no such job"}
	if res := sv.do(sv.request(http.MethodGet, "/jobs/"+job, "")); res.StatusCode != http.StatusNotFound {
		t.Error(res.Status)
	}
}
