package disk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestCheck(t *testing.T) {
	needDisks(t)
	dir := t.TempDir()
	if err := Check(t.Context(), dir); err != nil {
		t.Fatal(err, dreamcore.HintOf(err))
	}
	wantNothingLeft(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Check(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Fatalf("left %v", left)
	}
	err := Check(t.Context(), filepath.Join(dir, "missing"))
	wantError(t, err, dreamcore.CodeInternal, "try a bounded disk", "state directory")
}
