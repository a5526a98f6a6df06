package volume

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestPutFilesCanBeReadAndNotWrittenByOthers: a sandbox reads the skills that
// somebody with a careful umask has put, and what comes out of a project is not
// writable for all because its maker wanted it so.
func TestPutFilesCanBeReadAndNotWrittenByOthers(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, c := range map[string]struct{ mode, want fs.FileMode }{
		"a/b/private":  {0o600, 0o644},
		"a/open":       {0o666, 0o644},
		"program":      {0o700, 0o755},
		"open program": {0o777, 0o755},
		"closed":       {0, 0o644},
		"d/e":          {fs.ModeDir | 0o777, fs.ModeDir | 0o755},
	} {
		if err := PutFile(t.Context(), root, Entry{Path: name, Mode: c.mode}, strings.NewReader("x"), false); err != nil {
			t.Fatal(err)
		}
		for at, want := name, c.want; at != "."; at, want = filepath.Dir(at), fs.ModeDir|0o755 {
			if info, err := os.Lstat(filepath.Join(dir, at)); err != nil || info.Mode() != want {
				t.Errorf("%s: %v, want %v, %v", at, info.Mode(), want, err)
			}
		}
	}
	err = PutFile(t.Context(), root, Entry{Path: "closed", Mode: 0o644}, strings.NewReader("y"), false)
	if err == nil || errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
}
