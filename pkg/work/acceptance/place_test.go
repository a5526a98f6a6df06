package acceptance_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

func TestADirectoryIsCheckedInASandboxOfItsOwn(t *testing.T) {
	engines(t, func(t *testing.T, p sandbox.Provider, root sandbox.Root, file string) {
		game := t.TempDir()
		if err := os.WriteFile(filepath.Join(game, "index.html"), []byte("<canvas>"), 0o600); err != nil { // only its owner may read it
			t.Fatal(err)
		}
		if err := os.Symlink("/etc/passwd", filepath.Join(game, "secret.txt")); err != nil {
			t.Fatal(err)
		}
		place := acceptance.Place{Sandboxes: p, Root: root, CheckFile: file, Dir: t.TempDir()}
		r, err := place.Check(t.Context(), acceptance.Directory(game), settings)
		if err != nil || r.Verdict != verdict.Passed {
			t.Errorf("%+v, %v", r, err)
		}
		if r, err := place.Check(t.Context(), acceptance.Directory(t.TempDir()), settings); r.Verdict != verdict.Unknown || dreamcore.ReasonOf(err) != acceptance.ReasonServe {
			t.Errorf("without a page: %+v, %v", r, err)
		}
		if r, err := place.Check(t.Context(), acceptance.Directory(filepath.Join(game, "missing")), settings); r.Verdict != verdict.Unknown || dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("a directory that is not there: %+v, %v", r, err)
		}
		if left, err := os.ReadDir(place.Dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}

func TestACheckNeedsItsProgram(t *testing.T) {
	r, err := acceptance.Place{Dir: t.TempDir()}.Check(t.Context(), acceptance.Directory(t.TempDir()), settings)
	if r.Verdict != verdict.Unknown || dreamcore.ReasonOf(err) != acceptance.ReasonMissing {
		t.Errorf("%+v, %v", r, err)
	}
}
