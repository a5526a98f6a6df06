package gate

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestACorrectServerPassesEveryGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var started, ended []string
		report := Run(t.Context(), Config{
			Client:   overPipe(t, testSecret, server{}),
			Gates:    standard(t),
			OnStart:  func(g Gate) { started = append(started, g.Name) },
			OnResult: func(r Result) { ended = append(ended, r.Name) },
		})
		want := Report{Endpoint: "http://server", Passed: true, Gates: []Result{
			{0, "health", Pass, "dreamcore 1.0.0", 0, nil, nil},
			{1, "sandbox-io", Pass, `the output is "hello", as the input`, 0, nil, nil},
			{2, "isolation", Pass, "Linux version 4.19.0-gvisor", 0, nil, nil},
			{3, "streaming", Pass, "5 chunks, 1.00 to 1.00 s apart", 4, nil, nil},
			{4, "volume", Pass, "the written text was read back, twice", 0, nil, nil},
			{5, "auth", Pass, "401 without a secret and with wrong ones, 200 with the right one", 0, nil, nil},
		}}
		if diff := cmp.Diff(want, report, cmpopts.IgnoreUnexported(Result{})); diff != "" {
			t.Errorf("report (-want +got):\n%s", diff)
		}
		names := []string{"health", "sandbox-io", "isolation", "streaming", "volume", "auth"}
		if !cmp.Equal(started, names) || !cmp.Equal(ended, names) {
			t.Errorf("started %q, ended %q", started, ended)
		}
		if report.Err() != nil {
			t.Errorf("Err = %v", report.Err())
		}
	})
}

func TestEachLieIsDetectedByItsGate(t *testing.T) {
	for _, tt := range []struct {
		name, gate string
		lie        http.HandlerFunc
		detail     string
	}{
		{"status is sick", "health", reply(200, `{"status":"sick","app":"x"}`), `"sick"`},
		{"no name", "health", reply(200, `{"status":"healthy","app":""}`), "does not report its name"},
		{"a web page", "health", reply(200, "<html>hi"), "malformed answer"},
		{"500", "health", reply(500, `{"error":"broken"}`), "broken (500)"},

		{"another output", "sandbox-io", reply(200, `{"success":true,"input":"hello","output":"hallo","match":true}`), `the output "hallo"`},
		{"the secret as output", "sandbox-io", reply(200, `{"success":true,"input":"hello","output":"`+testSecret+`","match":true}`), `the output "[secret]"`},
		{"no output", "sandbox-io", reply(200, `{"success":true,"input":"hello","output":"","match":true}`), `the output ""`},
		{"another input", "sandbox-io", reply(200, `{"success":true,"input":"","output":"","match":true}`), `the input was ""`},
		{"success only", "sandbox-io", reply(200, `{"success":true}`), `"input" is missing`},
		{"match is false", "sandbox-io", reply(200, `{"success":true,"input":"hello","output":"hello","match":false}`), "the server reports a mismatch"},
		{"success is false", "sandbox-io", reply(200, `{"success":false,"error":"no\u001b[2J sandbox","input":"hello","output":"hello","match":true}`), "the server reports: no sandbox"},
		{"wrong types", "sandbox-io", reply(200, `{"success":1,"input":[],"output":{}}`), `"success" is not a boolean`},
		{"500 with a success", "sandbox-io", reply(500, `{"success":true,"input":"hello","output":"hello","match":true}`), "500"},
		{"201", "sandbox-io", reply(201, `{"success":true,"input":"hello","output":"hello","match":true}`), "201"},
		{"5 MB", "sandbox-io", reply(200, `{"success":true,"input":"`+strings.Repeat("x", 5<<20)), "longer than 1 MiB"},
		{"cut", "sandbox-io", reply(200, `{"success":true,"inp`), "malformed answer"},
		{"not there", "sandbox-io", reply(404, "not found"), "404"},
		{"never answers", "sandbox-io", hang, "not finished within 30 s"},

		{"a claim without evidence", "isolation", reply(200, `{"success":true,"proc_version":"Linux version 6.1.0 (gcc)","is_gvisor":true}`), `reports gVisor, but /proc/version is "Linux version 6.1.0 (gcc)"`},
		{"an ordinary kernel", "isolation", reply(200, `{"success":true,"proc_version":"Linux version 6.1.0","is_gvisor":false}`), "no gVisor"},
		{"evidence denied", "isolation", reply(200, `{"success":true,"proc_version":"4.19.0-gvisor","is_gvisor":false}`), "reports no gVisor"},
		{"a kernel 4.4.0 of a distribution", "isolation", reply(200, `{"success":true,"proc_version":"Linux version 4.4.0-21-generic (buildd@lgw01-21) (gcc) #37-Ubuntu SMP Mon Apr 18 18:33:37 UTC 2016","is_gvisor":true}`), "reports gVisor"},
		{"an older gVisor and more", "isolation", reply(200, `{"success":true,"proc_version":"Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016 x","is_gvisor":true}`), "reports gVisor"},
		{"an older gVisor with another release", "isolation", reply(200, `{"success":true,"proc_version":"Linux version 6.1.0 #1 SMP Sun Jan 10 15:06:54 PST 2016","is_gvisor":true}`), "reports gVisor"},
		{"an older gVisor denied", "isolation", reply(200, `{"success":true,"proc_version":"Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016","is_gvisor":false}`), "reports no gVisor"},
		{"nothing seen", "isolation", reply(200, `{"success":true,"proc_version":" ","is_gvisor":true}`), "no evidence"},

		{"all at once", "streaming", streamOf(0, 5, true), "all 5 chunks arrived at once"},
		{"too fast", "streaming", streamOf(400*time.Millisecond, 5, true), "chunk 2 arrived 400 ms after"},
		{"too slow", "streaming", streamOf(2100*time.Millisecond, 5, true), "chunk 2 arrived 2.1 s after"},
		{"four chunks", "streaming", streamOf(time.Second, 4, true), "4 chunks, not 5"},
		{"no chunks", "streaming", streamOf(0, 0, true), "0 chunks, not 5"},
		{"no done", "streaming", streamOf(time.Second, 5, false), "after 5 chunks: test_stream: the stream was cut"},
		{"endless", "streaming", streamOf(time.Second, 1000, false), "not finished within 30 s, after 3"},
		{"endless and fast", "streaming", streamOf(0, 1000, false), "more than 60 chunks"},
		{"no end after done", "streaming", func(w http.ResponseWriter, r *http.Request) {
			streamOf(time.Second, 5, true)(w, r)
			hang(w, r)
		}, "does not end after its last event"},
		{"stalls", "streaming", func(w http.ResponseWriter, r *http.Request) {
			streamOf(time.Second, 3, false)(w, r)
			hang(w, r)
		}, "not finished within 30 s, after 3 chunks"},
		{"events after done", "streaming", script("data: {\"type\":\"done\"}\n\ndata: {\"count\":1}\n\n"), "an event after done"},
		{"counts twice", "streaming", script("data: {\"count\":1}\n\ndata: {\"count\":1}\n\n"), "chunk 2 has the count"},
		{"counts in words", "streaming", script("data: {\"count\":\"1\"}\n\n"), "chunk 1 has the count"},
		{"an error event", "streaming", script("data: {\"type\":\"error\",\"count\":1}\n\n"), "neither a chunk nor done"},
		{"another event", "streaming", script("data: {\"type\":\"status\"}\n\n"), "neither a chunk nor done"},
		{"garbage", "streaming", script("data: hello\n\ndata: x\n\n"), "not a JSON object"},
		{"no stream", "streaming", reply(200, `{"success":true}`), "not an event stream"},

		{"reads something else", "volume", reply(200, `{"success":true,"test_id":"123e4567-e89b-42d3-a456-426614174000","written":"a","read":"b","match":true}`), `wrote "a", read "b"`},
		{"writes nothing", "volume", reply(200, `{"success":true,"test_id":"123e4567-e89b-42d3-a456-426614174000","written":"","read":"","match":true}`), "nothing was written"},
		{"no id", "volume", reply(200, `{"success":true,"test_id":"{123e4567-e89b-42d3-a456-426614174000}","written":"a","read":"a","match":true}`), "not a UUID"},
		{"a canned answer", "volume", reply(200, `{"success":true,"test_id":"123e4567-e89b-42d3-a456-426614174000","written":"a","read":"a","match":true}`), "two tests have the same id"},
		{"denies the match", "volume", reply(200, `{"success":true,"test_id":"123e4567-e89b-42d3-a456-426614174000","written":"a","read":"a","match":false}`), "the server reports a mismatch"},

		{"open to all", "auth", reply(200, `{"success":true,"message":"hi"}`), "without a secret: the status is 200, not 401"},
		{"closed to all", "auth", reply(401, `{"error":"Unauthorized"}`), "the server has another one"},
		{"403", "auth", reply(403, `{"error":"Unauthorized"}`), "the status is 403, not 401"},
		{"another refusal", "auth", reply(401, `{"error":"go away"}`), `the error of the 401 is "go away"`},
		{"a page as the refusal", "auth", reply(401, "<html>"), "malformed answer"},
		{"any secret is right", "auth", accepts(func(s string, sent bool) bool { return s != "" }), "with a wrong secret: the status is 200"},
		{"a prefix is right", "auth", accepts(func(s string, sent bool) bool { return strings.HasPrefix(s, testSecret) }), "one more character: the status is 200"},
		{"an empty secret is right", "auth", accepts(func(s string, sent bool) bool { return sent && (s == "" || s == testSecret) }), "with an empty secret: the status is 200"},
		{"the right one without success", "auth", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get(client.SecretHeader) == testSecret {
				reply(200, `{"success":false}`)(w, r)
				return
			}
			reply(401, `{"error":"Unauthorized"}`)(w, r)
		}, "no success"},
		{"a redirect elsewhere", "auth", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://other/", http.StatusTemporaryRedirect)
		}, "redirects to http://other:80/"},
	} {
		t.Run(tt.gate+": "+tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { oneLie(t, tt.gate, tt.lie, tt.detail) })
		})
	}
}

// oneLie checks that the given gate, and no other, fails with the given detail.
func oneLie(t *testing.T, name string, lie http.HandlerFunc, detail string) {
	path := map[string]string{
		"health": "/health", "sandbox-io": "/test_sandbox_io", "isolation": "/test_gvisor",
		"streaming": "/test_stream", "volume": "/test_volume", "auth": "/test_auth",
	}[name]
	start := time.Now()
	report := Run(t.Context(), Config{
		Client:  overPipe(t, testSecret, server{lies: map[string]http.HandlerFunc{path: lie}}),
		Gates:   standard(t),
		Timeout: 30 * time.Second,
	})
	if d := time.Since(start); d > 40*time.Second {
		t.Errorf("took %v", d)
	}
	if report.Passed || report.Err() == nil {
		t.Error("the report says passed")
	}
	for _, g := range report.Gates {
		if want := map[bool]Status{true: Fail, false: Pass}[g.Name == name]; g.Status != want {
			t.Errorf("%s: %s (%s), want %s", g.Name, g.Status, g.Detail, want)
		}
		if strings.ContainsAny(g.Detail, "\n\x1b") || len(g.Detail) > 1000 || strings.Contains(g.Detail, testSecret) {
			t.Errorf("%s: the detail is not fit to print: %q", g.Name, g.Detail)
		}
	}
	contains(t, "detail", find(t, report, name).Detail, detail)
}

func accepts(ok func(secret string, sent bool) bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, sent := r.Header[client.SecretHeader]
		if ok(r.Header.Get(client.SecretHeader), sent) {
			reply(200, `{"success":true}`)(w, r)
			return
		}
		reply(401, `{"error":"Unauthorized"}`)(w, r)
	}
}

func TestIsolationIsRelaxedOnlyIfAllowedAndOnlyWithEvidence(t *testing.T) {
	for _, tt := range []struct {
		answer string
		want   Status
	}{
		{`{"success":true,"proc_version":"Linux version 6.1.0","is_gvisor":false}`, Relaxed},
		{`{"success":true,"proc_version":"Linux version 6.1.0","is_gvisor":true}`, Relaxed},
		{`{"success":true,"proc_version":"4.19.0-gvisor","is_gvisor":true}`, Pass},
		{`{"success":true,"proc_version":"Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016\n","is_gvisor":true}`, Pass},
		{`{"success":true,"proc_version":"Linux version 4.4.0 (builder@host) (gcc 5) #1 SMP Sun Jan 10 15:06:54 PST 2016","is_gvisor":true}`, Pass},
		{`{"success":true,"proc_version":"","is_gvisor":false}`, Fail},
		{`{"success":false,"error":"no sandbox"}`, Fail},
		{`<html>`, Fail},
	} {
		gates, err := Select([]string{"isolation"}, false, false)
		if err != nil {
			t.Fatal(err)
		}
		report := Run(t.Context(), Config{
			Client:         overPipe(t, testSecret, reply(200, tt.answer)),
			Gates:          gates,
			AllowNonGVisor: true,
		})
		if g := report.Gates[0]; g.Status != tt.want || report.Passed != tt.want.OK() {
			t.Errorf("%s: %s (%s), passed %v; want %s", tt.answer, g.Status, g.Detail, report.Passed, tt.want)
		}
	}
}

func TestAnUnreachableServerSkipsTheRest(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	report := Run(t.Context(), Config{Client: connect(t, gone.URL, testSecret, &http.Transport{}), Gates: standard(t)})
	if report.Passed || dreamcore.CodeOf(report.Err()) != dreamcore.CodeUnreachable || dreamcore.ReasonOf(report.Err()) == "" {
		t.Errorf("passed %v, %v", report.Passed, report.Err())
	}
	contains(t, "detail", report.Gates[0].Detail, "nothing listens at 127.0.0.1")
	for _, g := range report.Gates[1:] {
		if g.Status != Skipped || g.Detail != "the server cannot be reached" {
			t.Errorf("%s: %s (%s)", g.Name, g.Status, g.Detail)
		}
	}
}

func TestAServerThatNeverAnswersEndsAfterOneTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		report := Run(t.Context(), Config{
			Client:  overPipe(t, testSecret, http.HandlerFunc(hang)),
			Gates:   standard(t),
			Timeout: 10 * time.Second,
		})
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("took %v", d)
		}
		if g := report.Gates[0]; g.Status != Fail || g.Seconds != 10 || !strings.Contains(g.Detail, "not finished within 10 s") {
			t.Errorf("health: %+v", g)
		}
		if g := report.Gates[5]; g.Status != Skipped || report.Passed {
			t.Errorf("auth: %+v, passed %v", g, report.Passed)
		}
	})
}

func TestAnInterruptSkipsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(2*time.Second, func() { cancel(errors.New("signal")) })
		report := Run(ctx, Config{Client: overPipe(t, testSecret, server{}), Gates: standard(t)})
		if report.Passed {
			t.Error("passed")
		}
		for _, g := range report.Gates {
			want := Pass
			if g.Number >= 3 {
				want = Skipped
			}
			if g.Status != want || want == Skipped && g.Detail != "interrupted" {
				t.Errorf("%s: %s (%s), want %s", g.Name, g.Status, g.Detail, want)
			}
		}
	})
}

func TestAWrongOrNoSecretIsUnauthorized(t *testing.T) {
	for _, secret := range []string{"", "another"} {
		gates, err := Select([]string{"5"}, false, false)
		if err != nil {
			t.Fatal(err)
		}
		report := Run(t.Context(), Config{Client: overPipe(t, secret, server{}), Gates: gates})
		if report.Passed || dreamcore.CodeOf(report.Err()) != dreamcore.CodeUnauthorized || dreamcore.ReasonOf(report.Err()) == "" {
			t.Errorf("secret %q: passed %v, %v (%s)", secret, report.Passed, report.Err(), report.Gates[0].Detail)
		}
	}
}

func TestARunWithoutGatesIsNotAPass(t *testing.T) {
	if Run(t.Context(), Config{Client: overPipe(t, "", server{})}).Passed {
		t.Error("an empty run passed")
	}
}

func TestGatesPassOverRealConnections(t *testing.T) {
	real := httptest.NewServer(server{lies: map[string]http.HandlerFunc{
		"/test_stream": streamOf(600*time.Millisecond, 5, true),
	}})
	defer real.Close()
	report := Run(t.Context(), Config{Client: connect(t, real.URL, testSecret, &http.Transport{DisableKeepAlives: true}), Gates: standard(t)})
	if !report.Passed {
		t.Errorf("report: %+v", report)
	}
}

func TestGatesAreSelectedByNameOrNumber(t *testing.T) {
	names := func(gates []Gate) (names []string) {
		for _, g := range gates {
			names = append(names, g.Name)
		}
		return names
	}
	for _, tt := range []struct {
		args []string
		all  bool
		want []string
	}{
		{nil, true, []string{"health", "sandbox-io", "isolation", "streaming", "volume", "auth"}},
		{[]string{"3"}, false, []string{"streaming"}},
		{[]string{"gvisor", "stream", "sandbox_io", "volume", "auth"}, false, []string{"sandbox-io", "isolation", "streaming", "volume", "auth"}},
		{[]string{"test_gvisor", "Test-Stream", "test_sandbox_io", "RAW_SOCKETS"}, false, []string{"sandbox-io", "isolation", "streaming", "raw-sockets"}},
		{[]string{"auth", "Sandbox-IO", "5", "0"}, false, []string{"health", "sandbox-io", "auth"}},
	} {
		got, err := Select(tt.args, tt.all, false)
		if err != nil || !cmp.Equal(names(got), tt.want) {
			t.Errorf("Select(%q, %v) = %q, %v; want %q", tt.args, tt.all, names(got), err, tt.want)
		}
	}
	for _, tt := range []struct {
		args []string
		all  bool
	}{{nil, false}, {[]string{"14"}, false}, {[]string{"-1"}, false}, {[]string{""}, false}, {[]string{"test_"}, false}, {[]string{"test-3"}, false}, {[]string{"auth", "x\x1b[2J"}, false}, {[]string{"auth"}, true}} {
		_, err := Select(tt.args, tt.all, false)
		if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(dreamcore.HintOf(err), "3 streaming") {
			t.Errorf("Select(%q, %v): %v, hint %q", tt.args, tt.all, err, dreamcore.HintOf(err))
		}
		if err != nil && strings.Contains(err.Error(), "\x1b") {
			t.Errorf("Select(%q): %q", tt.args, err)
		}
	}
}

func FuzzStreaming(f *testing.F) {
	f.Add("data: {\"count\":1}\n\ndata: {\"type\":\"done\"}\n\n")
	f.Add("data: {\"count\":1,\"count\":2}\n\ndata: {\"type\":null}\n\n")
	f.Add(": c\n\ndata: {\"type\":\"error\"}\n\n")
	gates, err := Select([]string{"streaming"}, false, false)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := Run(t.Context(), Config{
			Client:  overPipe(t, testSecret, script(text)),
			Gates:   gates,
			Timeout: 20 * time.Second,
		})
		// One write cannot produce five chunks half a second apart.
		if r.Passed || r.Gates[0].Status != Fail || strings.ContainsAny(r.Gates[0].Detail, "\n\x1b") {
			t.Errorf("%q: %+v", text, r)
		}
		if err := r.WriteJUnit(io.Discard); err != nil {
			t.Error(err)
		}
	})
}

func TestGatesThatCouldNotStartAreReported(t *testing.T) {
	cause := &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "there is no internal secret to send", Hint: "set it"}
	report := NotStarted("http://host:8080", standard(t), cause)
	if report.Passed || dreamcore.HintOf(report.Err()) != "set it" {
		t.Errorf("passed %t, %v", report.Passed, report.Err())
	}
	var line, file strings.Builder
	if err := errors.Join(report.WriteJSON(&line), report.WriteJUnit(&file)); err != nil {
		t.Fatal(err)
	}
	contains(t, "JSON", line.String(), `{"endpoint":"http://host:8080","passed":false,"gates":[{"number":0,"name":"health","status":"fail","detail":"the check could not start: there is no internal secret to send"`)
	contains(t, "JUnit", file.String(), `<failure message="the check could not start: there is no internal secret to send"`)
	contains(t, "JUnit", file.String(), `tests="6" failures="1" errors="0" skipped="5"`)
}
