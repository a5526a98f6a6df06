package acceptance_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance"
)

func TestABrowserIsFoundInTheRootOfSandboxes(t *testing.T) {
	tree := t.TempDir()
	for _, dir := range []string{"bin", "usr/bin", "usr/lib"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	installed := func() string {
		t.Helper()
		root, err := rootfs.Directory(filepath.Join(t.TempDir(), "root"), tree)
		if err != nil {
			t.Fatal(err)
		}
		return acceptance.Installed(root)
	}
	if got := installed(); got != "" { // whatever the host has
		t.Errorf("found %q in a tree without a browser", got)
	}
	if err := os.Symlink("/etc/alternatives/chromium", filepath.Join(tree, "usr/bin/chromium")); err != nil {
		t.Fatal(err)
	}
	if got := installed(); got != "/usr/bin/chromium" {
		t.Errorf("found %q", got)
	}
	if err := os.MkdirAll(filepath.Join(tree, "usr/lib/chromium"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "usr/lib/chromium/chromium-headless-shell"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := installed(); got != "/usr/lib/chromium/chromium-headless-shell" {
		t.Errorf("found %q", got)
	}
}
