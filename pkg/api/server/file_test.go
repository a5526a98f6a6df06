package server

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// openVolumes returns a store in a temporary directory whose projects belong to
// the current user.
func openVolumes(t testing.TB) *volume.Store {
	t.Helper()
	s, err := volume.Open(filepath.Join(t.TempDir(), "volumes"), volume.Options{UID: os.Geteuid(), GID: os.Getegid()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if _, err := s.Create(volume.Data); err != nil {
		t.Fatal(err)
	}
	return s
}

// aGame returns a store with a game in the tests' project.
func aGame(t testing.TB) *volume.Store {
	s := openVolumes(t)
	withFiles(t, s, map[string]string{"index.html": "<p>a game"})
	return s
}

// withFiles writes files to the tests' project.
func withFiles(t testing.TB, s *volume.Store, files map[string]string) string {
	t.Helper()
	p, err := s.Project(dreamcore.UserID(user), dreamcore.ProjectID(projectID))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for name, text := range files {
		full := filepath.Join(p.Path(), name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return p.Path()
}

func fileServer(t *testing.T) (get func(path string, query ...string) (*http.Response, string), store *volume.Store) {
	t.Helper()
	store = openVolumes(t)
	h := start(t, options{config: func(c *Config) { c.Projects = store }})
	return func(path string, query ...string) (*http.Response, string) {
		t.Helper()
		q := url.Values{"user_id": {user}, "project_id": {projectID}}
		for i := 0; i+1 < len(query); i += 2 {
			q.Set(query[i], query[i+1])
		}
		req, err := http.NewRequest(http.MethodGet, h.url+path+"?"+q.Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Modal-Secret", secret)
		resp, err := h.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, strings.TrimSpace(string(raw))
	}, store
}

func TestListFilesListsVisibleFiles(t *testing.T) {
	get, store := fileServer(t)
	if resp, body := get("/list_files"); resp.StatusCode != 404 || body != `{"error":"Project not found","files":[]}` {
		t.Errorf("no project: %s %s", resp.Status, body)
	}
	dir := withFiles(t, store, map[string]string{"index.html": "x", "assets/a.png": "x", ".git/config": "x", "assets/.hidden": "x"})
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	resp, body := get("/list-files")
	var got struct{ Files []string }
	if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s %s", resp.Status, body)
	}
	slices.Sort(got.Files)
	if !slices.Equal(got.Files, []string{"assets/a.png", "index.html"}) {
		t.Errorf("files: %v", got.Files)
	}
	for _, bad := range []string{"..", "../../etc", "{" + user + "}", user + "\x00"} {
		if resp, body := get("/list_files", "user_id", bad); resp.StatusCode != 400 || !strings.Contains(body, "Invalid user_id: must be UUID format") {
			t.Errorf("user %q: %s %s", bad, resp.Status, body)
		}
	}
}

func TestGetFileFollowsTheContract(t *testing.T) {
	get, store := fileServer(t)
	if resp, body := get("/get_file"); resp.StatusCode != 404 || !strings.Contains(body, `"error":"Project not found"`) {
		t.Errorf("no project: %s %s", resp.Status, body)
	}
	dir := withFiles(t, store, map[string]string{"game.js": "let a", "data.bin": "\x00\x01", "notes.txt": "n"})
	if resp, body := get("/get_file", "path", "index.html"); resp.StatusCode != 404 || !strings.Contains(body, `"error":"No HTML file found"`) {
		t.Errorf("no page: %s %s", resp.Status, body)
	}
	withFiles(t, store, map[string]string{"other.html": "<p>other"})
	for _, tt := range []struct{ path, body, kind, cache string }{
		{"index.html", "<p>other", "text/html; charset=utf-8", "no-store"},
		{"", "<p>other", "text/html; charset=utf-8", "no-store"},
		{"game.js", "let a", "text/javascript; charset=utf-8", "private, max-age=3600"},
		{"notes.txt", "n", "text/plain; charset=utf-8", "no-cache"},
	} {
		resp, body := get("/get_file", "path", tt.path)
		h := resp.Header
		if resp.StatusCode != 200 || body != tt.body || h.Get("Content-Type") != tt.kind || h.Get("Cache-Control") != tt.cache || h.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %s %q %v", tt.path, resp.Status, body, h)
		}
	}
	if resp, body := get("/get_file", "path", "missing.js"); resp.StatusCode != 404 || !strings.Contains(body, `"error":"File not found"`) {
		t.Errorf("a missing file: %s %s", resp.Status, body)
	}
	if err := errors.Join(os.Symlink("/etc/passwd", filepath.Join(dir, "link.txt")), os.Symlink("/etc", filepath.Join(dir, "up")), syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"../../../../etc/passwd", "/etc/passwd", "a/../../x", "..", "link.txt", "up/passwd", "fifo", "a\x00b", "%2e%2e/x", `..\x`, "."} {
		resp, body := get("/get_file", "path", bad)
		if resp.StatusCode != 400 && resp.StatusCode != 404 || strings.Contains(body, "root:") {
			t.Errorf("%q: %s %.100q", bad, resp.Status, body)
		}
	}
	if resp, body := get("/get_file", "path", "../x"); resp.StatusCode != 400 || !strings.Contains(body, `"error":"Invalid file path"`) {
		t.Errorf("a path that leaves the project: %s %s", resp.Status, body)
	}
}

func TestGetFileAcceptsPathsLikeTheOldBackend(t *testing.T) {
	get, store := fileServer(t)
	withFiles(t, store, map[string]string{"index.html": "<p>page", "assets/a.js": "let a", " ": "space"})
	for path, want := range map[string]string{
		"/index.html": "<p>page", "//index.html": "<p>page", "/": "<p>page", "/assets/a.js": "let a", "./assets//a.js": "let a", " ": "space",
	} {
		if resp, body := get("/get_file", "path", path); resp.StatusCode != 200 || body != want {
			t.Errorf("%q: %s %q", path, resp.Status, body)
		}
	}
	for path, status := range map[string]int{
		"/../x": 400, "//..": 400, "/.": 400, "assets": 404, "assets/": 404, "/assets": 404, "  ": 404, "/etc/passwd": 404, "INDEX.HTML": 404,
	} {
		if resp, body := get("/get_file", "path", path); resp.StatusCode != status {
			t.Errorf("%q: %s %q", path, resp.Status, body)
		}
	}
}

func TestConflictingParametersAreRefused(t *testing.T) {
	store := aGame(t)
	h := start(t, options{config: func(c *Config) { c.Projects = store }})
	for query, status := range map[string]int{
		"user_id=x&user_id=" + user + "&project_id=" + projectID:                            400,
		"user_id=" + user + "&user_id=" + user + "&project_id=" + projectID:                 200,
		"user_id=" + user + "&user_id=x&project_id=" + projectID:                            400,
		"user_id=" + strings.ToUpper(user) + "&project_id=" + strings.ToUpper(projectID):    200,
		"user_id=" + strings.ReplaceAll(user, "-", "%2D") + "&project_id=" + projectID:      200,
		"user_id=" + user + "&project_id=" + projectID + "&path=missing.js&path=index.html": 400,
		"user_id=" + user + "&project_id=" + projectID + "&path=index.html&path=missing.js": 400,
		"user_id=" + user + "&project_id=" + projectID + "&path=%zz":                        400,
		"user_id=" + user + "%20&project_id=" + projectID:                                   400,
		"user_id=&project_id=" + projectID:                                                  400,
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			req := h.request(method, "/get_file?"+query, "")
			req.Body, req.ContentLength = nil, 0
			if res := h.do(req); res.StatusCode != status {
				t.Errorf("%s %s: %s", method, query, res.Status)
			}
		}
	}
}
