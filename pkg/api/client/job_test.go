package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const aJob = "5f0e5c1a-0000-4000-8000-000000000001"

// jobServer answers each request with the next piece of a stream.
type jobServer struct {
	job    string
	pieces []func(w http.ResponseWriter, r *http.Request)

	mu    sync.Mutex
	asked []string
}

func (s *jobServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	n := len(s.asked)
	s.asked = append(s.asked, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Last-Event-ID")))
	s.mu.Unlock()
	w.Header().Set(jobHeader, s.job)
	if strings.HasSuffix(r.URL.Path, "/cancel") {
		fmt.Fprint(w, `{}`)
		return
	}
	s.pieces[min(n, len(s.pieces)-1)](w, r)
}

// piece returns a stream with the events of the given ids. It breaks after them,
// or ends properly if the last id is 9.
func piece(ids ...int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, id := range ids {
			if id == 9 {
				fmt.Fprint(w, "id: 9\ndata: {\"type\":\"done\",\"exit_code\":0}\n\n")
				return
			}
			fmt.Fprintf(w, "id: %d\ndata: {\"n\":%d}\n\n", id, id)
		}
		fmt.Fprint(w, "id: 8\ndata: {\"half")
	}
}

func refuses(status int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, `{"error":"no"}`)
	}
}

func TestABrokenStreamIsResumed(t *testing.T) {
	const post, get = "POST /generate_game", "GET /jobs/" + aJob + "/events"
	for _, tt := range []struct {
		name   string
		job    string
		pieces []func(http.ResponseWriter, *http.Request)
		asked  []string
		events int
		fails  string
	}{
		{"once", aJob, []func(http.ResponseWriter, *http.Request){piece(1, 2), piece(3, 9)}, []string{post, get + " 2"}, 4, ""},
		{"before the first event", aJob, []func(http.ResponseWriter, *http.Request){piece(), piece(1, 9)}, []string{post, get}, 2, ""},
		{"while a proxy has no server", aJob, []func(http.ResponseWriter, *http.Request){piece(1), refuses(502), piece(2, 9)}, []string{post, get + " 1", get + " 1"}, 3, ""},
		{"again and again", aJob, []func(http.ResponseWriter, *http.Request){piece(1), piece(2), piece(), piece(3), piece(4), piece(9)},
			[]string{post, get + " 1", get + " 2", get + " 2", get + " 3", get + " 4"}, 5, ""},
		{"not for ever", aJob, []func(http.ResponseWriter, *http.Request){piece(1), piece()}, append([]string{post}, slices.Repeat([]string{get + " 1"}, maxResumes)...), 1, "cut before its last event"},
		{"a server without the job", aJob, []func(http.ResponseWriter, *http.Request){piece(1), refuses(404)}, []string{post, get + " 1"}, 1, "cut before its last event"},
		{"a server that names no job", "", []func(http.ResponseWriter, *http.Request){piece(1)}, []string{post}, 1, "cut before its last event"},
		{"a job that is no id", "../../x", []func(http.ResponseWriter, *http.Request){piece(1)}, []string{post}, 1, "cut before its last event"},
		{"events without ids", aJob, []func(http.ResponseWriter, *http.Request){streamWith("data: {\"a\":1}\n\n")}, []string{post}, 1, "cut before its last event"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &jobServer{job: tt.job, pieces: tt.pieces}
				events, outcome, err := collect(overPipe(t, s.ServeHTTP), t.Context())
				if len(events) != tt.events || (err == nil) != (tt.fails == "") || outcome.Done != (tt.fails == "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("events %q, %+v, %v", events, outcome, err)
				}
				if diff := cmp.Diff(tt.asked, s.asked); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestAClientThatIsInterruptedCancelsItsJob(t *testing.T) {
	waits := func(w http.ResponseWriter, r *http.Request) {
		piece(1)(w, r)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	stop := errors.New("stop")
	for _, tt := range []struct {
		name   string
		job    string
		detach bool
		own    bool
		want   int
	}{{"by its context", aJob, false, false, 1}, {"by the caller's function", aJob, false, true, 1}, {"detached", aJob, true, false, 0}, {"a server that names no job", "", false, false, 0}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &jobServer{job: tt.job, pieces: []func(http.ResponseWriter, *http.Request){waits}}
				ctx, cancel := context.WithCancelCause(t.Context())
				began := time.Now()
				_, err := overPipe(t, s.ServeHTTP).Generate(ctx, dreamcore.Request{Detach: tt.detach}, func(dreamcore.Event) error {
					if tt.own {
						return stop
					}
					cancel(stop)
					return nil
				})
				if !errors.Is(err, stop) {
					t.Errorf("got %v", err)
				}
				cancelled := 0
				for _, a := range s.asked {
					if a == "POST /jobs/"+aJob+"/cancel" {
						cancelled++
					}
				}
				if cancelled != tt.want || time.Since(began) > cancelLimit {
					t.Errorf("asked %q in %v", s.asked, time.Since(began))
				}
			})
		})
	}
}

func TestAddressesBelowTheEndpoints(t *testing.T) {
	for address, want := range map[string]string{
		"http://host:8080":                "http://host:8080/jobs/x/cancel",
		"http://host:8080/generate_game":  "http://host:8080/jobs/x/cancel",
		"https://example.com/a/test-auth": "https://example.com/a/jobs/x/cancel",
		"https://acme--dreamcore":         "https://acme--dreamcore-generate-game.modal.run/jobs/x/cancel",
	} {
		e, err := ParseEndpoint(address)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.URL("jobs/x/cancel"); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}
