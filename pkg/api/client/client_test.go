package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func answerWith(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func TestChecksReadTheirAnswers(t *testing.T) {
	answers := map[string]string{
		"/health":          `{"status":"healthy","app":"dreamcore","version":"1.2.3"}`,
		"/test_sandbox_io": `{"success":true,"input":"hello","output":"hello","match":true,"new":1}`,
		"/test_gvisor":     `{"success":true,"proc_version":"Linux version 4.19.0-gvisor","is_gvisor":true}`,
		"/test_volume":     `{"success":true,"test_id":"id","written":"w","read":"r","match":false}`,
		"/test_auth":       `{"success":true,"message":"hi"}`,
	}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		secret, sent := r.Header[SecretHeader]
		if isHealth := r.URL.Path == "/health"; isHealth == sent || isHealth != (r.Method == http.MethodGet) {
			t.Errorf("%s %s with the secret %q", r.Method, r.URL.Path, secret)
		}
		io.WriteString(w, answers[r.URL.Path])
	})
	ctx := t.Context()
	health, err := c.Health(ctx)
	check(t, health, err, Health{Status: "healthy", App: "dreamcore", Version: "1.2.3"})
	sandboxIO, err := c.TestSandboxIO(ctx)
	check(t, sandboxIO, err, SandboxIO{Input: "hello", Output: "hello", Match: true})
	gvisor, err := c.TestGVisor(ctx)
	check(t, gvisor, err, GVisor{ProcVersion: "Linux version 4.19.0-gvisor", IsGVisor: true})
	volume, err := c.TestVolume(ctx)
	check(t, volume, err, Volume{TestID: "id", Written: "w", Read: "r"})
	secret := testSecret
	auth, err := c.TestAuth(ctx, &secret)
	check(t, auth, err, Auth{Status: 200, Success: true})
}

func check[T any](t *testing.T, got T, err error, want T) {
	t.Helper()
	if err != nil {
		t.Errorf("%T: %v", got, err)
	} else if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%T (-want +got):\n%s", got, diff)
	}
}

func TestAFailedCheckReturnsTheServersReason(t *testing.T) {
	c := serve(t, answerWith(200, `{"success":false,"error":"no \u001b[31msandbox\n`+testSecret+`"}`))
	if _, err := c.TestVolume(t.Context()); err == nil || err.Error() != "the server reports: no sandbox [secret]" {
		t.Error(err)
	}
	c = serve(t, answerWith(200, `{"success":false}`))
	if _, err := c.TestSandboxIO(t.Context()); err == nil || err.Error() != "the server reports: no reason given" {
		t.Error(err)
	}
}

func TestAuthSendsTheGivenSecret(t *testing.T) {
	var got []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header[SecretHeader]
		answerWith(401, `{"error":"Unauthorized"}`)(w, r)
	})
	empty, wrong := "", "wrong"
	for _, tt := range []struct {
		secret *string
		want   []string
	}{{nil, nil}, {&empty, []string{""}}, {&wrong, []string{"wrong"}}} {
		auth, err := c.TestAuth(t.Context(), tt.secret)
		check(t, auth, err, Auth{Status: 401, Error: "Unauthorized"})
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("header (-want +got):\n%s", diff)
		}
	}
}

func TestStatusesBecomeCodesReasonsAndHints(t *testing.T) {
	for _, tt := range []struct {
		status     int
		header     string
		body       string
		code       dreamcore.Code
		text, hint string
	}{
		{400, "", `{"error":"Invalid user_id: must be UUID format","hint":"use a UUID"}`, dreamcore.CodeInvalid, "Invalid user_id: must be UUID format (400)", "use a UUID"},
		{401, "", `{"error":"Unauthorized"}`, dreamcore.CodeUnauthorized, "Unauthorized (401)", string(ReasonSecret)},
		{403, "", `no`, dreamcore.CodeUnauthorized, "403 Forbidden", string(ReasonSecret)},
		{404, "", `{"error":"Project not found"}`, dreamcore.CodeNotFound, "Project not found (404)", ""},
		{405, "", ``, dreamcore.CodeNotFound, "405 Method Not Allowed", ""},
		{409, "7", `{"error":"busy"}`, dreamcore.CodeConflict, "busy (409)", "try again in 7 s"},
		{413, "", ``, dreamcore.CodeTooLarge, "413", ""},
		{429, "junk", `{"error":"full"}`, dreamcore.CodeBusy, "full (429)", "try again in a moment"},
		{500, "", `{"success":false,"error":"broken\u001b]0;x\u0007 ` + testSecret + `"}`, dreamcore.CodeInternal, "broken [secret] (500)", ""},
		{502, "", `<html>`, dreamcore.CodeUnreachable, "502 Bad Gateway", "proxy"},
		{201, "", `{"success":true}`, dreamcore.CodeInternal, "201 Created", ""},
		{500, "", `{"error":"` + strings.Repeat("é", 5000) + `"}`, dreamcore.CodeInternal, "é…", ""},
		{599, "", `[1]`, dreamcore.CodeInternal, "599", ""},
	} {
		t.Run(fmt.Sprint(tt.status), func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if tt.header != "" {
					w.Header().Set("Retry-After", tt.header)
				}
				answerWith(tt.status, tt.body)(w, r)
			})
			_, plain := c.TestSandboxIO(t.Context())
			stream := c.TestStream(t.Context(), func(dreamcore.Event) error { return nil })
			for _, err := range []error{plain, stream} {
				if dreamcore.CodeOf(err) != tt.code || err == nil || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("got %s %v, want %s %q", dreamcore.CodeOf(err), err, tt.code, tt.text)
				}
				if hint := advice(err); !strings.Contains(hint, tt.hint) {
					t.Errorf("hint is %q, want %q", hint, tt.hint)
				}
				fitToPrint(t, err)
			}
		})
	}
}

// fitToPrint checks the invariants of every error.
func fitToPrint(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	all := err.Error() + dreamcore.HintOf(err)
	if strings.Contains(all, testSecret) {
		t.Errorf("the secret is in the error: %q", all)
	}
	if len(err.Error()) > 1000 || strings.ContainsAny(all, "\x1b\x07\n") {
		t.Errorf("the error is not fit to print: %q", all)
	}
}

// advice is the reason and the hint of an error.
func advice(err error) string { return string(dreamcore.ReasonOf(err)) + " " + dreamcore.HintOf(err) }

func TestMalformedAnswersAreErrors(t *testing.T) {
	for name, body := range map[string]string{
		"empty":          ``,
		"HTML":           "<!doctype html>\x1b[2J<p>" + testSecret,
		"array":          `[true]`,
		"null":           `null`,
		"two objects":    `{"success":true}{"success":true}`,
		"cut":            `{"success":true,"inp`,
		"wrong type":     `{"success":"true"}`,
		"missing":        `{"success":true,"input":"hello","match":true}`,
		"null member":    `{"success":true,"input":"hello","output":null,"match":true}`,
		"number":         `{"success":true,"input":"hello","output":5,"match":true}`,
		"another case":   `{"Success":true,"Input":"hello","Output":"hello","Match":true}`,
		"5 MB":           `{"success":true,"input":"` + strings.Repeat("x", 5<<20) + `"}`,
		"deeply nested":  strings.Repeat(`{"a":`, 50_000),
		"broken unicode": "{\"success\":\"\xff\xfe",
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, answerWith(200, body))
			_, err := c.TestSandboxIO(t.Context())
			if dreamcore.CodeOf(err) != dreamcore.CodeInternal || err == nil || !strings.Contains(err.Error(), "malformed answer") {
				t.Errorf("got %v", err)
			}
			if long := strings.Contains(fmt.Sprint(err), "longer than 1 MiB"); long != (name == "5 MB") {
				t.Errorf("got %v", err)
			}
			fitToPrint(t, err)
		})
	}
}

func TestUnreachableServersAreExplained(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	garbage := rawServer(t, "SSH-2.0-OpenSSH "+testSecret+"\r\n")
	gone := rawServer(t, "")
	for _, tt := range []struct{ name, address, text, hint string }{
		{"refused", "http://" + free.Addr().String(), "nothing listens at 127.0.0.1:", string(ReasonRefused)},
		{"unknown name", "http://no-such-host.invalid", "no-such-host.invalid", string(ReasonAddress)},
		{"HTTP for HTTPS", strings.Replace(plain.URL, "http:", "https:", 1), "plain HTTP", "use http://"},
		{"untrusted certificate", secure.URL, "certificate is not trusted", "SSL_CERT_FILE"},
		{"no HTTP", garbage, "cannot reach", ""},
		{"closed at once", gone, "cannot reach", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// Without proxies, and a resolver that answers at once.
			transport := &http.Transport{DialContext: dialWithoutDNS}
			c := connect(t, tt.address, func(o *Options) { o.Transport = transport })
			_, err := c.TestSandboxIO(t.Context())
			if dreamcore.CodeOf(err) != dreamcore.CodeUnreachable || err == nil || !strings.Contains(err.Error(), tt.text) || !strings.Contains(advice(err), tt.hint) {
				t.Errorf("got %v, advice %q", err, advice(err))
			}
			fitToPrint(t, err)
		})
	}
}

func dialWithoutDNS(ctx context.Context, network, address string) (net.Conn, error) {
	if strings.HasPrefix(address, "no-such-host.invalid") {
		return nil, &net.DNSError{Err: "no such host", Name: "no-such-host.invalid", IsNotFound: true}
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// rawServer answers each connection with text and closes it.
func rawServer(t *testing.T, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 4096))
			io.WriteString(conn, text)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return "http://" + l.Addr().String()
}

func TestTheTimeoutEndsCallsToAServerThatNeverAnswers(t *testing.T) {
	hang := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	half := func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"success":`)
		<-r.Context().Done()
	}
	for name, handler := range map[string]http.HandlerFunc{"silent": hang, "half an answer": half} {
		synctest.Test(t, func(t *testing.T) {
			c := overPipe(t, handler)
			start := time.Now()
			_, err := c.TestSandboxIO(t.Context())
			if d := time.Since(start); d != DefaultTimeout {
				t.Errorf("%s: took %v, want %v", name, d, DefaultTimeout)
			}
			if dreamcore.CodeOf(err) != dreamcore.CodeUnreachable || !strings.Contains(fmt.Sprint(err), "no answer from server within 1m 00s") {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		err := overPipe(t, hang).TestStream(t.Context(), func(dreamcore.Event) error { return nil })
		if dreamcore.CodeOf(err) != dreamcore.CodeUnreachable {
			t.Errorf("stream: %v", err)
		}
	})
}

func TestTheCallersContextEndsACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := overPipe(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		interrupted := errors.New("interrupted")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(interrupted) })
		if _, err := c.Health(ctx); !errors.Is(err, interrupted) {
			t.Errorf("cancelled: %v", err)
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		err := c.TestStream(ctx, nil)
		if dreamcore.CodeOf(err) != dreamcore.CodeUnreachable || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("deadline: %v", err)
		}
	})
}

func TestRedirectsNeverSendTheSecretToAnotherServer(t *testing.T) {
	var stolen []string
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stolen = append(stolen, r.Header.Get(SecretHeader))
		answerWith(200, `{"success":true}`)(w, r)
	}))
	defer thief.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, thief.URL+"/take?"+testSecret, status)
		})
		_, plain := c.TestAuth(t.Context(), &c.opts.Secret)
		_, health := c.Health(t.Context())
		stream := c.TestStream(t.Context(), nil)
		for _, err := range []error{plain, health, stream} {
			if dreamcore.CodeOf(err) != dreamcore.CodeUnreachable || !strings.Contains(fmt.Sprint(err), thief.URL+"/take") {
				t.Errorf("%d: %v", status, err)
			}
			fitToPrint(t, err)
		}
	}
	if len(stolen) > 0 {
		t.Errorf("the other server was called: %q", stolen)
	}
}

func TestRedirectsWithinTheServerAreFollowed(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/test_sandbox_io": // as a backend on Modal does if a call takes long
			http.Redirect(w, r, "/result", http.StatusSeeOther)
		case "/test_gvisor":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "/test_volume":
			http.Redirect(w, r, "/test_volume", http.StatusTemporaryRedirect)
		default:
			if r.Header.Get(SecretHeader) != testSecret {
				t.Error("the secret was lost")
			}
			answerWith(200, `{"success":true,"input":"a","output":"a","match":true}`)(w, r)
		}
	})
	got, err := c.TestSandboxIO(t.Context())
	check(t, got, err, SandboxIO{Input: "a", Output: "a", Match: true})
	if _, err := c.TestGVisor(t.Context()); err == nil || !strings.Contains(err.Error(), "redirects to") {
		t.Errorf("a POST was turned into a GET: %v", err)
	}
	if _, err := c.TestVolume(t.Context()); dreamcore.CodeOf(err) != dreamcore.CodeUnreachable {
		t.Errorf("a circle: %v", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	if _, err := New("", Options{}); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" {
		t.Errorf("no endpoint: %v", err)
	}
	for _, secret := range []string{testSecret + "\n", "a\x00b", " a", "秘密"} {
		_, err := New("http://host", Options{Secret: secret})
		if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("secret %q: %v", secret, err)
		}
	}
}

func TestRequestHeadersAndBody(t *testing.T) {
	var header http.Header
	var body []byte
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		header = r.Header
		body, _ = io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: {\"type\":\"done\"}\n\n")
	}, func(o *Options) { o.UserAgent = "dreamcore/1" })
	request := dreamcore.Request{UserID: "u", ProjectID: "p", Prompt: "<b>蛇&"}
	if _, err := c.Generate(t.Context(), request, func(dreamcore.Event) error { return nil }); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"User-Agent": "dreamcore/1", "Accept": "text/event-stream",
		"Accept-Encoding": "identity", "Content-Type": "application/json", SecretHeader: testSecret,
	} {
		if got := header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if want := `{"user_id":"u","project_id":"p","prompt":"<b>蛇&"}` + "\n"; string(body) != want {
		t.Errorf("body is %s, want %s", body, want)
	}
}

func TestFilesOfAProject(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		switch {
		case r.Method != http.MethodGet || q.Get("user_id") != "u" || q.Get("project_id") != "p" || r.Header.Get(SecretHeader) != testSecret:
			answerWith(500, "")(w, r)
		case r.URL.Path == "/list_files":
			io.WriteString(w, `{"files":["index.html","a b&c.js"]}`)
		case q.Get("path") == "a b&c.js":
			io.WriteString(w, "12345")
		default:
			answerWith(404, `{"error":"File not found"}`)(w, r)
		}
	})
	files, leftOut, err := c.ListFiles(t.Context(), "u", "p")
	check(t, files, err, []string{"index.html", "a b&c.js"})
	if leftOut != 0 {
		t.Errorf("%d left out", leftOut)
	}
	some := serve(t, answerWith(200, `{"files":["a"],"left_out":3}`))
	if files, leftOut, err := some.ListFiles(t.Context(), "u", "p"); len(files) != 1 || leftOut != 3 || err != nil {
		t.Errorf("%q, %d, %v", files, leftOut, err)
	}
	var b bytes.Buffer
	n, err := c.GetFile(t.Context(), "u", "p", files[1], &b, 5)
	if n != 5 || err != nil || b.String() != "12345" {
		t.Errorf("GetFile: %d, %v, %q", n, err, b.String())
	}
	if _, err := c.GetFile(t.Context(), "u", "p", files[1], io.Discard, 4); dreamcore.CodeOf(err) != dreamcore.CodeTooLarge {
		t.Errorf("over the limit: %v", err)
	}
	if _, err := c.GetFile(t.Context(), "u", "p", "no", io.Discard, 4); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("not there: %v", err)
	}
	cut := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		io.WriteString(w, "123")
	})
	if n, err := cut.GetFile(t.Context(), "u", "p", "x", io.Discard, 100); err == nil {
		t.Errorf("a truncated file counts as complete: %d", n)
	}
	bad := serve(t, answerWith(200, `{"files":[1]}`))
	if _, _, err := bad.ListFiles(t.Context(), "u", "p"); dreamcore.CodeOf(err) != dreamcore.CodeInternal || err == nil {
		t.Errorf("bad list: %v", err)
	}
}
