package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func wantFailure(t *testing.T, r *rig, want dreamcore.FailureCode) {
	t.Helper()
	if got := r.grant.Failure(); got != want {
		t.Errorf("failure %q, want %q", got, want)
	}
}

func TestStreamIsForwardedImmediately(t *testing.T) {
	taken := make(chan struct{})
	pieces := []string{eventStart, "event: ping\nda", "ta: {}\n\n", eventText, eventDelta, eventStop}
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		beginStream(w)
		for _, p := range pieces {
			send(w, p)
			select { // the next piece is sent only after this one has arrived
			case <-taken:
			case <-req.Context().Done():
				return
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := r.client.Do(r.request(testBody).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, p := range pieces {
		got := make([]byte, len(p))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != p {
			t.Fatalf("piece %q: got %q, %v", p, got, err)
		}
		taken <- struct{}{}
	}
	if rest, err := io.ReadAll(resp.Body); len(rest) != 0 || err != nil {
		t.Errorf("rest %q, %v", rest, err)
	}
}

func TestHeaderOfSilentStreamIsForwarded(t *testing.T) {
	release := make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		beginStream(w)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
		case <-req.Context().Done():
		}
		send(w, wholeStream)
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := r.client.Do(r.request(testBody).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	close(release)
	resp.Body.Close()
}

func TestUsageIsCounted(t *testing.T) {
	const whole = `{"id":"x","content":[{"type":"text","text":"{\"usage\":{\"input_tokens\":1}}"}],"usage":{"input_tokens":7,"output_tokens":8,"cache_read_input_tokens":9,"service_tier":"standard"}}`
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		if bytes.Contains(b, []byte(`"stream":true`)) {
			goodStream(w, req)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, whole)
	})
	if a := r.post(testBody); a.body != wholeStream {
		t.Fatalf("%v", a)
	}
	plain := `{"model":"m-1"}`
	if a := r.post(plain); a.body != whole || a.header.Get("Content-Length") != fmt.Sprint(len(whole)) {
		t.Fatalf("%v", a)
	}
	r.grant.Revoke()
	want := Usage{Requests: 2, Tokens: dreamcore.Tokens{Input: 18, Output: 50, CacheWrite: 3, CacheRead: 14},
		BytesSent: int64(len(testBody) + len(plain)), BytesReceived: int64(len(wholeStream) + len(whole))}
	if got := r.grant.Usage(); got != want {
		t.Errorf("usage %+v, want %+v", got, want)
	}
}

func TestErrorsOfTheAPI(t *testing.T) {
	for _, tc := range []struct {
		status  int
		header  []string
		answers int // status of the answer if it differs
		failure dreamcore.FailureCode
		retries []string // x-should-retry of consecutive answers
		kind    string
		passes  bool // the API's message reaches the sandbox
	}{
		{400, nil, 400, "", []string{"", "", ""}, "invalid_request_error", true},
		{404, nil, 404, dreamcore.FailAuth, []string{"false"}, "not_found_error", false},
		{413, nil, 413, "", []string{""}, "request_too_large", true},
		{422, []string{"X-Should-Retry", "false"}, 422, "", []string{"false"}, "invalid_request_error", true},
		{401, nil, 401, dreamcore.FailAuth, []string{"false"}, "authentication_error", false},
		{402, nil, 401, dreamcore.FailAuth, []string{"false"}, "authentication_error", false},
		{403, []string{"X-Should-Retry", "true"}, 401, dreamcore.FailAuth, []string{"false"}, "authentication_error", false},
		{429, []string{"Retry-After", "7"}, 429, dreamcore.FailRateLimit, []string{"", "", "false", "false"}, "rate_limit_error", false},
		{429, []string{"X-Should-Retry", "true"}, 429, dreamcore.FailRateLimit, []string{"true", "true", "false"}, "rate_limit_error", false},
		{529, nil, 529, dreamcore.FailRateLimit, []string{"", "", "false"}, "overloaded_error", false},
		{503, nil, 503, dreamcore.FailRateLimit, []string{"", "", "false"}, "overloaded_error", false},
		{500, nil, 500, dreamcore.FailNetwork, []string{"", "", "false"}, "api_error", false},
		{502, []string{"X-Should-Retry", "false"}, 502, dreamcore.FailNetwork, []string{"false"}, "api_error", false},
		{504, nil, 504, dreamcore.FailAPITimeout, []string{"", "", "false"}, "timeout_error", false},
		{301, []string{"Location", "http://127.0.0.1:1/v1/messages"}, 502, dreamcore.FailNetwork, []string{"", "", "false"}, "api_error", false},
		{307, []string{"Location", "/v1/messages"}, 502, dreamcore.FailNetwork, []string{"", "", "false"}, "api_error", false},
		{204, nil, 502, dreamcore.FailNetwork, []string{""}, "api_error", false},
		{101, nil, 502, dreamcore.FailNetwork, []string{""}, "api_error", false},
		{666, nil, 502, dreamcore.FailNetwork, []string{""}, "api_error", false},
	} {
		t.Run(fmt.Sprint(tc.status, tc.header), func(t *testing.T) {
			r := newRig(t, status(tc.status, tc.header...))
			for i, want := range tc.retries {
				a := r.post(testBody)
				if a.status != tc.answers || a.header.Get("X-Should-Retry") != want || a.err != nil {
					t.Fatalf("answer %d: %v; want status %d, x-should-retry %q", i+1, a, tc.answers, want)
				}
				if !strings.HasPrefix(a.body, `{"type":"error","error":{"type":"`+tc.kind+`"`) || strings.Contains(a.body, "org 1234") != tc.passes {
					t.Errorf("body %s", a.body)
				}
				if a.header.Get("Location") != "" {
					t.Errorf("the redirect was passed on: %v", a.header)
				}
				if len(tc.header) > 0 && tc.header[0] == "Retry-After" && a.header.Get("Retry-After") != "7" {
					t.Errorf("retry-after %q", a.header.Get("Retry-After"))
				}
			}
			wantFailure(t, r, tc.failure)
			if alarm := strings.Contains(r.log.String(), "level=ERROR"); alarm != (tc.failure == dreamcore.FailAuth) {
				t.Errorf("alarm %v in the log:\n%s", alarm, r.log)
			}
			if (tc.status == 401 || tc.status == 403) && !strings.Contains(r.log.String(), "replace its key") {
				t.Errorf("the log names no fix:\n%s", r.log)
			}
		})
	}
}

func TestCompleteAnswerClearsFailure(t *testing.T) {
	var good atomic.Bool
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if good.Load() || strings.HasSuffix(req.URL.Path, "count_tokens") {
			goodStream(w, req)
			return
		}
		status(500)(w, req)
	})
	for range 3 {
		r.post(testBody)
	}
	wantFailure(t, r, dreamcore.FailNetwork)
	if a := r.do(r.request(testBody, func(req *http.Request) { req.URL.Path += "/count_tokens" })); a.status != 200 {
		t.Fatalf("%v", a)
	}
	wantFailure(t, r, dreamcore.FailNetwork) // a token count does not prove that the model works
	good.Store(true)
	r.post(testBody)
	wantFailure(t, r, "")
	good.Store(false)
	if a := r.post(testBody); a.header.Get("X-Should-Retry") != "" {
		t.Errorf("the count was not cleared: %v", a)
	}
}

func TestMissingKeyIsAlarm(t *testing.T) {
	for name, key := range map[string]func() (string, error){
		"error":      func() (string, error) { return "", errors.New("store is sealed") },
		"empty":      func() (string, error) { return " \n", nil },
		"two lines":  func() (string, error) { return "sk-TAILTAIL\r\nX-Evil: 1", nil },
		"not ascii":  func() (string, error) { return "schlüssel-TAILTAIL", nil },
		"no upsteam": nil,
	} {
		var u Upstream
		if key != nil {
			api, err := NewAPIUpstream(APIConfig{BaseURL: "http://127.0.0.1:1", Key: key})
			if err != nil {
				t.Fatal(err)
			}
			u = api
		}
		r := newRig(t, goodStream, func(c *Config) { c.Upstream = u })
		wantRefusal(t, r.post(testBody), 401, "authentication_error")
		wantFailure(t, r, dreamcore.FailAuth)
		if !strings.Contains(r.log.String(), "replace its key") {
			t.Errorf("%s: the log names no fix:\n%s", name, r.log)
		}
	}
}

func TestKeyIsReadForEachRequest(t *testing.T) {
	var key atomic.Value
	keys := make(chan string, 1)
	r := newRig(t, nil, func(c *Config) {
		c.Upstream = nil
	})
	upstream := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		keys <- req.Header.Get("X-Api-Key")
		goodStream(w, req)
	})
	base := upstream.gw.upstream.Load()
	api, err := NewAPIUpstream(APIConfig{BaseURL: (*base).(*APIUpstream).base, Key: func() (string, error) { return key.Load().(string), nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	r.gw.SetUpstream(api)
	for _, k := range []string{"first-key-1", " second-key-2\n"} {
		key.Store(k)
		if a := r.post(testBody); a.status != 200 {
			t.Fatalf("%v", a)
		}
		if got := <-keys; got != strings.TrimSpace(k) {
			t.Errorf("key %q went out, want %q", got, k)
		}
	}
}

func TestUnreachableUpstream(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // refuses connections from now on
	for _, url := range []string{"http://" + l.Addr().String(), "https://no-such-host.invalid"} {
		r := newRigAt(t, url)
		for _, want := range []string{"", "", "false"} {
			a := r.post(testBody)
			if a.status != 502 || a.header.Get("X-Should-Retry") != want || strings.Contains(a.body, "127.0.0.1") {
				t.Errorf("%s: %v; want x-should-retry %q", url, a, want)
			}
		}
		wantFailure(t, r, dreamcore.FailNetwork)
	}
}

func TestNoAnswerWithinTheLimit(t *testing.T) {
	var calls atomic.Int32
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		calls.Add(1)
		_, _ = io.Copy(io.Discard, req.Body)
		<-req.Context().Done()
	}, func(c *Config) { c.HeaderLimit, c.AnswerLimit = 40*time.Millisecond, 300*time.Millisecond })
	for _, body := range []string{testBody, `{"model":"m-1"}`} {
		begun := time.Now()
		a := r.post(body)
		if a.status != 504 || a.header.Get("X-Should-Retry") != "" {
			t.Fatalf("%v", a)
		}
		if limit := 300 * time.Millisecond; body != testBody && time.Since(begun) < limit {
			t.Errorf("an answer in one piece got %v, want %v", time.Since(begun), limit)
		}
	}
	wantFailure(t, r, dreamcore.FailAPITimeout)
	wantRefusal(t, r.post(testBody), 504, "timeout_error")
	if calls.Load() != 2 {
		t.Errorf("%d requests went out, want 2", calls.Load())
	}
}

func TestStalledStreamEndsWithErrorEvent(t *testing.T) {
	var calls atomic.Int32
	ended := make(chan struct{}, 2)
	first := eventStart
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		calls.Add(1)
		beginStream(w)
		send(w, first)
		<-req.Context().Done()
		ended <- struct{}{}
	}, func(c *Config) { c.IdleLimit = 50 * time.Millisecond })
	for _, tc := range []struct{ sent, gap string }{{eventStart, ""}, {eventStart + "event: x\ndata: {\"ty", "\n\n"}} {
		first = tc.sent
		a := r.post(testBody)
		want := tc.sent + tc.gap + "event: error\ndata: " + `{"type":"error","error":{"type":"api_error","message":"The model API stopped in the middle of its answer."}}` + "\n\n"
		if a.status != 200 || a.err != nil || a.body != want {
			t.Errorf("after %q: %v", tc.sent, a)
		}
		<-ended // the upstream's request was cancelled
		wantFailure(t, r, dreamcore.FailAPITimeout)
	}
	wantRefusal(t, r.post(testBody), 504, "timeout_error")
	if calls.Load() != 2 {
		t.Errorf("%d requests went out, want 2", calls.Load())
	}
	if u := r.grant.Usage(); u.Tokens.Input != 22 || u.Requests != 2 {
		t.Errorf("usage %+v: what a failed answer cost counts", u)
	}
}

func TestSlowStreamIsNotStalled(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		beginStream(w)
		send(w, eventStart)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for range 6 { // longer than the limit in total, each pause shorter
			<-tick.C
			send(w, "event: ping\ndata: {\"type\": \"ping\"}\n\n")
		}
		send(w, eventStop)
	}, func(c *Config) { c.IdleLimit = 400 * time.Millisecond })
	if a := r.post(testBody); a.err != nil || !strings.HasSuffix(a.body, eventStop) {
		t.Errorf("%v", a)
	}
	wantFailure(t, r, "")
}

func TestBodyReadLimitDoesNotEndAnswer(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		beginStream(w)
		send(w, eventStart)
		select {
		case <-time.After(200 * time.Millisecond):
			send(w, eventStop)
		case <-req.Context().Done():
		}
	}, func(c *Config) { c.BodyReadLimit = 50 * time.Millisecond })
	if a := r.post(testBody); a.err != nil || !strings.HasSuffix(a.body, eventStop) {
		t.Errorf("%v", a)
	}
}

func TestAccountWithoutCreditIsAlarm(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(400)
		send(w, string((&apiError{status: 400, message: "Your credit balance is too low to access the API."}).body()))
	})
	a := r.post(testBody)
	wantRefusal(t, a, 401, "authentication_error")
	wantFailure(t, r, dreamcore.FailAuth)
	if strings.Contains(a.body, "credit") || !strings.Contains(r.log.String(), "level=ERROR") {
		t.Errorf("%v\n%s", a, r.log)
	}
}

func TestKeyIsRemovedFromAnswerHeader(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Request-Id", "for "+req.Header.Get("X-Api-Key"))
		goodStream(w, req)
	})
	if a := r.post(testBody); a.header.Get("Request-Id") != "for [redacted]" {
		t.Errorf("%v", a)
	}
}

func TestSilenceAfterMessageStopIsNotAFailure(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		beginStream(w)
		send(w, wholeStream)
		<-req.Context().Done()
	}, func(c *Config) { c.IdleLimit = 50 * time.Millisecond })
	if a := r.post(testBody); a.err != nil || a.body != wholeStream {
		t.Errorf("%v", a)
	}
	wantFailure(t, r, "")
}

func TestInterruptedAnswerIsInterruptedForTheClient(t *testing.T) {
	cuts := map[string]http.HandlerFunc{
		"stream": func(w http.ResponseWriter, _ *http.Request) {
			beginStream(w)
			send(w, eventStart+eventText)
			panic(http.ErrAbortHandler)
		},
		"stream without its end": func(w http.ResponseWriter, _ *http.Request) {
			beginStream(w)
			send(w, eventStart+eventText)
		},
		"one piece": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "1000")
			send(w, `{"usage":{"input_tokens":1}}`)
			panic(http.ErrAbortHandler)
		},
		"too long": func(w http.ResponseWriter, _ *http.Request) {
			beginStream(w)
			send(w, eventStart+strings.Repeat(eventText, 100))
		},
	}
	for name, h := range cuts {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
				calls.Add(1)
				h(w, req)
			}, func(c *Config) { c.MaxResponse = 1000 })
			for range 2 {
				a := r.post(testBody)
				if a.status != 200 || a.err == nil {
					t.Errorf("the client does not see an interruption: %v", a)
				}
				wantFailure(t, r, dreamcore.FailNetwork)
			}
			wantRefusal(t, r.post(testBody), 502, "api_error")
			if calls.Load() != 2 {
				t.Errorf("%d requests went out, want 2", calls.Load())
			}
		})
	}
}

func TestErrorEventInStreamIsFailure(t *testing.T) {
	for kind, want := range map[string]dreamcore.FailureCode{
		"overloaded_error": dreamcore.FailRateLimit, "rate_limit_error": dreamcore.FailRateLimit,
		"api_error": dreamcore.FailNetwork, "timeout_error": dreamcore.FailAPITimeout, "": dreamcore.FailNetwork,
	} {
		event := "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"" + kind + "\"}}\n\n"
		r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
			beginStream(w)
			send(w, eventStart+event)
		})
		if a := r.post(testBody); a.err != nil || a.body != eventStart+event {
			t.Errorf("%q: %v", kind, a)
		}
		wantFailure(t, r, want)
	}
}

func TestUnexpectedAnswerIsRejected(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"login page": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			send(w, "<html>"+testKey)
		},
		"compressed": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			beginStream(w)
		},
		"big header": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Big", strings.Repeat("x", 100<<10))
			beginStream(w)
		},
		"garbage": func(w http.ResponseWriter, _ *http.Request) {
			c, _, _ := http.NewResponseController(w).Hijack()
			_, _ = io.WriteString(c, "garbage "+testKey+"\r\n\r\n")
			c.Close()
		},
	} {
		r := newRig(t, h)
		if a := r.post(testBody); a.status != 502 || strings.Contains(a.body, "html") {
			t.Errorf("%s: %v", name, a)
		}
		wantFailure(t, r, dreamcore.FailNetwork)
	}
}

func TestErrorBodyIsBounded(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		w.WriteHeader(400)
		for req.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("x", 1<<20)); err != nil {
				return
			}
		}
	})
	a := r.post(testBody)
	if a.status != 400 || len(a.body) > 1000 || a.err != nil {
		t.Errorf("status %d, %d bytes, %v", a.status, len(a.body), a.err)
	}
}
