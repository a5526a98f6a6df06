package daemon

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/config"
)

// The documented examples of upstreams work as they are: they have no fault, and
// each upstream has a name for the model that the agent asks for.
func TestDocumentedUpstreamsAreValid(t *testing.T) {
	found := 0
	for _, page := range []string{"../docs/model.md", "../docs/configure.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(block[1], "upstreams:") {
				continue
			}
			found++
			file := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(file, []byte(block[1]), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := config.Load(config.Sources{File: file})
			if err != nil {
				t.Fatalf("%s: %v", page, err)
			}
			if faults := unmapped(c); len(faults) > 0 {
				t.Errorf("%s: %v", page, faults)
			}
			if len(agentEnv(c)) == 0 {
				t.Errorf("%s: the agent is not adapted to the clouds", page)
			}
			c.Model = ""
			if faults := unmapped(c); len(faults) == 0 {
				t.Errorf("%s: it is not reported that the agent's own model has no name", page)
			}
		}
	}
	if found == 0 {
		t.Error("no example was found")
	}
}
