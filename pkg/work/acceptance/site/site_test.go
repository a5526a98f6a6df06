package site

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// project writes files; a value that begins with "-> " is a symbolic link.
func project(t *testing.T, files map[string]string) *httptest.Server {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(to, file)
		} else {
			err = os.WriteFile(file, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo.html.fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(Handler(root))
	t.Cleanup(func() {
		srv.Close()
		root.Close()
	})
	return srv
}

func TestFilesAreServedAsInPreviews(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	srv := project(t, map[string]string{
		"index.html": "<p>index", "js/game.mjs": "1", "a b.css": "p{}", "sub/index.html": "<p>sub", "wasm.wasm": "x",
		".secret/x.js": "x", "out": "-> " + secret, "up": "-> ../..", "in.html": "-> index.html",
	})
	for path, want := range map[string]struct {
		status int
		kind   string
		body   string
	}{
		"/":                    {200, "text/html; charset=utf-8", "<p>index"},
		"/?x=1":                {200, "text/html; charset=utf-8", "<p>index"},
		"/js/game.mjs":         {200, "text/javascript; charset=utf-8", "1"},
		"/a%20b.css":           {200, "text/css; charset=utf-8", "p{}"},
		"/wasm.wasm":           {200, "application/wasm", "x"},
		"/sub/":                {200, "text/html; charset=utf-8", "<p>sub"},
		"/sub":                 {200, "text/html; charset=utf-8", "<p>sub"},
		"/in.html":             {200, "text/html; charset=utf-8", "<p>index"},
		"/missing.js":          {404, "", ""},
		"/js/":                 {404, "", ""},
		"/.secret/x.js":        {404, "", ""},
		"/out":                 {404, "", ""},
		"/up/etc/passwd":       {404, "", ""},
		"/..%2f..%2fetc/hosts": {404, "", ""},
		"/fifo.html.fifo":      {404, "", ""},
		"/a%00b":               {404, "", ""},
	} {
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want.status || string(body) != want.body || want.kind != "" && resp.Header.Get("Content-Type") != want.kind || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %q %v", path, resp.StatusCode, body, resp.Header)
		}
	}
}

func TestTheFirstPageStandsForTheIndex(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"/game.html":         {"assets/credits.html": "", "game.html": "", "zoo.html": ""},
		"/a/b.html":          {"a/b.html": "", "c/d.html": "", "x.js": ""},
		"/with%20space.html": {"with space.html": ""},
		"":                   {"x.js": "", ".hidden.html": "", ".hidden/a.html": "", "a/.b/c.html": "", "a.htm": ""},
	} {
		srv := project(t, files)
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		resp, err := client.Get(srv.URL + "/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Location"); got != want || (want == "") != (resp.StatusCode == 404) {
			t.Errorf("%q: %q %d", want, got, resp.StatusCode)
		}
	}
}

func TestMainServesUntilItsContextEnds(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Main(ctx, dir, w) }()
	line := make([]byte, 100)
	n, err := r.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	l, err := verdict.Parse(bytes.TrimSpace(line[:n]))
	if err != nil || l.Port == 0 {
		t.Errorf("%q: %+v %v", line[:n], l, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
