package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// A completion changes nothing, least of all a directory that is not a state directory.
func TestCompletionsMakeNothingInForeignDirectories(t *testing.T) {
	for _, command := range [][]string{{"users", "show"}, {"projects", "show"}, {"export"}, {"preview"}, {"preview", "--endpoint", "http://127.0.0.1:1"}} {
		c := newCLI(t)
		if err := os.Mkdir(c.state, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(c.state, "notes.txt"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		c.must(append(append([]string{"__complete"}, command...), "")...)
		entries, err := os.ReadDir(c.state)
		if err != nil || len(entries) != 1 {
			t.Errorf("%q: %q, %v", command, entries, err)
		}
	}
}

func TestUsersAreListedWithAWarningIfTheServiceDoesNotAnswer(t *testing.T) {
	c := newCLI(t)
	c.must("volume", "create", volume.Data)
	if _, errOut, err := c.run("users", "list"); err != nil || strings.Contains(errOut, "sandboxes") {
		t.Errorf("without a service: %q, %v", errOut, err)
	}
	dir := filepath.Join(c.state, daemon.RunDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir) // the whole path is too long for an address
	l, err := net.Listen("unix", control.SocketName)
	if err != nil {
		t.Fatal(err)
	}
	broken := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	if err := broken.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	broken.Listener = l
	broken.Start()
	defer broken.Close()
	if _, errOut, err := c.run("users", "list"); err != nil || !strings.Contains(errOut, "sandboxes are not shown") {
		t.Errorf("%q, %v", errOut, err)
	}
}
