// Package sandboxtest has what tests of sandboxes share: the contract of package
// sandbox as a suite that every engine passes, a Fake for tests without an
// engine, and the real program.
package sandboxtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Environment variables that configure tests.
const (
	// BinaryEnv is the path of a program that is already built, so that the tests
	// of many packages build it once.
	BinaryEnv = "DREAMCORE_TEST_BINARY"
	// NoSkipEnv, set to 1, turns the skip of a test that lacks something on the
	// machine into a failure.
	NoSkipEnv = "DREAMCORE_TEST_NO_SKIP"
)

// Binary returns the path of the real program, built without cgo: a test
// process with the race detector in it cannot become a sandbox. Without
// BinaryEnv it builds it into a temporary directory.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv(BinaryEnv); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "dreamcore")
	cmd := exec.Command("go", "build", "-o", path, "github.com/notef-neighbor/dreamcore/cmd/dreamcore")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
	return path
}

// Need skips the test if the machine lacks something, or fails it where skips are
// forbidden. A test that needs anything of the machine is not a unit test, so
// -short skips it too.
func Need(t testing.TB, ok bool, what string) {
	t.Helper()
	if testing.Short() {
		t.Skipf("needs %s, and -short is set", what)
	}
	if ok {
		return
	}
	if os.Getenv(NoSkipEnv) == "1" {
		t.Fatalf("this test needs %s, and skips are forbidden here", what)
	}
	t.Skipf("needs %s", what)
}
