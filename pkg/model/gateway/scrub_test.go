package gateway

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
)

const slashKey = "sk/with+signs/0123456789abcdef=="

func TestSuccessfulAnswerDoesNotContainTheKey(t *testing.T) {
	for name, tc := range map[string]struct {
		key    string
		bearer bool
	}{"key": {testKey, false}, "bearer": {testKey, true}, "signs": {slashKey, true}} {
		t.Run(name, func(t *testing.T) {
			var written string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if b, _ := io.ReadAll(req.Body); bytes.Contains(b, []byte(`"stream":true`)) {
					beginStream(w)
				} else {
					w.Header().Set("Content-Type", "application/json")
				}
				for i := range len(written) { // byte by byte: no piece contains the key
					send(w, written[i:i+1])
				}
			}))
			defer server.Close()
			api, err := NewAPIUpstream(APIConfig{BaseURL: server.URL, Key: func() (string, error) { return tc.key, nil }, Bearer: tc.bearer})
			if err != nil {
				t.Fatal(err)
			}
			defer api.Close()
			r := newRig(t, goodStream, func(c *Config) { c.Upstream = api })
			for _, form := range []string{tc.key, url.QueryEscape(tc.key), strings.ReplaceAll(tc.key, "/", `\/`)} {
				text := "event: ping\ndata: {\"type\":\"ping\",\"key\":\"KEY\"}\n\n"
				written = eventStart + strings.Replace(text, "KEY", form, 1) + eventDelta + eventStop
				want := eventStart + strings.Replace(text, "KEY", strings.Repeat("*", len(form)), 1) + eventDelta + eventStop
				if a := r.post(testBody); a.status != 200 || a.err != nil || a.body != want {
					t.Errorf("a stream: %v", a)
				}
				written = `{"type":"message","debug":"` + form + `"}`
				if a := r.post(`{"model":"m-1"}`); a.status != 200 || a.err != nil || strings.Contains(a.body, form) || len(a.body) != len(written) {
					t.Errorf("an answer in one piece: %v", a)
				}
			}
		})
	}
}

func TestErrorDoesNotContainTheKeyInAnotherEncoding(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(400)
		_, _ = io.WriteString(w, `{"type":"error","error":{"type":"invalid_request_error","message":"key sk\/with+signs\/0123\/6789ab\/def=="}}`)
	}))
	defer server.Close()
	const key = "sk/with+signs/0123/6789ab/def=="
	api, err := NewAPIUpstream(APIConfig{BaseURL: server.URL, Key: func() (string, error) { return key, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	r := newRig(t, goodStream, func(c *Config) { c.Upstream = api })
	if a := r.post(testBody); a.status != 400 || strings.Contains(a.body, "with+signs") {
		t.Errorf("%v", a)
	}
}

// TestScrubberHoldsBackOnlyPossibleKeys reads pieces as they arrive:
// all bytes that cannot be the start of the key must be available immediately.
func TestScrubberHoldsBackOnlyPossibleKeys(t *testing.T) {
	key := []string{"abcdefgh-0123"}
	for _, tc := range []struct{ piece, want string }{
		{"some text\n\n", "some text\n\n"},
		{"some text abc", "some text "},
		{"abcdefgh-0123", "*************"},
		{"aaaaabcabcdefgh", "aaaaabc"},
		{"xabcdefgh-012", "x"},
		{"abcdefgh-0123abcdefgh-01", "*************"},
	} {
		in, out := io.Pipe()
		s := scrub(in, key)
		go func() { _, _ = io.WriteString(out, tc.piece) }()
		buf := make([]byte, 100)
		if n, err := s.Read(buf); err != nil || string(buf[:n]) != tc.want {
			t.Errorf("for %q got %q immediately, want %q (%v)", tc.piece, buf[:n], tc.want, err)
		}
		go out.Close()
		rest, err := io.ReadAll(s)
		if got := tc.want + string(rest); err != nil || len(got) != len(tc.piece) {
			t.Errorf("%q became %q (%v)", tc.piece, got, err)
		}
	}
	if body := io.NopCloser(strings.NewReader("")); scrub(body, []string{"none", "dummy"}) != body {
		t.Error("a word that is no credential is looked for")
	}
	broken := errors.New("broken")
	got, err := io.ReadAll(scrub(io.NopCloser(io.MultiReader(strings.NewReader("text abcd"), iotest.ErrReader(broken))), key))
	if string(got) != "text " || !errors.Is(err, broken) {
		t.Errorf("a stream that breaks off: %q, %v", got, err)
	}
}

// pieces is a body that arrives in pieces of any size.
type pieces struct {
	rest []byte
	rand *rand.Rand
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(1+p.rand.IntN(20), len(p.rest))])
	p.rest = p.rest[n:]
	return n, nil
}

func FuzzScrub(f *testing.F) {
	f.Add([]byte("x abcabcabd abcabcabcabd"), "abcabcabd", uint64(1))
	f.Add([]byte("aaaaaaaaaaaaaaaaaaaaaaa"), "aaaaaaaa", uint64(2))
	f.Add([]byte(`sk\/with+signs\/0123 sk/with+signs/0123`), "sk/with+signs/0123", uint64(3))
	f.Fuzz(func(t *testing.T, text []byte, key string, seed uint64) {
		if len(key) < minScrubbed || strings.Contains(key, "*") {
			return
		}
		got, err := io.ReadAll(scrub(io.NopCloser(&pieces{bytes.Clone(text), rand.New(rand.NewPCG(seed, 0))}), []string{key}))
		if err != nil || len(got) != len(text) {
			t.Fatalf("%d bytes became %d: %v", len(text), len(got), err)
		}
		if bytes.Contains(got, []byte(key)) {
			t.Errorf("%q holds %q", got, key)
		}
		for i := range got {
			if got[i] != text[i] && got[i] != '*' {
				t.Fatalf("byte %d became %q", i, got[i])
			}
		}
	})
}
