package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		notifyUntilKilled(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

const (
	key1 = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
	key2 = "whsec_enl4d3Z1dHNycXBvbm1sa2ppaGdmZWRj"
	job1 = "6f1b0f0e-0000-4000-8000-000000000001"
	data = `{"id":"6f1b0f0e-0000-4000-8000-000000000001","state":"succeeded","prompt":"a <game>"}`
)

func keys(string) ([]string, error) { return []string{key1}, nil }

func event(n int) Event {
	return Event{Type: JobSucceeded, Job: fmt.Sprintf("6f1b0f0e-0000-4000-8000-%012d", n), At: time.Now(), Data: json.RawMessage(data)}
}

// open opens a service that is closed at the end of the test.
func open(t *testing.T, o Options) *Service {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Secret == nil {
		o.Secret = keys
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// received is a request that a receiver got.
type received struct {
	path   string
	header http.Header
	body   []byte
}

// receiver answers with statuses in turn, and with the last one from then on.
func receiver(t *testing.T, statuses ...int) (address string, got <-chan received) {
	t.Helper()
	var mu sync.Mutex
	requests := make(chan received, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		status := statuses[0]
		if len(statuses) > 1 {
			statuses = statuses[1:]
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		requests <- received{r.URL.String(), r.Header.Clone(), body}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, requests
}

func TestAMessageIsSignedAndSent(t *testing.T) {
	at, got := receiver(t, 204)
	dir := t.TempDir()
	outcomes := make(chan Outcome, 1)
	s := open(t, Options{
		Dir: dir, Agent: "dreamcore/1.2.3", Entries: []Entry{{URL: at + "/hook?a=b", Secret: "hook", Private: true}},
		Secret:  func(ref string) ([]string, error) { return map[string][]string{"hook": {key1, key2}}[ref], nil },
		Observe: func(o Outcome, _ time.Duration) { outcomes <- o },
	})
	e := Event{Type: JobSucceeded, Job: job1, At: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), Data: json.RawMessage(data)}
	if err := s.Notify(e); err != nil {
		t.Fatal(err)
	}
	r := <-got
	for _, key := range []string{key1, key2} {
		w, err := standardwebhooks.NewWebhook(key)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Verify(r.body, r.header); err != nil {
			t.Error(err)
		}
	}
	var body struct {
		Type, Timestamp string
		Data            json.RawMessage
	}
	if err := json.Unmarshal(r.body, &body); err != nil {
		t.Fatal(err)
	}
	var want, is any
	_ = json.Unmarshal([]byte(data), &want)
	_ = json.Unmarshal(body.Data, &is)
	if diff := cmp.Diff(want, is); body.Type != JobSucceeded || body.Timestamp != "2026-11-01T12:00:00Z" || diff != "" {
		t.Errorf("%s %s", r.body, diff)
	}
	h := r.header
	if r.path != "/hook?a=b" || h.Get("Webhook-Id") != "msg_"+job1 || h.Get("Content-Type") != "application/json" || h.Get("User-Agent") != "dreamcore/1.2.3" {
		t.Errorf("%s %v", r.path, h)
	}
	if o := <-outcomes; o != Delivered {
		t.Error(o)
	}
	if err := s.Close(); err != nil { // waits for the workers
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v, %v are left", left, err)
	}
}

func TestEndpointsGetTheEventsThatTheyWant(t *testing.T) {
	at, got := receiver(t, 200)
	s := open(t, Options{Entries: []Entry{
		{URL: at + "/all", Secret: "a", Private: true},
		{URL: at + "/failed", Secret: "a", Private: true, Events: []string{JobFailed}},
		{URL: at + "/given", Secret: "a", Private: true, PerRequest: true, Events: []string{JobSucceeded, JobFailed}},
	}})
	for i, test := range []struct {
		event, url string
		want       []string
	}{
		{JobSucceeded, "", []string{"/all"}},
		{JobFailed, "", []string{"/all", "/failed"}},
		{JobSucceeded, at + "/mine", []string{"/all", "/mine"}},
		{JobSucceeded, at + "/all", []string{"/all"}}, // once
		{JobCancelled, at + "/mine", []string{"/all"}},
		{JobSucceeded, "https://elsewhere.example/mine", []string{"/all"}}, // not configured any more
	} {
		e := event(i)
		e.Type, e.URL = test.event, test.url
		if err := s.Notify(e); err != nil {
			t.Fatal(err)
		}
		var paths []string
		for range test.want {
			paths = append(paths, (<-got).path)
		}
		if slices.Sort(paths); !slices.Equal(paths, test.want) {
			t.Errorf("%s to %q: %v, want %v", test.event, test.url, paths, test.want)
		}
	}
	select {
	case r := <-got:
		t.Errorf("also %s", r.path)
	default:
	}
}

func TestPrivateAddressesAreRefusedUnlessNamed(t *testing.T) {
	at, got := receiver(t, 200)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(at, "http://"))
	outcomes := make(chan Outcome, 10)
	s := open(t, Options{
		Observe: func(o Outcome, _ time.Duration) { outcomes <- o },
		Entries: []Entry{{URL: at, Secret: "a"}, {URL: "http://localhost:" + port, Secret: "a"}, {URL: "http://[::ffff:127.0.0.1]:" + port, Secret: "a"}},
	})
	if err := s.Notify(event(1)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if o := <-outcomes; o != Failed {
			t.Errorf("outcome %s", o)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-got:
		t.Error("a private address was reached")
	default:
	}
	if n := s.Backlog().Messages; n != 3 {
		t.Errorf("%d messages wait for an operator who names the address, want 3", n)
	}
	s = open(t, Options{Entries: []Entry{{URL: at, Secret: "a", Private: true}}})
	if err := s.Notify(event(1)); err != nil {
		t.Fatal(err)
	}
	<-got
}

func TestAnswersDecideWhetherAMessageIsSentAgain(t *testing.T) {
	for _, test := range []struct {
		status int
		want   Outcome
	}{{200, Delivered}, {299, Delivered}, {302, Failed}, {307, Failed}, {400, Failed}, {404, Failed}, {429, Failed}, {500, Failed}, {410, Dropped}} {
		at, got := receiver(t, test.status)
		outcomes := make(chan Outcome, 1)
		s := open(t, Options{Entries: []Entry{{URL: at, Secret: "a", Private: true}}, Observe: func(o Outcome, _ time.Duration) { outcomes <- o }})
		if err := s.Notify(event(1)); err != nil {
			t.Fatal(err)
		}
		if o := <-outcomes; o != test.want {
			t.Errorf("%d: %s, want %s", test.status, o, test.want)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if waits := s.Backlog().Messages == 1; waits != (test.want == Failed) {
			t.Errorf("%d: the message waits: %v", test.status, waits)
		}
		if len(got) != 1 {
			t.Errorf("%d: %d requests", test.status, len(got))
		}
	}
}

func TestAnEndlessAnswerIsCut(t *testing.T) {
	cut := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		for err == nil {
			_, err = w.Write(make([]byte, 64<<10))
		}
		cut <- err
	}))
	t.Cleanup(srv.Close)
	s := open(t, Options{Entries: []Entry{{URL: srv.URL, Secret: "a", Private: true}}})
	if err := s.Notify(event(1)); err != nil {
		t.Fatal(err)
	}
	<-cut
}

func TestAMessageWithoutAKeyWaits(t *testing.T) {
	at, got := receiver(t, 200)
	for name, secret := range map[string]func(string) ([]string, error){
		"error":     func(string) ([]string, error) { return nil, errors.New("locked") },
		"none":      func(string) ([]string, error) { return nil, nil },
		"malformed": func(string) ([]string, error) { return []string{key1, "whsec_short"}, nil },
	} {
		outcomes := make(chan Outcome, 1)
		s := open(t, Options{Entries: []Entry{{URL: at, Secret: "a", Private: true}}, Secret: secret, Observe: func(o Outcome, _ time.Duration) { outcomes <- o }})
		if err := s.Notify(event(1)); err != nil {
			t.Fatal(err)
		}
		if o := <-outcomes; o != Failed || len(got) > 0 {
			t.Errorf("%s: %s, %d requests", name, o, len(got))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnEventIsQueuedOnce(t *testing.T) {
	at, _ := receiver(t, 500)
	s := open(t, Options{Entries: []Entry{{URL: at, Secret: "a", Private: true}}})
	for range 3 {
		if err := s.Notify(event(1)); err != nil {
			t.Fatal(err)
		}
	}
	if b := s.Backlog(); b.Messages != 1 || time.Since(b.Oldest) > time.Hour {
		t.Errorf("%+v", b)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Notify(event(2)); err == nil {
		t.Error("a closed service takes an event and loses it")
	}
}

// A client must not be able to suppress the messages about its jobs.
func TestTheLongestRecordIsSent(t *testing.T) {
	address, got := receiver(t, 200)
	s := open(t, Options{Entries: []Entry{{URL: address, Secret: "a", Private: true}}})
	e := event(1)
	worst := func(n int) string { return strings.Repeat("\x01", n) }
	j := dreamcore.Job{
		ID: e.Job, User: alice, Project: game, State: dreamcore.JobFailed, Prompt: worst(dreamcore.MaxRecordPrompt), CommitMessage: worst(dreamcore.MaxCommitMessageBytes),
		RequestID: worst(128), Cause: worst(dreamcore.MaxCause), WebhookURL: "https://a.example/" + strings.Repeat("&", maxURL),
	}
	var err error
	if e.Data, err = json.Marshal(j); err != nil {
		t.Fatal(err)
	}
	if err := s.Notify(e); err != nil {
		t.Fatal(err)
	}
	if r := <-got; !strings.Contains(string(r.body), e.Job) {
		t.Errorf("%d bytes", len(r.body))
	}
}

func TestALongRecordIsRefused(t *testing.T) {
	s := open(t, Options{})
	e := event(1)
	e.Data = json.RawMessage(`"` + strings.Repeat("x", maxBody) + `"`)
	if err := s.Notify(e); dreamcore.CodeOf(err) != dreamcore.CodeTooLarge {
		t.Error(err)
	}
	e.Data = json.RawMessage("{")
	if err := s.Notify(e); err == nil {
		t.Error("a record that is no JSON is accepted")
	}
}
