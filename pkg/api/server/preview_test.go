package server

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/preview"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

func aPreview(t testing.TB, store *volume.Store) *preview.Service {
	t.Helper()
	s, err := preview.New(preview.Config{
		Place: preview.Place{Scheme: "http", Host: "games.test"}, Key: strings.Repeat("k", 32), Projects: store,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPreviewLinkWorks(t *testing.T) {
	sv := start(t, options{})
	body := `{"user_id":"` + user + `","project_id":"` + projectID + `"`
	status, _, o := sv.post("/preview_link", body+`,"expires_in":600}`)
	address, err := url.Parse(o["url"].(string))
	if status != 200 || err != nil {
		t.Fatalf("%d %v", status, o)
	}
	expires, err := time.Parse(time.RFC3339, o["expires"].(string))
	if left := time.Until(expires); err != nil || left > 10*time.Minute || left < 9*time.Minute {
		t.Errorf("%v %v", o, err)
	}
	req := sv.request(http.MethodGet, address.RequestURI(), "")
	req.Host = address.Host
	sv.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res := sv.do(req)
	if res.StatusCode != http.StatusSeeOther || len(res.Cookies()) != 1 {
		t.Errorf("%s %v", res.Status, res.Header)
	}
	for name, tt := range map[string]struct {
		body   string
		status int
	}{
		"no project":        {`{"user_id":"` + user + `","project_id":"` + user + `"}`, 404},
		"no user":           {`{"project_id":"` + user + `"}`, 400},
		"a second":          {body + `,"expires_in":1}`, 400},
		"a million seconds": {body + `,"expires_in":1e9}`, 400},
		"an overflow":       {body + `,"expires_in":99999999999999999999}`, 400},
		"a text":            {body + `,"expires_in":"600"}`, 400},
		"negative":          {body + `,"expires_in":-600}`, 400},
		"null":              {body + `,"expires_in":null}`, 200},
	} {
		if status, _, o := sv.post("/preview-link", tt.body); status != tt.status {
			t.Errorf("%s: %d %v", name, status, o)
		}
	}
}

func TestPreviewHostsHaveNoEndpoints(t *testing.T) {
	sv := start(t, options{})
	for _, host := range []string{"games.test", "GAMES.test.:80", "a.games.test", "acme-health.games.test", "x.y.games.test:8080"} {
		for _, e := range (&Server{}).endpoints() {
			req := sv.requestFor(e, "/"+e.name)
			req.Host = host
			res := sv.do(req)
			raw, _ := io.ReadAll(res.Body)
			if res.StatusCode != http.StatusMisdirectedRequest || !strings.Contains(string(raw), "<!doctype html>") || strings.Contains(string(raw), "healthy") {
				t.Errorf("%s on %s: %s %.100s", e.name, host, res.Status, raw)
			}
		}
	}
	for _, host := range []string{"games.test.example.com", "notgames.test", "127.0.0.1"} {
		req := sv.request(http.MethodGet, "/health", "")
		req.Host = host
		if res := sv.do(req); res.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", host, res.Status)
		}
	}
}

func TestPreviewLinkWithoutPreviews(t *testing.T) {
	sv := start(t, options{config: func(c *Config) { c.Previews = nil }})
	status, _, o := sv.post("/preview_link", `{"user_id":"`+user+`","project_id":"`+projectID+`"}`)
	if status != 404 || o["hint"] == "" {
		t.Errorf("%d %v", status, o)
	}
}

func TestHeaderLimitsOfPreviewAndOtherHosts(t *testing.T) {
	sv := start(t, options{config: func(c *Config) { c.Limits.MaxHeaderBytes = 8 << 10 }})
	status, _, o := sv.post("/preview_link", `{"user_id":"`+user+`","project_id":"`+projectID+`"}`)
	address, err := url.Parse(o["url"].(string))
	if status != 200 || err != nil {
		t.Fatalf("%d %v", status, o)
	}
	sv.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for host, want := range map[string]int{address.Host: http.StatusSeeOther, "": http.StatusRequestHeaderFieldsTooLarge} {
		req := sv.request(http.MethodGet, address.RequestURI(), "")
		if host != "" {
			req.Host = host
		}
		for i := range 180 {
			req.AddCookie(&http.Cookie{Name: "c" + strings.Repeat("n", i), Value: strings.Repeat("x", 3900)})
		}
		if res := sv.do(req); res.StatusCode != want {
			t.Errorf("host %q: status %d, want %d", host, res.StatusCode, want)
		}
	}
}
