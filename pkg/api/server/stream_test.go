package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/system/response"
)

// open starts a generation and returns its stream.
func (sv *service) open() (*http.Response, *stream) {
	sv.t.Helper()
	res := sv.do(sv.request(http.MethodPost, "/generate_game", generateBody))
	if res.StatusCode != http.StatusOK {
		sv.t.Fatalf("status %d", res.StatusCode)
	}
	return res, readStream(sv.t, res.Body)
}

func TestGenerateGameStreamsTheJournal(t *testing.T) {
	all := []dreamcore.Event{
		dreamcore.StatusEvent("<ready> & \"set\""),
		dreamcore.Event(`{"type":"assistant","message":{"content":"スネーク 🐍 \u2028 \r\n"}}`),
		dreamcore.LogEvent(strings.Repeat("x", 3<<20), "info"), // larger than every buffer
		dreamcore.Event(`{"type":"user","said":"error","and":"done"}`),
		dreamcore.DoneEvent(),
	}
	sv := start(t, options{run: events(all...)})
	res, s := sv.open()
	got := s.all()
	var want []string
	for _, e := range all {
		want = append(want, string(e))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%.2000s", diff)
	}
	if job := res.Header.Get(JobHeader); job != sv.generator.ids[0] {
		t.Errorf("%s is %q", JobHeader, job)
	}
}

func TestStreamHeadersFollowTheContract(t *testing.T) {
	sv := start(t, options{})
	for _, path := range []string{"/generate_game", "/test_stream"} {
		conn := sv.raw(head(path, secret, "Content-Length: "+itoa(len(generateBody))) + generateBody)
		r := bufio.NewReader(conn)
		got := map[string]string{}
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if line == "\r\n" {
				break
			}
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\r\n"), ": ")
			got[name] = value
		}
		for name, want := range map[string]string{
			"HTTP/1.1 200 OK": "", "Content-Type": "text/event-stream", "Cache-Control": "no-cache",
			"Connection": "keep-alive", "X-Accel-Buffering": "no", "Transfer-Encoding": "chunked",
		} {
			if value, ok := got[name]; !ok || value != want {
				t.Errorf("%s: %s is %q", path, name, value)
			}
		}
	}
}

func TestConnectionServesConsecutiveStreams(t *testing.T) {
	sv := start(t, options{})
	r := bufio.NewReader(sv.raw(strings.Repeat(head("/generate_game", secret, "Content-Length: "+itoa(len(generateBody)))+generateBody, 3)))
	for range 3 {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := readStream(t, res.Body).all(); len(got) != 2 {
			t.Errorf("got %q", got)
		}
	}
}

func TestEventsArriveImmediately(t *testing.T) {
	more := make(chan struct{})
	sv := start(t, options{run: func(log *journal.Log) {
		for range 3 {
			_, _ = log.Append(dreamcore.StatusEvent("working"))
			<-more
		}
		_, _ = log.Append(dreamcore.DoneEvent())
		<-more // the stream ends before the job closes its log
	}})
	_, s := sv.open()
	for range 3 {
		if f, err := s.next(); err != nil || f.data == "" {
			t.Fatalf("got %v, %v", f, err)
		}
		more <- struct{}{}
	}
	if f, err := s.next(); err != nil || f.data != string(dreamcore.DoneEvent()) {
		t.Errorf("got %v, %v", f, err)
	}
	if f, err := s.next(); err != io.EOF {
		t.Errorf("after the last event: %v, %v", f, err)
	}
	more <- struct{}{}
}

func TestSilenceIsFilledWithComments(t *testing.T) {
	silent := make(chan struct{})
	quiet := func(c *Config) {
		c.Limits.KeepAlive = 20 * time.Millisecond
		// Far shorter than the stream: it limits the request's body only.
		c.Limits.ReadTimeout = 30 * time.Millisecond
		c.Limits.ReadHeaderTimeout = 30 * time.Millisecond
	}
	sv := start(t, options{config: quiet, run: func(log *journal.Log) {
		<-silent
		_, _ = log.Append(dreamcore.DoneEvent())
	}, prober: fakeProber{stream: func(_ context.Context, emit func(dreamcore.Event) error) error {
		_ = emit(dreamcore.StatusEvent("first"))
		<-silent
		return emit(dreamcore.DoneEvent())
	}}})
	for path, body := range map[string]string{"/generate_game": generateBody, "/test_stream": "", "/test-stream": "{}"} {
		s := readStream(t, sv.do(sv.request(http.MethodPost, path, body)).Body)
		for comments := 0; comments < 5; {
			f, err := s.next()
			if err != nil {
				t.Fatal(path, err)
			}
			if f.comment == "keep-alive" && f.id == "" && f.data == "" {
				comments++
			}
		}
		silent <- struct{}{}
		for {
			f, err := s.next()
			if err != nil {
				t.Fatal(path, err)
			}
			if f.data == string(dreamcore.DoneEvent()) {
				break
			}
		}
	}
}

func TestGeneratorSeesDisconnectedClients(t *testing.T) {
	end := make(chan struct{})
	sv := start(t, options{run: func(log *journal.Log) {
		_, _ = log.Append(dreamcore.StatusEvent("ready"))
		<-end
	}})
	defer close(end)
	res, s := sv.open()
	if _, err := s.next(); err != nil {
		t.Fatal(err)
	}
	job := res.Header.Get(JobHeader)
	paths := []string{
		head("/generate_game", secret, "Content-Length: "+itoa(len(generateBody))) + generateBody,
		strings.Replace(head("/jobs/"+job+"/events", secret), "POST", "GET", 1),
	}
	for i, request := range paths {
		conn := sv.raw(request)
		if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		listener := sv.generator.listener(i + 1)
		if err := listener.Err(); err != nil {
			t.Errorf("connected client %d counts as disconnected: %v", i, err)
		}
		_ = conn.Close()
		<-listener.Done()
	}
	if err := sv.generator.listener(0).Err(); err != nil {
		t.Errorf("the connected first client counts as disconnected: %v", err)
	}
}

func TestStoppingServiceDoesNotDisconnectListeners(t *testing.T) {
	end := make(chan struct{})
	sv := start(t, options{config: func(c *Config) { c.Limits.GraceLimit = time.Millisecond }, run: func(log *journal.Log) {
		_, _ = log.Append(dreamcore.StatusEvent("ready"))
		<-end
	}})
	defer close(end)
	_, s := sv.open()
	if _, err := s.next(); err != nil {
		t.Fatal(err)
	}
	sv.stop()
	if err := <-sv.stopped; err != nil {
		t.Error(err)
	}
	if err := sv.generator.listener(0).Err(); err != nil {
		t.Errorf("a connection cut by the service counts as a disconnected client: %v", err)
	}
}

func TestStalledClientIsDropped(t *testing.T) {
	const count = 300
	large := dreamcore.LogEvent(strings.Repeat("x", 128<<10), "")
	sv := start(t, options{
		config: func(c *Config) {
			c.Limits.WriteTimeout = time.Second
			c.Limits.GraceLimit = time.Hour
		},
		run: func(log *journal.Log) {
			for range count {
				_, _ = log.Append(large)
			}
			_, _ = log.Append(dreamcore.DoneEvent())
		},
	})
	stalled := sv.raw(head("/generate_game", secret, "Content-Length: "+itoa(len(generateBody))) + generateBody)
	_, s := sv.open()
	if got := s.all(); len(got) != count+1 {
		t.Errorf("the fast client got %d events", len(got))
	}
	sv.generator.jobs.Wait() // both jobs have ended, though one client reads nothing
	// Serve returns only after the stalled client was dropped.
	sv.stop()
	select {
	case err := <-sv.stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the stalled client is still served")
	}
	got, err := io.ReadAll(stalled)
	if bytes.Contains(got, []byte(`"type":"done"`)) || len(got) >= count*len(large) {
		t.Errorf("the stalled client got everything: %d bytes, %v", len(got), err)
	}
}

func TestStreamWithoutTerminalEventEndsWithAnError(t *testing.T) {
	sv := start(t, options{run: events(dreamcore.StatusEvent("ready"))})
	req := sv.request(http.MethodPost, "/generate_game", generateBody)
	req.Header.Set("Accept-Language", "ja")
	s := readStream(t, sv.do(req).Body)
	_, _ = s.next()
	f, err := s.next()
	want := string(dreamcore.ErrorEvent(dreamcore.Failure{Code: dreamcore.FailUnknown}, dreamcore.Japanese))
	if err != nil || f.data != want || f.id != "" {
		t.Errorf("got %+v, %v", f, err)
	}
	if _, err := s.next(); err != io.EOF {
		t.Errorf("after it: %v", err)
	}
}

func TestGeneratorRefusalsHaveRetryAfter(t *testing.T) {
	cause := errors.New("open /var/lib/state: denied")
	tests := []struct {
		err        error
		status     int
		message    string
		retry      string
		hint, code any
	}{
		{&dreamcore.Error{Code: dreamcore.CodeConflict, Message: "already running", Hint: "wait", Err: cause}, 409, "already running", "5", "wait", "CONFLICT"},
		{&dreamcore.Error{Code: dreamcore.CodeBusy, Message: "the queue is full", Err: cause}, 429, "the queue is full", "10", nil, "BUSY"},
		{&dreamcore.Error{Code: dreamcore.CodeSetup, Message: "/var/lib/state is full", Hint: "df -h /var", Err: cause}, 500, internalMessage, "", nil, "INTERNAL"},
		{&dreamcore.Error{Code: dreamcore.CodeUnreachable, Message: "10.0.0.7 is down"}, 500, internalMessage, "", nil, "INTERNAL"},
		{cause, 500, internalMessage, "", nil, "INTERNAL"},
	}
	sv := start(t, options{})
	for _, tt := range tests {
		sv.generator.err = tt.err
		status, header, body := sv.post("/generate_game", generateBody)
		if status != tt.status || body["error"] != tt.message || header.Get("Retry-After") != tt.retry ||
			body["hint"] != tt.hint || body["code"] != tt.code {
			t.Errorf("%v: status %d, Retry-After %q, %v", tt.err, status, header.Get("Retry-After"), body)
		}
	}
}

func TestAnEventCannotForgeFields(t *testing.T) {
	forged := dreamcore.Event("{\"type\":\r\"log\",\n\n\"a\":\"\u2028\"}")
	var b strings.Builder
	x := &exchange{Writer: response.New(recorder{&b}, time.Second)}
	if err := x.event(message{7, forged}); err != nil {
		t.Fatal(err)
	}
	if want := "id: 7\ndata: {\"type\": \"log\",  \"a\":\"\u2028\"}\n\n"; b.String() != want {
		t.Errorf("got %q", b.String())
	}
}

type recorder struct{ io.Writer }

func (recorder) Header() http.Header { return http.Header{} }
func (recorder) WriteHeader(int)     {}

func BenchmarkStream(b *testing.B) {
	const count = 10_000
	line := dreamcore.LogEvent(strings.Repeat("x", 500), "")
	all := make([]dreamcore.Event, count)
	for i := range all {
		all[i] = line
	}
	sv := start(b, options{run: events(append(all, dreamcore.DoneEvent())...)})
	for b.Loop() {
		_, s := sv.open()
		if got := s.all(); len(got) != count+1 {
			b.Fatalf("got %d events", len(got))
		}
	}
	b.ReportMetric(float64(count*b.N)/b.Elapsed().Seconds(), "events/s")
}
