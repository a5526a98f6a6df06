package client

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// filesServer lists files and serves each with its path as content.
func filesServer(t *testing.T, listed string) *Client {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/list_files" {
			_, _ = io.WriteString(w, listed)
			return
		}
		_, _ = io.WriteString(w, r.URL.Query().Get("path"))
	})
}

func TestDownloadCopiesAProject(t *testing.T) {
	dest, outside := filepath.Join(t.TempDir(), "game"), filepath.Join(t.TempDir(), "outside")
	if err := os.MkdirAll(dest, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(outside, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dest, "index.html")); err != nil {
		t.Fatal(err)
	}
	c := filesServer(t, `{"files":["index.html","js/a.js"],"left_out":1}`)
	copied, leftOut, err := c.Download(t.Context(), "u", "p", dest)
	if copied != 2 || leftOut != 1 || err != nil {
		t.Fatalf("%d, %d, %v", copied, leftOut, err)
	}
	for _, name := range []string{"index.html", "js/a.js"} {
		if raw, err := os.ReadFile(filepath.Join(dest, name)); err != nil || string(raw) != name {
			t.Errorf("%s: %q, %v", name, raw, err)
		}
	}
	if raw, err := os.ReadFile(outside); err != nil || string(raw) != "mine" {
		t.Errorf("the target of a link was changed: %q, %v", raw, err)
	}
}

func TestDownloadWritesNothingOutsideOfTheDestination(t *testing.T) {
	for _, name := range []string{"../evil", "/tmp/evil", "a/../../evil"} {
		dir := t.TempDir()
		_, _, err := filesServer(t, `{"files":["`+name+`"]}`).Download(t.Context(), "u", "p", filepath.Join(dir, "game"))
		if dreamcore.CodeOf(err) != dreamcore.CodeInternal {
			t.Errorf("%s: %v", name, err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("%s: %v", name, entries)
		}
	}
}
