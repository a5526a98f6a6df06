package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

func TestWatcherNoticesWhichFileHasChanged(t *testing.T) {
	s := testState(t, nil)
	if _, err := s.Volumes.Create(volume.Global); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w := &watcher{
		service: &Service{Machine: &Machine{Model: &Model{state: s}}},
		file:    filepath.Join(dir, "config.yaml"), cfg: config.Config{ModelScript: filepath.Join(dir, "script.json")},
	}
	global, err := s.Volumes.Path(volume.Global)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ file, want string }{
		{w.file, "configuration"},
		{w.cfg.ModelScript, "model script"},
		{filepath.Join(global, ".claude/skills/new.md"), "skills"},
	} {
		before := w.stamp()
		if before != w.stamp() {
			t.Errorf("%s: a stamp of unchanged files differs", tt.want)
		}
		if err := os.MkdirAll(filepath.Dir(tt.file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(tt.file, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		after := w.stamp()
		if after == before || after.diff(before) != tt.want {
			t.Errorf("%s: %q", tt.want, after.diff(before))
		}
	}
}
