package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestRecordsOfJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const record = `{"id":"` + aJob + `","user_id":"u","state":"failed","code":"CLI_TIMEOUT","cost_usd":0.250000,"last_event_id":7,"created":"2026-11-01T12:00:00Z","new_member":1}`
		var asked []string
		c := overPipe(t, func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.Method+" "+r.URL.RequestURI())
			if r.URL.Path == "/jobs" {
				fmt.Fprint(w, `{"jobs":[`+record+`],"next":"abc"}`)
				return
			}
			fmt.Fprint(w, record)
		})
		at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
		page, err := c.Jobs(t.Context(), dreamcore.JobFilter{User: "u", Project: "p", State: dreamcore.JobFailed, Since: at, Until: at.Add(time.Hour), Limit: 5, Cursor: "x"})
		if err != nil || len(page.Jobs) != 1 || page.Next != "abc" || !page.Jobs[0].Created.Equal(at) || page.Jobs[0].Cost != dreamcore.Dollars(250_000_000) {
			t.Errorf("%+v, %v", page, err)
		}
		if _, err := c.Jobs(t.Context(), dreamcore.JobFilter{}); err != nil {
			t.Error(err)
		}
		j, err := c.Job(t.Context(), strings.ToUpper(aJob))
		if err != nil || j.Code != dreamcore.FailCLITimeout || j.LastEventID != 7 {
			t.Errorf("%+v, %v", j, err)
		}
		if j, err = c.CancelJob(t.Context(), aJob); err != nil || j.State != dreamcore.JobFailed {
			t.Errorf("%+v, %v", j, err)
		}
		if _, err := c.Job(t.Context(), "../x"); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("a job that is no id: %v", err)
		}
		if _, err := c.Job(t.Context(), strings.Replace(aJob, "1", "2", 1)); err == nil || !strings.Contains(err.Error(), "another job") {
			t.Errorf("a record of another job: %v", err)
		}
		want := []string{
			"GET /jobs?cursor=x&limit=5&project_id=p&since=2026-11-01T12%3A00%3A00Z&state=failed&until=2026-11-01T13%3A00%3A00Z&user_id=u", "GET /jobs",
			"GET /jobs/" + aJob, "POST /jobs/" + aJob + "/cancel", "GET /jobs/" + strings.Replace(aJob, "1", "2", 1),
		}
		if diff := cmp.Diff(want, asked); diff != "" {
			t.Error(diff)
		}
	})
}

func TestErrorsOfJobs(t *testing.T) {
	for status, want := range map[int]struct {
		code   dreamcore.Code
		reason dreamcore.Reason
	}{404: {dreamcore.CodeNotFound, ""}, 410: {dreamcore.CodeNotFound, ReasonExpired}, 409: {dreamcore.CodeConflict, ""}, 422: {dreamcore.CodeInvalid, ReasonKeyReused}} {
		synctest.Test(t, func(t *testing.T) {
			c := overPipe(t, refuses(status))
			_, err := c.Job(t.Context(), aJob)
			_, followed := c.JobEvents(t.Context(), aJob, 3, nil)
			_, submitted := c.Submit(t.Context(), Submission{Retry: aJob, Key: "k"}, nil)
			for _, err := range []error{err, followed, submitted} {
				if dreamcore.CodeOf(err) != want.code || dreamcore.ReasonOf(err) != want.reason {
					t.Errorf("%d: %v, reason %q", status, err, dreamcore.ReasonOf(err))
				}
			}
		})
	}
}

func TestEventsOfAJobAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &jobServer{job: aJob, pieces: []func(http.ResponseWriter, *http.Request){piece(4, 5), piece(), piece(6, 9)}}
		var ids []uint64
		outcome, err := overPipe(t, s.ServeHTTP).JobEvents(t.Context(), aJob, 3, func(id uint64, _ dreamcore.Event) error {
			ids = append(ids, id)
			return nil
		})
		get := "GET /jobs/" + aJob + "/events "
		if err != nil || !outcome.Done || !slices.Equal(ids, []uint64{4, 5, 6, 9}) || !slices.Equal(s.asked, []string{get + "3", get + "5", get + "5"}) {
			t.Errorf("%+v, %v: events %v, asked %q", outcome, err, ids, s.asked)
		}
	})
}

func TestAReaderThatStopsCancelsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := errors.New("stop")
		s := &jobServer{job: aJob, pieces: []func(http.ResponseWriter, *http.Request){piece(1)}}
		_, err := overPipe(t, s.ServeHTTP).JobEvents(t.Context(), aJob, 0, func(uint64, dreamcore.Event) error { return stop })
		if !errors.Is(err, stop) || len(s.asked) != 1 {
			t.Errorf("%v, asked %q", err, s.asked)
		}
	})
}

func TestAJobThatHadEndedAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := overPipe(t, func(w http.ResponseWriter, r *http.Request) {
			asked++
			if !strings.HasSuffix(r.URL.Path, "/events") {
				fmt.Fprint(w, `{"id":"`+aJob+`","state":"cancelled","code":"CLI_TERMINATED","last_event_id":5,"cost_usd":0}`)
				return
			}
			w.Header().Set(jobHeader, aJob)
			w.Header().Set("Content-Type", "text/event-stream")
		})
		outcome, err := c.JobEvents(t.Context(), aJob, 5, func(uint64, dreamcore.Event) error { return nil })
		if err != nil || outcome.Done || outcome.Code != dreamcore.FailCLITerminated || asked != 2 {
			t.Errorf("%+v, %v, after %d requests", outcome, err, asked)
		}
		if _, err := c.JobEvents(t.Context(), aJob, 4, func(uint64, dreamcore.Event) error { return nil }); err == nil {
			t.Error("the last event is missing")
		}
	})
}

func TestTheJobIsNamedBeforeItsEvents(t *testing.T) {
	stop := errors.New("stop")
	for _, tt := range []struct {
		name  string
		s     Submission
		err   error
		asked []string
	}{
		{"a request", Submission{}, nil, []string{"POST /generate_game"}},
		{"a repetition", Submission{Retry: aJob}, nil, []string{"POST /jobs/" + aJob + "/retry"}},
		{"stopped", Submission{}, stop, []string{"POST /generate_game", "POST /jobs/" + aJob + "/cancel"}},
		{"detached", Submission{Request: dreamcore.Request{Detach: true}}, stop, []string{"POST /generate_game"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &jobServer{job: aJob, pieces: []func(http.ResponseWriter, *http.Request){piece(1, 9)}}
				var order []string
				tt.s.Began = func(job string) error { order = append(order, job); return tt.err }
				outcome, err := overPipe(t, s.ServeHTTP).Submit(t.Context(), tt.s, func(id uint64, _ dreamcore.Event) error {
					order = append(order, fmt.Sprint(id))
					return nil
				})
				want := []string{aJob, "1", "9"}
				if tt.err != nil {
					want = want[:1]
				}
				if !errors.Is(err, tt.err) || outcome.Done != (tt.err == nil) || !slices.Equal(order, want) || !slices.Equal(s.asked, tt.asked) {
					t.Errorf("%+v, %v: %q, asked %q", outcome, err, order, s.asked)
				}
			})
		})
	}
}

func TestASubmissionWithAKeyIsSentAgain(t *testing.T) {
	for _, key := range []string{"", "k"} {
		synctest.Test(t, func(t *testing.T) {
			tries := 0
			c := overPipe(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil || r.Header.Get("Idempotency-Key") != key || !strings.Contains(string(body), `"prompt":"p"`) {
					t.Errorf("%v: %q %s", err, r.Header.Get("Idempotency-Key"), body)
				}
				if tries++; tries < 3 {
					refuses(http.StatusBadGateway)(w, r) // the job may have begun
					return
				}
				w.Header().Set(jobHeader, aJob)
				piece(1, 9)(w, r)
			})
			outcome, err := c.Submit(context.Background(), Submission{Key: key, Request: dreamcore.Request{Prompt: "p"}}, func(uint64, dreamcore.Event) error { return nil })
			if want := map[string]int{"": 1, "k": 3}[key]; tries != want || (err == nil) != (key != "") || outcome.Done != (key != "") {
				t.Errorf("key %q: %d tries, %+v, %v", key, tries, outcome, err)
			}
		})
	}
}
