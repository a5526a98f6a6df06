package image

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// answer handles requests whose path contains part.
func answer(part string, do http.HandlerFunc) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, part) {
			return false
		}
		do(w, r)
		return true
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func TestFaultyRegistries(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	circle := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path+"x", http.StatusTemporaryRedirect)
	}
	silent := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write([]byte("some"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write([]byte("some"))
	}
	endless := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}
	plain := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://registry.invalid/x", http.StatusTemporaryRedirect)
	}
	private := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://169.254.169.254/x", http.StatusTemporaryRedirect)
	}
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
	}
	for _, c := range []struct {
		name string
		path string
		do   http.HandlerFunc
		code dreamcore.Code
		want string
	}{
		{"not found", "/manifests/", status(404), dreamcore.CodeNotFound, "404"},
		{"forbidden", "/manifests/", status(403), dreamcore.CodeUnauthorized, "403"},
		{"too many requests", "/manifests/", status(429), dreamcore.CodeBusy, "429"},
		{"broken", "/manifests/", status(500), dreamcore.CodeUnreachable, "500"},
		{"broken at the door", "/v2/", status(503), dreamcore.CodeUnreachable, "503"},
		{"broken for layers", "/blobs/", status(502), dreamcore.CodeUnreachable, "502"},
		{"no layer", "LAYER", status(404), dreamcore.CodeNotFound, "404"},
		{"silent", "/manifests/", hang, dreamcore.CodeUnreachable, "stopped answering"},
		{"silent at the door", "/v2/", hang, dreamcore.CodeUnreachable, "stopped answering"},
		{"silent in a manifest", "/manifests/", silent, dreamcore.CodeUnreachable, "stopped answering"},
		{"silent in a layer", "LAYER", silent, dreamcore.CodeUnreachable, "stopped answering"},
		{"cut in a manifest", "/manifests/", cut, dreamcore.CodeUnreachable, "unexpected EOF"},
		{"cut in a layer", "LAYER", cut, dreamcore.CodeUnreachable, "unexpected EOF"},
		{"in circles", "/manifests/", circle, dreamcore.CodeSetup, "in circles"},
		{"in circles at the door", "/v2/", circle, dreamcore.CodeUnreachable, "redirects"},
		{"in circles for layers", "LAYER", circle, dreamcore.CodeSetup, "in circles"},
		{"to a place without TLS", "LAYER", plain, dreamcore.CodeSetup, "no TLS"},
		{"to the inside", "LAYER", private, dreamcore.CodeUnreachable, "denied"},
		{"endless manifest", "/manifests/", endless, dreamcore.CodeSetup, "too long"},
		{"endless at the door", "/v2/", endless, dreamcore.CodeSetup, "too long"},
		{"endless layer", "LAYER", endless, dreamcore.CodeSetup, "longer than"},
		{"endless configuration", "/blobs/", endless, dreamcore.CodeSetup, "too long"},
		{"silent in the configuration", "/blobs/", silent, dreamcore.CodeUnreachable, "stopped answering"},
		{"another configuration", "/blobs/", text("other"), dreamcore.CodeSetup, "sha256"},
		{"no JSON", "/manifests/", text("<html>"), dreamcore.CodeSetup, "is not valid"},
		{"other bytes", "LAYER", text("other"), dreamcore.CodeSetup, "sha256"},
	} {
		t.Run(c.name, func(t *testing.T) {
			reg := newRegistry(t)
			img := simple(t, "1")
			tagged, _ := reg.push(t, "game", "v1", img)
			m, err := img.Manifest()
			if err != nil {
				t.Fatal(err)
			}
			reg.hook(answer(strings.Replace(c.path, "LAYER", m.Layers[0].Digest.String(), 1), c.do))
			s := newStore(t, Limits{})
			s.stall = 100 * time.Millisecond
			_, _, err = s.Pull(t.Context(), tagged, nil)
			wantError(t, err, c.code, c.want)
			wantClean(t, s, 0)
		})
	}
}

func TestManifestIsCheckedAgainstItsDigest(t *testing.T) {
	reg := newRegistry(t)
	_, digested := reg.push(t, "game", "v1", simple(t, "1"))
	other, err := simple(t, "2").RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	reg.hook(answer("/manifests/", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(other) }))
	s := newStore(t, Limits{})
	_, _, err = s.Pull(t.Context(), digested, nil)
	wantError(t, err, dreamcore.CodeSetup, "does not match requested digest")
	if dreamcore.HintOf(err) != hintOther {
		t.Errorf("the hint is %q", dreamcore.HintOf(err))
	}
	wantClean(t, s, 0)
}

func TestTemporaryFaultIsRetried(t *testing.T) {
	for name, do := range map[string]http.HandlerFunc{
		"unavailable": status(503),
		"slow down":   status(429),
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(http.StatusOK)
			_, _ = w.Write([]byte("some"))
		},
	} {
		for _, path := range []string{"/manifests/", "/blobs/"} {
			t.Run(name+path, func(t *testing.T) {
				reg := newRegistry(t)
				tagged, _ := reg.push(t, "game", "v1", simple(t, "1"))
				var left atomic.Int32
				left.Store(attempts - 1)
				fault := answer(path, do)
				reg.hook(func(w http.ResponseWriter, r *http.Request) bool {
					return strings.Contains(r.URL.Path, path) && left.Add(-1) >= 0 && fault(w, r)
				})
				s := newStore(t, Limits{})
				wantTree(t, use(t, s, pull(t, s, tagged)), "bin/", "bin/sh=1")
				if left.Load() > 0 {
					t.Error("the fault did not happen")
				}
			})
		}
	}
}

func TestRequestsEndWithTheContext(t *testing.T) {
	for _, path := range []string{"/v2/", "/manifests/", "/blobs/"} {
		t.Run(path, func(t *testing.T) {
			reg := newRegistry(t)
			tagged, _ := reg.push(t, "game", "v1", simple(t, "1"))
			ctx, cancel := context.WithCancelCause(t.Context())
			enough := fmt.Errorf("enough of %s", path)
			reg.hook(answer(path, func(_ http.ResponseWriter, r *http.Request) {
				cancel(enough)
				<-r.Context().Done()
			}))
			s := newStore(t, Limits{})
			_, _, err := s.Pull(ctx, tagged, nil)
			if err == nil || !strings.Contains(err.Error(), enough.Error()) {
				t.Fatalf("got %v", err)
			}
			wantClean(t, s, 0)
		})
	}
	// The pause before another try, too.
	reg := newRegistry(t)
	tagged, _ := reg.push(t, "game", "v1", simple(t, "1"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reg.hook(answer("/manifests/", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		time.AfterFunc(20*time.Millisecond, cancel)
	}))
	s := newStore(t, Limits{})
	s.pause = time.Hour
	if _, _, err := s.Pull(ctx, tagged, nil); err == nil {
		t.Error("no error")
	}
}

func TestSlowReaderIsNotASilentRegistry(t *testing.T) {
	const size = 4 << 20 // more than any buffer on the way
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, size)) }))
	defer server.Close()
	const limit = 200 * time.Millisecond
	c := newClient(nil, limit)
	defer c.close()
	req, err := http.NewRequestWithContext(withBlobs(t.Context()), http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, n := range []int{0, 1, size - 1} {
		if _, err := io.ReadFull(resp.Body, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		<-time.After(3 * limit / 2) // longer than the limit of silence
	}
}

func TestLayersOnAnotherServer(t *testing.T) {
	reg := newRegistry(t)
	tagged, _ := reg.push(t, "game", "v1", simple(t, "1"))
	var leaked atomic.Bool
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(true)
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get(reg.URL + r.URL.Path + "?direct")
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		_, _ = io.Copy(w, resp.Body)
	}))
	defer storage.Close()
	reg.hook(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") || r.URL.RawQuery == "direct" {
			return false
		}
		http.Redirect(w, r, storage.URL+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	})
	s := newStore(t, Limits{})
	wantTree(t, use(t, s, pull(t, s, tagged)), "bin/", "bin/sh=1")
	if leaked.Load() {
		t.Error("the credentials went to another server")
	}
}

func TestRegistriesWithoutTLSAreRefused(t *testing.T) {
	for address, want := range map[string]bool{
		"http://registry.test/v2/": false, "http://10.0.0.1/v2/": false, "http://192.168.1.1:5000/": false, "ftp://127.0.0.1/": true,
		"https://registry.test/": true, "http://127.0.0.1:5000/": true, "http://localhost/": true, "http://a.localhost:1/": true, "http://[::1]:5000/": true,
		"http://localhost.registry.test/": false,
	} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if err := check(&http.Request{URL: u}); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
	r, err := parse("10.255.255.1/game:v1")
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, pullError(t.Context(), r, errPlain), dreamcore.CodeSetup, "no TLS")
}
