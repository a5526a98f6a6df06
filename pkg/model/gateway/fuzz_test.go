package gateway

import (
	"bufio"
	"bytes"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// FuzzRequest reads bytes as the gateway's server does, and checks the request
// that would be sent to the model API.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("POST /v1/messages HTTP/1.1\r\nHost: x\r\nX-Api-Key: k\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte("POST /v1/messages?beta=true HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nAnthropic-Beta: a\r\nAnthropic-Beta: b\r\n\r\n2\r\n{}\r\n0\r\n\r\n"))
	f.Add([]byte("GET http://evil/v1/messages HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nUser-Agent: a\tb\r\n\r\n"))
	f.Add([]byte("POST /v1/messages/../x HTTP/1.0\r\nContent-Encoding: gzip\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		socket := &Socket{grants: map[*Grant]struct{}{}}
		if gr, awaited := socket.authenticate(r.Header); gr != nil || awaited {
			t.Fatal("a socket without a grant accepts a token")
		}
		call, refusal := route(r)
		if refusal != nil {
			return
		}
		if r.Method != http.MethodPost || call.Path != messagesPath && call.Path != countTokensPath || call.Query != "" && call.Query != "beta=true" {
			t.Fatalf("passed: %s %q", r.Method, r.RequestURI)
		}
		out, err := newRequest(context.Background(), "https://model.example", *call)
		if err != nil {
			return
		}
		if out.URL.Host != "model.example" || out.URL.Path != call.Path {
			t.Fatalf("is sent to %s", out.URL)
		}
		for name := range out.Header {
			if !slices.Contains([]string{"Accept", "Anthropic-Version", "Anthropic-Beta", "User-Agent", "Content-Type", "Accept-Encoding"}, name) {
				t.Fatalf("the header %q is sent", name)
			}
		}
		var wire bytes.Buffer
		out.Header.Set("X-Api-Key", "key")
		if err := out.Write(&wire); err != nil {
			return // the transport rejects it too
		}
		again, err := http.ReadRequest(bufio.NewReader(&wire))
		if err != nil || again.Header.Get("X-Api-Key") != "key" || len(again.Header) != len(out.Header) && len(again.Header) != len(out.Header)+1 {
			t.Fatalf("read back: %v, %v", again, err)
		}
	})
}

func FuzzUpstreamError(f *testing.F) {
	f.Add([]byte(`{"type":"error","error":{"type":"overloaded_error","message":"busy"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if e := parseUpstreamError(raw); len(e.message) > maxErrorMessage+len("…") || len(e.kind) > 64 {
			t.Errorf("%d bytes of a message, %d of a kind", len(e.message), len(e.kind))
		}
	})
}

func FuzzBaseURL(f *testing.F) {
	for _, s := range []string{"https://api.example.com", "http://localhost:1", "http://[::1]/x/", "https://u:p@h", "https://h/v1", "http://10.0.0.1.evil"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		base, err := CheckBaseURL(raw, false)
		if err != nil {
			return
		}
		// An @ in the path has no special meaning.
		u, err := url.Parse(base)
		if err != nil || u.User != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" || strings.ContainsAny(base, "?# \r\n") {
			t.Errorf("%q became %q", raw, base)
		}
	})
}

func FuzzRedact(f *testing.F) {
	f.Add("before ", " after", "sk-ant-0123456789")
	f.Fuzz(func(t *testing.T, before, after, key string) {
		if len(key) < redactTail || strings.Contains("[redacted]", key) {
			return
		}
		if got := redact(before+key+after, key); strings.Contains(got, key) {
			t.Errorf("%q is in %q", key, got)
		}
	})
}
