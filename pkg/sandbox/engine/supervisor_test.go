package engine

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// TestTheEmbeddedSupervisorMatchesTheSources finds a supervisor that was built
// before its sources changed: it could speak an older protocol. The sum is
// computed as in scripts/supervisor.sh.
func TestTheEmbeddedSupervisorMatchesTheSources(t *testing.T) {
	matches(t, SupervisorName, "sources.sum", "../pid1/*.go", "../*.go", "../gvisor/boot/*.go", "../../../cmd/dreamcore-init/*.go")
}

// TestTheEmbeddedCheckMatchesTheSources does the same for the check of games.
func TestTheEmbeddedCheckMatchesTheSources(t *testing.T) {
	matches(t, "dreamcore-check", "check.sum", "../../work/acceptance/*/*.go", "../../work/acceptance/browser/*.js",
		"../../system/mediatype/*.go", "../../../cmd/dreamcore-check/*.go")
}

func matches(t *testing.T, program, sum string, patterns ...string) {
	t.Helper()
	dir := path.Join("embedded", runtime.GOARCH)
	_, err := embedded.ReadFile(path.Join(dir, program))
	sandboxtest.Need(t, err == nil, program+", which scripts/build.sh embeds")
	was, err := embedded.ReadFile(path.Join(dir, sum))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, pattern := range patterns {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
	var sums []string
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, fmt.Sprintf("%x\n", sha256.Sum256(raw)))
	}
	slices.Sort(sums)
	if is := fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(sums, "")))); is != strings.TrimSpace(string(was)) {
		t.Errorf("the embedded %s is older than its sources: run scripts/build.sh", program)
	}
}
