package e2e

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

var initLine = regexp.MustCompile(`(?m)^init (\S+) @.*, (\d+) bytes, \d+ allocs$`)

// maxInit is what one package may allocate when the program starts.
const maxInit = 8 << 10

// The program is started for every part of every sandbox, and each of these processes
// keeps what its packages allocate at the start: tables and expressions that few of
// them need are made when they are first used.
func TestPackagesAllocateLittleAtTheStart(t *testing.T) {
	cmd := exec.Command(sandboxtest.Binary(t), "version")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	own := 0
	for _, m := range initLine.FindAllStringSubmatch(string(out), -1) {
		if !strings.HasPrefix(m[1], "github.com/notef-neighbor/dreamcore/") {
			continue
		}
		own++
		if n, err := strconv.Atoi(m[2]); err != nil || n > maxInit {
			t.Errorf("%s allocates %s bytes", m[1], m[2])
		}
	}
	if own == 0 {
		t.Errorf("no package is listed:\n%s", out)
	}
}
