package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestEveryCommandHasAManualPage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man1")
	c := newCLI(t)
	out := c.must("man", dir, "--date", "2026-11-01", "--json")
	if _, err := os.Stat(c.state); err == nil {
		t.Error("a state directory was created")
	}
	n := 0
	for _, command := range runnable(testRoot()) {
		path := command.CommandPath()
		n++
		file := filepath.Join(dir, strings.ReplaceAll(path, " ", "-")+".1")
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if !bytes.HasPrefix(raw, []byte(".TH")) || !bytes.Contains(raw, []byte("2026\\-11\\-01")) || !bytes.Contains(raw, []byte(".SH \"EXAMPLES\"")) {
			t.Errorf("%s:\n%s", path, raw)
		}
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) < n || !strings.Contains(out, fmt.Sprintf(`"pages":%d}`, len(pages))) {
		t.Errorf("%d pages of %d commands: %s", len(pages), n, out)
	}
	again := t.TempDir()
	c.must("man", again, "--date", "2026-11-01")
	for _, page := range pages {
		first, err := os.ReadFile(page)
		second, err2 := os.ReadFile(filepath.Join(again, filepath.Base(page)))
		if err != nil || err2 != nil || !bytes.Equal(first, second) {
			t.Errorf("%s differs: %v, %v", page, err, err2)
		}
	}
	if _, _, err := c.run("man", dir, "--date", "soon"); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("a date that is none: %v", err)
	}
}

// The formatter of man must have nothing to say about a page, and show the help as it
// is.
func TestManualPagesAreValid(t *testing.T) {
	groff, err := exec.LookPath("groff")
	sandboxtest.Need(t, err == nil, "groff")
	dir := t.TempDir()
	newCLI(t).must("man", dir)
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	// All at once: a formatter for each page takes long. -ww warns of all it can.
	cmd := exec.Command(groff, append([]string{"-man", "-K", "utf-8", "-T", "utf8", "-ww", "-z"}, pages...)...)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
	shown, err := exec.Command(groff, "-man", "-K", "utf-8", "-T", "ascii", "-P-cbou", "-rLL=200n", filepath.Join(dir, "dreamcore-serve.1")).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"dreamcore serve [flags]", "--allow-unlimited", "--dev", "SIGHUP reads the configuration", "sudo dreamcore serve --model-script demo --dev", "dreamcore(1)"} {
		if !strings.Contains(string(shown), want) {
			t.Errorf("the page of serve has no %q:\n%s", want, shown)
		}
	}
}
