package kube

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// account writes a service account that trusts srv.
func account(t *testing.T, srv *httptest.Server, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{"token": "t1\n", "namespace": "ns"}
	if srv != nil {
		all["ca.crt"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		if text == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// hostile is an API server that answers as it should not; a real one is tried by
// scripts/cluster.sh.
func hostile(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	c, err := New(Config{Server: srv.URL, Account: account(t, srv, nil)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestAccountsAreChecked(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	for name, files := range map[string]map[string]string{
		"no token": {"token": ""}, "an empty token": {"token": "\n"}, "a token of two words": {"token": "a b"}, "two lines": {"token": "a\nb"},
		"no authority": {"ca.crt": ""}, "a bad authority": {"ca.crt": "x"}, "no namespace": {"namespace": ""}, "a bad namespace": {"namespace": "a/b"},
		"a large token": {"token": strings.Repeat("x", maxAccountFile+1)},
	} {
		with := srv
		if ca, ok := files["ca.crt"]; ok && ca == "" {
			with = nil
		}
		if _, err := New(Config{Server: srv.URL, Account: account(t, with, files)}); dreamcore.CodeOf(err) != dreamcore.CodeSetup || dreamcore.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, server := range []string{"", "http://127.0.0.1:1", "127.0.0.1", "https://h/path"} {
		if _, err := New(Config{Server: server, Account: account(t, srv, nil)}); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("%q: %v", server, err)
		}
	}
}

func TestTheTokenIsReadForEachRequest(t *testing.T) {
	var got []string
	c := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get("Authorization"))
		_, _ = io.WriteString(w, `{"metadata":{"resourceVersion":"1"}}`)
	})
	for _, token := range []string{"t1", "t2"} {
		if err := os.WriteFile(filepath.Join(c.account, "token"), []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ConfigMap(t.Context(), "x"); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(got, []string{"Bearer t1", "Bearer t2"}) {
		t.Errorf("%q", got)
	}
}

func TestAnswersOfTheAPIServerAreBounded(t *testing.T) {
	endless := func(w http.ResponseWriter, _ *http.Request) {
		for chunk := make([]byte, 1<<20); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	var redirected bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { redirected = true }))
	defer other.Close()
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		code   dreamcore.Code
	}{
		"an endless object": {endless, dreamcore.CodeUnreachable},
		"an endless error":  {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500); endless(w, r) }, dreamcore.CodeUnreachable},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		}, dreamcore.CodeUnreachable},
		"no JSON":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<") }, dreamcore.CodeInternal},
		"a conflict": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(409) }, dreamcore.CodeConflict},
		"not found":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, dreamcore.CodeNotFound},
		"forbidden":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, dreamcore.CodeUnauthorized},
	} {
		if _, err := hostile(t, tt.answer).ConfigMap(t.Context(), "x"); err == nil || dreamcore.CodeOf(err) != tt.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if redirected {
		t.Error("the token has followed a redirect")
	}
	if _, err := hostile(t, endless).Replace(t.Context(), ConfigMap{Name: "x"}); err == nil {
		t.Error("an object without a version was replaced")
	}
}

// TestAWatchSurvivesWhatItIsSent sends one stream of a watch after the other, and sees
// that the copy follows what is valid in them.
func TestAWatchSurvivesWhatItIsSent(t *testing.T) {
	const list = `{"metadata":{"resourceVersion":"5"},"items":[{"metadata":{"name":"m","resourceVersion":"4"},"data":{"n":"0"}}]}`
	change := func(kind string, n, version int) string {
		return fmt.Sprintf(`{"type":%q,"object":{"metadata":{"name":"m","resourceVersion":"%d"},"data":{"n":"%d"}}}`, kind, version, n) + "\n"
	}
	streams := []string{
		change("MODIFIED", 1, 6) + `{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}` + "\n",
		change("MODIFIED", 2, 10) + "{",
		`{"type":"NEW","object":{"metadata":{"name":"m","resourceVersion":"11"}}}` + "\n",
		"", // ends at once: asked again without a pause, it would be asked for ever
		strings.Repeat("x", maxObject+1),
		`{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}` + "\n",
		change("DELETED", 2, 12) + change("ADDED", 3, 13),
	}
	var versions []string
	lists := 0
	wait := make(chan struct{})
	c := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") == "" {
			lists++
			_, _ = io.WriteString(w, list)
			return
		}
		versions = append(versions, r.URL.Query().Get("resourceVersion"))
		if len(streams) == 0 {
			select {
			case <-wait:
			case <-r.Context().Done():
			}
			return
		}
		_, _ = io.WriteString(w, streams[0])
		streams = streams[1:]
	})
	ctx, cancel := context.WithCancel(t.Context())
	var seen []string
	failures := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.FollowConfigMap(ctx, "m", Observer{Failed: func(error) { failures++ }}, func(m ConfigMap, ok bool) {
			seen = append(seen, fmt.Sprint(m.Data["n"], ok))
			if m.Data["n"] == "3" {
				close(wait)
				cancel()
			}
		})
	}()
	<-done
	if want := []string{"0true", "1true", "2true", "0true", "false", "3true"}; !slices.Equal(seen, want) {
		t.Errorf("%q, want %q", seen, want)
	}
	if want := []string{"5", "9", "10", "10", "10", "10", "5"}; !slices.Equal(versions[:min(len(want), len(versions))], want) {
		t.Errorf("watched from %q, want %q", versions, want)
	}
	if lists != 2 || failures != 5 {
		t.Errorf("%d lists, %d failures", lists, failures)
	}
}

func FuzzEvent(f *testing.F) {
	f.Add([]byte(`{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"1"},"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"],"hostname":"cell-0","conditions":{"serving":true}}],"ports":[{"name":"http","port":80}]}}`))
	f.Add([]byte(`{"type":"ERROR","object":{"code":410}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		w := follower{objects: map[string]json.RawMessage{}, changed: func(objects map[string]json.RawMessage) {
			for _, raw := range objects {
				var s endpointSlice
				if json.Unmarshal(raw, &s) != nil {
					continue
				}
				for _, e := range s.endpoints() {
					if e.Name == "" || e.Address == "" {
						t.Errorf("%+v", e)
					}
				}
			}
		}}
		if err := w.event(line); err == nil && w.version == "" && !strings.Contains(strings.ToLower(string(line)), "resourceversion") {
			t.Errorf("%q has no version", line)
		} else if errors.Is(err, errGone) && !strings.Contains(string(line), "410") {
			t.Errorf("%q", line)
		}
	})
}
