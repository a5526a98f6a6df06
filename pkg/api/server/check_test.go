package server

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/probe"
)

func TestChecksReportTheirResults(t *testing.T) {
	seen := fakeProber{
		io: func(context.Context) (probe.IOResult, error) {
			return probe.IOResult{Input: "hello", Output: "<hell>"}, nil
		},
		gvisor: func(context.Context) (probe.Kernel, error) { return probe.Kernel{ProcVersion: "Linux 6"}, nil },
		volume: func(context.Context) (probe.VolumeResult, error) {
			return probe.VolumeResult{TestID: projectID, Written: "a", Read: "b"}, nil
		},
	}
	type object = map[string]any
	tests := []struct {
		path   string
		prober fakeProber
		want   object
	}{
		{"/test_sandbox_io", fakeProber{}, object{"success": true, "input": "hello", "output": "hello", "match": true}},
		{"/test_sandbox_io", seen, object{"success": false, "input": "hello", "output": "<hell>", "match": false, "error": "the output differs from the input"}},
		{"/test_gvisor", fakeProber{}, object{"success": true, "proc_version": "Linux version 4.19.0-gvisor", "is_gvisor": true}},
		{"/test_gvisor", seen, object{"success": true, "proc_version": "Linux 6", "is_gvisor": false}},
		{"/test_volume", fakeProber{}, object{"success": true, "test_id": projectID, "written": "text", "read": "text", "match": true}},
		{"/test_volume", seen, object{"success": false, "test_id": projectID, "written": "a", "read": "b", "match": false,
			"error": "the text that was read differs from the text that was written"}},
		{"/test_auth", fakeProber{}, object{"success": true, "message": "The secret is valid"}},
	}
	for _, tt := range tests {
		sv := start(t, options{prober: tt.prober})
		for _, body := range []string{"", "{}", "no JSON"} { // the body is ignored
			status, _, got := sv.post(tt.path, body)
			if diff := cmp.Diff(tt.want, got); status != http.StatusOK || diff != "" {
				t.Errorf("%s: status %d %s", tt.path, status, diff)
			}
		}
	}
}

func TestFailedCheckHidesItsCause(t *testing.T) {
	cause := &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "a sandbox could not be started", Hint: "look at /var/lib", Err: errors.New("/run/secret/path")}
	failing := fakeProber{
		io:     func(context.Context) (probe.IOResult, error) { return probe.IOResult{Match: true}, cause },
		gvisor: func(context.Context) (probe.Kernel, error) { return probe.Kernel{IsGVisor: true}, cause },
		volume: func(context.Context) (probe.VolumeResult, error) { return probe.VolumeResult{Match: true}, cause },
		stream: func(context.Context, func(dreamcore.Event) error) error { return cause },
	}
	sv := start(t, options{prober: failing})
	for _, path := range []string{"/test_sandbox_io", "/test_gvisor", "/test_volume", "/test_stream"} {
		status, _, got := sv.post(path, "{}")
		want := map[string]any{"success": false, "error": "a sandbox could not be started", "code": "SETUP"}
		if diff := cmp.Diff(want, got); status != http.StatusOK || diff != "" {
			t.Errorf("%s: status %d %s", path, status, diff)
		}
	}
}

func TestTestStreamForwardsEvents(t *testing.T) {
	sv := start(t, options{})
	got := readStream(t, sv.do(sv.request(http.MethodPost, "/test_stream", "{}")).Body).all()
	want := []string{
		`{"count":1,"timestamp":1.5}`, `{"count":2,"timestamp":2.5}`, `{"count":3,"timestamp":3.5}`,
		`{"count":4,"timestamp":4.5}`, `{"count":5,"timestamp":5.5}`, `{"type":"done"}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFailingTestStreamEndsWithAnErrorEvent(t *testing.T) {
	endings := map[string]func() error{
		"error": func() error { return errors.New("/run/secret/path") },
		"panic": func() error { panic("/run/secret/path") },
	}
	for name, end := range endings {
		sv := start(t, options{prober: fakeProber{stream: func(_ context.Context, emit func(dreamcore.Event) error) error {
			_ = emit(dreamcore.Event(`{"count":1}`))
			return end()
		}}})
		s := readStream(t, sv.do(sv.request(http.MethodPost, "/test_stream", "{}")).Body)
		var data []string
		for f, err := s.next(); err == nil; f, err = s.next() {
			data = append(data, f.data)
		}
		want := []string{`{"count":1}`, string(dreamcore.ErrorEvent(dreamcore.Failure{Code: dreamcore.FailSandbox}, dreamcore.English))}
		if diff := cmp.Diff(want, data); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestTestStreamWithoutEventsFails(t *testing.T) {
	sv := start(t, options{prober: fakeProber{stream: func(context.Context, func(dreamcore.Event) error) error { return nil }}})
	if status, _, got := sv.post("/test_stream", ""); status != http.StatusOK || got["success"] != false || got["error"] == "" {
		t.Errorf("status %d, %v", status, got)
	}
}

func TestChecksOverTheLimitsAreBusy(t *testing.T) {
	running, end := make(chan struct{}), make(chan struct{})
	sv := start(t, options{
		config: func(c *Config) { c.Limits.MaxChecks, c.Limits.MaxWaitingChecks = 1, 1 },
		prober: fakeProber{io: func(context.Context) (probe.IOResult, error) {
			running <- struct{}{}
			<-end
			return probe.IOResult{Match: true}, nil
		}},
	})
	first, second := make(chan int), make(chan int)
	check := func(answer chan int) {
		status, _, _ := sv.post("/test_sandbox_io", "{}")
		answer <- status
	}
	go check(first)
	<-running
	go check(second)
	for sv.server.waiting.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	for _, path := range []string{"/test_sandbox_io", "/test_stream"} {
		status, header, body := sv.post(path, "{}")
		if status != http.StatusTooManyRequests || header.Get("Retry-After") != "10" || body["code"] != "BUSY" {
			t.Errorf("%s: status %d, %v, %v", path, status, header, body)
		}
	}
	if status, _, _ := sv.post("/test_auth", "{}"); status != http.StatusOK {
		t.Errorf("test_auth runs no check, and got status %d", status)
	}
	end <- struct{}{}
	<-running // the second check has started
	close(end)
	for _, answer := range []chan int{first, second} {
		if status := <-answer; status != http.StatusOK {
			t.Errorf("one that ran: status %d", status)
		}
	}
	if status, _, _ := sv.post("/test_gvisor", "{}"); status != http.StatusOK {
		t.Errorf("after the first: status %d", status)
	}
}

func TestCheckEndsWithItsClient(t *testing.T) {
	running, ended := make(chan struct{}), make(chan struct{})
	sv := start(t, options{prober: fakeProber{io: func(ctx context.Context) (probe.IOResult, error) {
		close(running)
		<-ctx.Done()
		close(ended)
		return probe.IOResult{}, ctx.Err()
	}}})
	conn := sv.raw(head("/test_sandbox_io", secret, "Content-Length: 2") + "{}")
	<-running
	_ = conn.Close()
	<-ended
}

func TestPanicIsAnInternalError(t *testing.T) {
	var log logBuffer
	sv := start(t, options{
		config: log.attach,
		prober: fakeProber{gvisor: func(context.Context) (probe.Kernel, error) { panic("index out of range") }},
	})
	status, _, body := sv.post("/test_gvisor", "{}")
	want := map[string]any{"error": internalMessage, "code": "INTERNAL"}
	if diff := cmp.Diff(want, body); status != http.StatusInternalServerError || diff != "" {
		t.Errorf("status %d %s", status, diff)
	}
	if status, _, _ := sv.post("/test_auth", "{}"); status != http.StatusOK {
		t.Errorf("after it: status %d", status)
	}
	if got := log.text(sv); !strings.Contains(got, "index out of range") || !strings.Contains(got, "check_test.go") {
		t.Errorf("the log does not contain the location: %s", got)
	}
}
