package project

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree/treetest"
)

// newDirectory opens a new directory with files as a project.
func newDirectory(t *testing.T, files map[string]string) (*volume.Project, string) {
	t.Helper()
	dir := t.TempDir()
	treetest.Write(t, dir, files)
	p, err := volume.OpenDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p, dir
}

// ask requests a file with the given headers.
func ask(t *testing.T, p *volume.Project, method, name string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	f, err := Open(p, name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := httptest.NewRequest(method, "/", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	f.Serve(w, r)
	return w
}

func TestServeHandlesRangesConditionsAndHead(t *testing.T) {
	p, _ := newDirectory(t, map[string]string{"a.js": "0123456789"})
	time.Sleep(2 * TagDelay)
	w := ask(t, p, "GET", "a.js")
	tag := w.Header().Get("ETag")
	if w.Code != 200 || w.Body.String() != "0123456789" || tag == "" || w.Header().Get("Content-Type") != "text/javascript; charset=utf-8" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
		t.Fatal(w.Code, w.Body, w.Header())
	}
	for _, c := range []struct {
		method  string
		headers []string
		code    int
		body    string
	}{
		{"HEAD", nil, 200, ""},
		{"GET", []string{"Range", "bytes=2-4"}, 206, "234"},
		{"GET", []string{"Range", "bytes=20-"}, 416, "invalid range: failed to overlap\n"},
		{"GET", []string{"If-None-Match", tag}, 304, ""},
		{"GET", []string{"If-None-Match", `"other"`}, 200, "0123456789"},
		{"GET", []string{"If-Range", `"other"`, "Range", "bytes=2-4"}, 200, "0123456789"},
		{"GET", []string{"If-Match", `"other"`}, 412, ""},
	} {
		if w := ask(t, p, c.method, "a.js", c.headers...); w.Code != c.code || w.Body.String() != c.body {
			t.Errorf("%s %q: %d %q", c.method, c.headers, w.Code, w.Body)
		}
	}
}

// TestAChangedFileIsNeverUnchanged: neither a file that changed within the same
// second, nor one whose time was set back.
func TestAChangedFileIsNeverUnchanged(t *testing.T) {
	p, dir := newDirectory(t, map[string]string{"a.js": "one"})
	old := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := os.Chtimes(filepath.Join(dir, "a.js"), old, old); err != nil {
		t.Fatal(err)
	}
	if w := ask(t, p, "GET", "a.js"); w.Header().Get("ETag") != "" {
		t.Error("a tag of a file that may still change:", w.Header())
	}
	time.Sleep(2 * TagDelay)
	tag := ask(t, p, "GET", "a.js").Header().Get("ETag")
	treetest.Write(t, dir, map[string]string{"a.js": "two"}) // the same size as before, and the same time
	if err := os.Chtimes(filepath.Join(dir, "a.js"), old, old); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * TagDelay)
	for _, headers := range [][]string{
		{"If-None-Match", tag},
		{"If-Modified-Since", time.Now().UTC().Format(http.TimeFormat)},
		{"If-Modified-Since", old.Format(http.TimeFormat)},
		{"If-Range", old.Format(http.TimeFormat), "Range", "bytes=1-"},
	} {
		if w := ask(t, p, "GET", "a.js", headers...); w.Code != 200 || w.Body.String() != "two" {
			t.Errorf("%q: %d %q", headers, w.Code, w.Body)
		}
	}
}

func TestOpenRefusesEverythingButRegularFiles(t *testing.T) {
	p, dir := newDirectory(t, map[string]string{"d/a": "x"})
	if err := os.Symlink("d/a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, code := range map[string]dreamcore.Code{
		"link": dreamcore.CodeNotFound, "fifo": dreamcore.CodeNotFound, "d": dreamcore.CodeNotFound, "no": dreamcore.CodeNotFound,
		"../x": dreamcore.CodeInvalid, "/etc/passwd": dreamcore.CodeInvalid, "": dreamcore.CodeInvalid,
	} {
		if f, err := Open(p, name); dreamcore.CodeOf(err) != code {
			t.Errorf("%q: %v %v", name, f, err)
		}
	}
}

func TestFirstPage(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"game.html":       {"assets/credits.html": "", "game.html": "", "zoo.html": ""},
		"a/b.html":        {"a/b.html": "", "c/d.html": "", "x.js": ""},
		"":                {"x.js": "", ".hidden.html": "", ".hidden/a.html": "", "a/.b/c.html": "", "a.htm": ""},
		"with space.html": {"with space.html": ""},
	} {
		p, _ := newDirectory(t, files)
		got, err := FirstPage(t.Context(), p)
		if got != want || (want == "") != (dreamcore.CodeOf(err) == dreamcore.CodeNotFound) {
			t.Errorf("%q: %q %v", want, got, err)
		}
	}
}
