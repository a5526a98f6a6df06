package archive

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestForgottenImportsLeaveTheDisk(t *testing.T) {
	const user, other = dreamcore.UserID("a11ce000-0000-4000-8000-000000000001"), dreamcore.UserID("b0b00000-0000-4000-8000-000000000002")
	const first, second = dreamcore.ProjectID("33333333-3333-4333-8333-333333333333"), dreamcore.ProjectID("44444444-4444-4444-8444-444444444444")
	state := t.TempDir()
	if err := Forget(state, user, ""); err != nil {
		t.Errorf("nothing was ever imported: %v", err)
	}
	file := func(u dreamcore.UserID, p dreamcore.ProjectID) string {
		return filepath.Join(state, importsDir, string(u), string(p)+".json")
	}
	for _, f := range []string{file(user, first), file(user, second), file(other, first)} {
		if err := os.MkdirAll(filepath.Dir(f), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	left := func() int {
		files, err := filepath.Glob(filepath.Join(state, importsDir, "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	for _, step := range []struct {
		project dreamcore.ProjectID
		left    int
	}{{first, 2}, {first, 2}, {"", 1}, {first, 1}, {"", 1}} {
		if err := Forget(state, user, step.project); err != nil || left() != step.left {
			t.Errorf("%q: %d files are left, %v", step.project, left(), err)
		}
	}
}
