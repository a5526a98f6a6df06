package server

import (
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

func TestDocumentationListsExactlyTheEndpoints(t *testing.T) {
	raw, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	var told, there []string
	for _, m := range regexp.MustCompile("`(GET|POST) /([a-z_]+)`").FindAllStringSubmatch(string(raw), -1) {
		told = append(told, m[1]+" "+m[2])
	}
	for _, e := range (&Server{}).endpoints() {
		if !e.isPath() { // see TestDocumentationListsEveryJobEndpoint
			there = append(there, e.methods[0]+" "+e.name)
		}
	}
	told = slices.DeleteFunc(told, func(line string) bool {
		return slices.ContainsFunc((&Server{}).endpoints(), func(e endpoint) bool { return e.isPath() && line == e.methods[0]+" "+e.name })
	})
	for _, name := range prompt.Shipped() { // optional in api.md
		if slices.Contains(told, "POST "+name) {
			there = append(there, "POST "+name)
		}
	}
	slices.Sort(told)
	slices.Sort(there)
	if !slices.Equal(slices.Compact(told), there) {
		t.Errorf("api.md documents %v, the server has %v", told, there)
	}
}

func TestEndpointsHaveAllAddressForms(t *testing.T) {
	sv := start(t, options{})
	for _, e := range (&Server{}).endpoints() {
		if e.isPath() {
			continue // has only one form
		}
		dashes := strings.ReplaceAll(e.name, "_", "-")
		addresses := []struct{ host, path string }{
			{"", "/" + e.name},
			{"", "/" + dashes},
			{"acme--dreamcore-" + dashes + ".modal.run", "/"},
			{"acme--dreamcore-" + dashes + ".example.com:8443", "/"},
			{"ACME--Dreamcore-" + strings.ToUpper(dashes) + ".Modal.Run", "/"},
			{"acme--dreamcore-" + dashes + ".modal.run", "/?x=1"},
			{"acme--dreamcore-" + dashes + ".modal.run", "/" + e.name},
			{"127.0.0.1", "/" + e.name + "?a=b"},
		}
		for _, a := range addresses {
			t.Run(a.host+a.path, func(t *testing.T) {
				req := sv.requestFor(e, a.path)
				if a.host != "" {
					req.Host = a.host
				}
				if res := sv.do(req); res.StatusCode != http.StatusOK {
					t.Errorf("status %d", res.StatusCode)
				}
			})
		}
	}
}

func TestDocumentationListsEveryJobEndpoint(t *testing.T) {
	raw, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range (&Server{}).endpoints() {
		if line := "`" + e.methods[0] + " /" + e.name + "`"; e.isPath() && !strings.Contains(string(raw), line) {
			t.Errorf("it does not list %s", line)
		}
	}
}

// Endpoints that clients reach by host names keep them. New ones have none: their
// names are common words that end the host names of other programs, too.
func TestNewEndpointsHaveNoHostNames(t *testing.T) {
	old := []string{
		"health", "generate_game", "prewarm_sandbox", "test_sandbox_io", "test_gvisor", "test_volume", "test_stream", "test_deep", "test_auth",
		"get_file", "list_files", "apply_files", "get_skill_content", "preview_link",
	}
	table := (&Server{}).endpoints()
	routes := newRoutes(table)
	for _, e := range table {
		host := "acme--dreamcore-" + strings.ReplaceAll(e.name, "_", "-") + ".modal.run"
		if _, found := routes.find(host, "/"); found != slices.Contains(old, e.name) {
			t.Errorf("%s: found %v at %s", e.name, found, host)
		}
		if !strings.Contains(e.name, "{") {
			if got, found := routes.find("", "/"+e.name); !found || got.name != e.name {
				t.Errorf("%s: found %v", e.name, found)
			}
		}
	}
}

func TestPathPatterns(t *testing.T) {
	r := newRoutes([]endpoint{{name: "jobs/{id}"}, {name: "jobs/{id}/events"}, {name: "jobs/list"}, {name: "a/{x}/b/{y}"}})
	for path, want := range map[string]string{
		"/jobs/1": "jobs/{id} id=1", "/jobs/1/events": "jobs/{id}/events id=1", "/a/1/b/2": "a/{x}/b/{y} x=1 y=2", "/jobs/{id}": "jobs/{id} id={id}",
		"/jobs": "", "/jobs/": "", "/jobs//events": "", "/jobs/1/": "", "//jobs/1": "", "/jobs/1/events/": "", "/jobs/1/other": "", "/a/1/b": "",
	} {
		got := ""
		for _, host := range []string{"", "acme--dreamcore-generate-game.modal.run"} {
			if found, ok := r.find(host, path); ok {
				got = found.name
				for _, name := range slices.Sorted(maps.Keys(found.values)) {
					got += " " + name + "=" + found.values[name]
				}
			}
			if got != want {
				t.Errorf("%s%s: found %q, want %q", host, path, got, want)
			}
		}
	}
}

func TestUnknownAddressesAreNotFound(t *testing.T) {
	sv := start(t, options{})
	tests := []struct{ host, path string }{
		{"", "/"},
		{"", "/nothing"},
		{"", "/health/"},
		{"", "//health"},
		{"", "/test_sandbox-io"},
		{"", "/generate_game/../health"},
		{"", "/" + strings.Repeat("x", 5000)},
		{"health.example.com", "/"},
		{"-health.example.com", "/"},
		{"xhealth.example.com", "/"},
		{"acme.dreamcore-health.example.com", "/"},
		{"acme--dreamcore-health.example.com", "/nothing"},
		{"[::1]:8080", "/"},
	}
	for _, tt := range tests {
		t.Run(tt.host+tt.path[:min(len(tt.path), 40)], func(t *testing.T) {
			req := sv.request(http.MethodPost, tt.path, "{}")
			req.Header.Del(SecretHeader) // unknown addresses need no secret
			req.Host = tt.host
			status, _, body := object(t, sv.do(req))
			if status != http.StatusNotFound || body["error"] != "Not found" {
				t.Errorf("status %d, %v", status, body)
			}
		})
	}
}

func TestWrongMethodIsRefusedWithAllow(t *testing.T) {
	sv := start(t, options{})
	tests := []struct{ method, path, allow string }{
		{"GET", "/generate_game", "POST"},
		{"HEAD", "/test_auth", "POST"},
		{"OPTIONS", "/test_stream", "POST"},
		{"PUT", "/test-volume", "POST"},
		{"POST", "/health", "GET, HEAD"},
		{"BREW", "/health", "GET, HEAD"},
	}
	for _, tt := range tests {
		t.Run(tt.method+tt.path, func(t *testing.T) {
			res := sv.do(sv.request(tt.method, tt.path, ""))
			if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != tt.allow {
				t.Errorf("status %d, Allow %q", res.StatusCode, res.Header.Get("Allow"))
			}
			if tt.method != "HEAD" {
				object(t, res)
			}
		})
	}
}

func TestShorterNameDoesNotHideALongerOne(t *testing.T) {
	r := newRoutes([]endpoint{{name: "file"}, {name: "get_file"}, {name: "stream"}, {name: "test_stream"}})
	for host, want := range map[string]string{
		"a-file.x": "file", "a-get-file.x": "get_file", "a-test-stream.x": "test_stream", "a-stream": "stream",
	} {
		if got, ok := r.findHost(host); !ok || got.name != want {
			t.Errorf("%s: found %v", host, got.endpoint)
		}
	}
}

func FuzzFindHost(f *testing.F) {
	for _, host := range []string{
		"acme--dreamcore-test-sandbox-io.modal.run", "a-health:80", "[::1]:80", "", ".", "-health", "a-health.",
		"\x00-health.x", "ſ-health", "K-HEALTH.x", strings.Repeat("-health", 1000),
	} {
		f.Add(host)
	}
	r := newRoutes((&Server{}).endpoints())
	f.Fuzz(func(t *testing.T, host string) {
		got, ok := r.find(host, "/")
		if !ok {
			return
		}
		label, _, _ := strings.Cut(host, ".")
		dashes := "-" + strings.ReplaceAll(got.name, "_", "-")
		if !strings.Contains(strings.ToLower(label), dashes) || got.form != formHost {
			t.Errorf("%q is taken for %s", host, got.name)
		}
		if _, ok := r.find(host, "/nothing"); ok {
			t.Errorf("%q answers under any path", host)
		}
	})
}

func FuzzFindPath(f *testing.F) {
	for _, path := range []string{"/jobs/1", "/jobs/1/events", "/jobs//cancel", "//jobs/1", "/jobs/../x", "/jobs/{id}", "*", "", "/jobs/\x00/events", strings.Repeat("/", 1000)} {
		f.Add(path)
	}
	r := newRoutes((&Server{}).endpoints())
	f.Fuzz(func(t *testing.T, path string) {
		got, ok := r.findPattern(path)
		if !ok {
			return
		}
		// The path must follow from the result.
		again := "/" + got.name
		for name, value := range got.values {
			if value == "" || strings.Contains(value, "/") {
				t.Errorf("%q: %s is %q", path, name, value)
			}
			again = strings.Replace(again, "{"+name+"}", value, 1)
		}
		if strings.TrimPrefix(again, "/") != strings.TrimPrefix(path, "/") {
			t.Errorf("%q is taken for %s %v", path, got.name, got.values)
		}
	})
}
