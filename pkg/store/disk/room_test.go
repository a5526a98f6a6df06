package disk

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestCheckRoomCountsTheUnallocatedPartOfTheImage(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to mount")
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	images := filepath.Join(dir, "not/yet")
	s, err := New(Options{Images: images, Mounts: filepath.Join(dir, "m"), Bytes: 48 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	check := func(spare int64, want dreamcore.Code) {
		t.Helper()
		err := s.CheckRoom("u", spare)
		if (err == nil) != (want == "") || err != nil && (dreamcore.CodeOf(err) != want || dreamcore.HintOf(err) == "") {
			t.Errorf("CheckRoom: %v", err)
		}
	}
	check(0, "")
	check(32<<20, dreamcore.CodeSetup)
	if err := os.MkdirAll(images, 0o700); err != nil {
		t.Fatal(err)
	}
	// Allocated space is not needed again.
	if err := os.WriteFile(filepath.Join(images, "u"+imageExtension), make([]byte, 20<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	check(0, "")
	if err := os.WriteFile(filepath.Join(dir, "other"), make([]byte, 30<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	check(0, dreamcore.CodeSetup)
	if err := s.CheckRoom("../u", 0); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("a bad name: %v", err)
	}
}
