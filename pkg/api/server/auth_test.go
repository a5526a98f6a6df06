package server

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestOnlyAValidSecretIsAccepted(t *testing.T) {
	sv := start(t, options{})
	tests := []struct {
		name   string
		values []string
		in     bool
	}{
		{"right", []string{secret}, true},
		{"the other right one", []string{secret2}, true},
		{"none", nil, false},
		{"empty", []string{""}, false},
		{"wrong", []string{"wrong-secret"}, false},
		{"a part", []string{secret[:5]}, false},
		{"more", []string{secret + "x"}, false},
		{"another case", []string{strings.ToUpper(secret)}, false},
		{"both", []string{secret + "," + secret2}, false},
		{"two headers", []string{secret, "wrong"}, false},
		{"long", []string{strings.Repeat("x", 30<<10)}, false},
	}
	jobEndpoints, retries := 0, 0
	for _, e := range (&Server{}).endpoints() {
		if e.open {
			continue
		}
		if strings.Contains(e.name, "{id}") {
			jobEndpoints++
			if e.name == "jobs/{id}/retry" {
				retries += 2
			}
		}
		for _, tt := range tests {
			t.Run(e.name+" "+tt.name, func(t *testing.T) {
				req := sv.requestFor(e, "/"+e.name)
				req.Header.Del(SecretHeader)
				req.Header[SecretHeader] = tt.values
				res := sv.do(req)
				if tt.in {
					if res.StatusCode != http.StatusOK {
						t.Errorf("status %d", res.StatusCode)
					}
					return
				}
				status, _, body := object(t, res)
				if diff := cmp.Diff(map[string]any{"error": "Unauthorized"}, body); status != http.StatusUnauthorized || diff != "" {
					t.Errorf("status %d %s", status, diff)
				}
			})
		}
	}
	started := len(sv.generator.ids)
	if asked := 2 + retries + jobEndpoints*len(tests); started != asked {
		t.Errorf("%d generations were started, want %d: those of the 2 right secrets, of their retries, and one for each request of an endpoint of jobs", started, asked)
	}
}

func TestSecretAsBearerToken(t *testing.T) {
	sv := start(t, options{})
	tests := []struct {
		name          string
		header        []string
		authorization []string
		in            bool
	}{
		{"bearer", nil, []string{"Bearer " + secret}, true},
		{"the scheme in any case", nil, []string{"bearer  " + secret2}, true},
		{"both, the same", []string{secret}, []string{"Bearer " + secret}, true},
		{"of another scheme beside it", []string{secret}, []string{"Basic dXNlcjpwYXNz"}, true},
		{"both, both valid", []string{secret}, []string{"Bearer " + secret2}, false},
		{"both, one wrong", []string{secret}, []string{"Bearer wrong"}, false},
		{"both, the other wrong", []string{"wrong"}, []string{"Bearer " + secret}, false},
		{"both, one empty", []string{""}, []string{"Bearer " + secret}, false},
		{"both, the other empty", []string{secret}, []string{"Bearer "}, false},
		{"two", nil, []string{"Bearer " + secret, "Bearer " + secret2}, false},
		{"wrong", nil, []string{"Bearer wrong"}, false},
		{"empty", nil, []string{"Bearer "}, false},
		{"no scheme", nil, []string{secret}, false},
		{"another scheme", nil, []string{"Basic " + secret}, false},
		{"two headers", []string{secret, secret}, []string{"Bearer " + secret}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := sv.request(http.MethodPost, "/test_auth", "")
			req.Header.Del(SecretHeader)
			req.Header[SecretHeader], req.Header["Authorization"] = tt.header, tt.authorization
			want := http.StatusUnauthorized
			if tt.in {
				want = http.StatusOK
			}
			if res := sv.do(req); res.StatusCode != want {
				t.Errorf("status %d, want %d", res.StatusCode, want)
			}
		})
	}
}

func TestHealthNeedsNoSecret(t *testing.T) {
	sv := start(t, options{})
	for _, method := range []string{"GET", "HEAD"} {
		req := sv.request(method, "/health", "")
		req.Header.Del(SecretHeader)
		res := sv.do(req)
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d", method, res.StatusCode)
		}
		if method == "HEAD" {
			continue
		}
		_, _, body := object(t, res)
		if diff := cmp.Diff(map[string]any{"status": "healthy", "app": "dreamcore", "version": "1.2.3"}, body); diff != "" {
			t.Error(diff)
		}
	}
}

func TestSecretsCanChangeWhileServing(t *testing.T) {
	var valid atomic.Pointer[[]string]
	valid.Store(&[]string{secret})
	sv := start(t, options{config: func(c *Config) { c.Secrets = func() []string { return *valid.Load() } }})
	if status, _, _ := sv.post("/test_auth", ""); status != http.StatusOK {
		t.Errorf("before: status %d", status)
	}
	valid.Store(&[]string{"rotated"})
	if status, _, _ := sv.post("/test_auth", ""); status != http.StatusUnauthorized {
		t.Errorf("after: status %d", status)
	}
	valid.Store(&[]string{})
	if status, _, _ := sv.post("/test_auth", ""); status != http.StatusUnauthorized {
		t.Errorf("without any: status %d", status)
	}
}

func TestNewRefusesToServeWithoutASecret(t *testing.T) {
	for name, secrets := range map[string]func() []string{
		"nil": nil, "none": func() []string { return nil }, "empty": func() []string { return []string{"", ""} },
	} {
		_, err := New(Config{Secrets: secrets, Generator: &fakeGenerator{}, Workspaces: &fakeGenerator{}, Prober: &fakeProber{}})
		if dreamcore.CodeOf(err) != dreamcore.CodeSetup || !strings.Contains(dreamcore.HintOf(err), "dreamcore setup") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// flood writes chunks of a body of 100 MB until the server stops reading, and
// returns how much was sent.
func flood(w io.Writer) (sent int) {
	const size = 64 << 10
	chunk := "10000\r\n" + strings.Repeat("x", size) + "\r\n"
	for sent < 100<<20 {
		if _, err := io.WriteString(w, chunk); err != nil {
			return sent
		}
		sent += size
	}
	return sent
}

func TestRefusedBodyIsNotRead(t *testing.T) {
	sv := start(t, options{})
	tests := []struct {
		name, head string
		status     int
	}{
		{"wrong secret, nothing sent yet", head("/generate_game", "wrong", "Content-Length: 104857600"), 401},
		{"wrong secret", head("/generate_game", "wrong", "Transfer-Encoding: chunked"), 401},
		{"unknown path", head("/nothing", secret, "Transfer-Encoding: chunked"), 404},
		{"too large", head("/generate_game", secret, "Transfer-Encoding: chunked"), 413},
		{"too large for a check", head("/test_auth", secret, "Transfer-Encoding: chunked"), 413},
		{"health", "GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn := sv.raw(tt.head)
			sent := make(chan int, 1)
			go func() { sent <- flood(conn) }()
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			status, _, _ := object(t, res)
			if status != tt.status || !res.Close {
				t.Errorf("status %d, connection closed: %v", status, res.Close)
			}
			// Data in the kernel's buffers counts as sent.
			if n := <-sent; n > 40<<20 {
				t.Errorf("the server accepted %d MB", n>>20)
			}
		})
	}
}

func TestDeclaredOversizeBodyIsNotRead(t *testing.T) {
	sv := start(t, options{})
	conn := sv.raw(head("/generate_game", secret, "Content-Length: 104857600", "Expect: 100-continue"))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, body := object(t, res); status != http.StatusRequestEntityTooLarge || body["error"] == "" {
		t.Errorf("status %d, %v", status, body)
	}
}

func TestExpectContinueIsAnsweredBeforeTheBody(t *testing.T) {
	sv := start(t, options{})
	expect := []string{"Expect: 100-continue", "Content-Length: " + itoa(len(generateBody))}

	refused := bufio.NewReader(sv.raw(head("/generate_game", "wrong", expect...)))
	if res, err := http.ReadResponse(refused, nil); err != nil || res.StatusCode != http.StatusUnauthorized {
		t.Errorf("wrong secret: %v, %v", res, err)
	}

	conn := sv.raw(head("/generate_game", secret, expect...))
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("right secret: %q, %v", line, err)
	}
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, generateBody); err != nil {
		t.Fatal(err)
	}
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("right secret: %v, %v", res, err)
	}
}

func TestSlowBodyTimesOut(t *testing.T) {
	sv := start(t, options{config: func(c *Config) { c.Limits.ReadTimeout = 50 * time.Millisecond }})
	conn := sv.raw(head("/generate_game", secret, "Content-Length: 100") + `{"user_id":`)
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, _ := object(t, res); status != http.StatusRequestTimeout {
		t.Errorf("status %d", status)
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is still open: %v", err)
	}
}
