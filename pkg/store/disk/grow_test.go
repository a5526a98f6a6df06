package disk

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestADiskGrowsAndDoesNotShrink(t *testing.T) {
	s := newStore(t)
	dir := filepath.Dir(s.opts.Images)
	path, release := acquire(t, s, key)
	write(t, filepath.Join(path, "kept"), "text")
	larger := openStore(t, dir, sized(96<<20))
	_, second := acquire(t, larger, key) // in use: it grows at a later use
	second()
	release()
	if err := errors.Join(s.Close(), larger.Close()); err != nil {
		t.Fatal(err)
	}
	larger = openStore(t, dir, sized(96<<20))
	path, release = acquire(t, larger, key)
	if got := fillUp(t, filepath.Join(path, "big")); got < 70<<20 || got > 96<<20 {
		t.Fatalf("%d bytes fit", got)
	}
	wantText(t, filepath.Join(path, "kept"), "text")
	if out, err := checkFS(larger, release); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// A process died after it had grown the file, but not the file system.
	if err := os.Truncate(s.file(key, imageExtension), 128<<20); err != nil {
		t.Fatal(err)
	}
	cut := openStore(t, dir, sized(128<<20))
	path, release = acquire(t, cut, key)
	if got := fillUp(t, filepath.Join(path, "more")); got < 20<<20 {
		t.Fatalf("only %d more bytes fit", got)
	}
	release()
	cut.Close()
	var log bytes.Buffer
	smaller := openStore(t, dir, logTo(&log))
	path, release = acquire(t, smaller, key)
	defer release()
	wantText(t, filepath.Join(path, "kept"), "text")
	if !strings.Contains(log.String(), "do not shrink") {
		t.Fatalf("log: %s", &log)
	}
	if out, err := checkFS(smaller, release); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// checkFS releases a disk, closes its Store and runs e2fsck.
func checkFS(s *Store, release func()) ([]byte, error) {
	release()
	if err := s.Close(); err != nil {
		return nil, err
	}
	e2fsck, err := lookPath("e2fsck")
	if err != nil {
		return nil, err
	}
	return exec.Command(e2fsck, "-f", "-n", s.file(key, imageExtension)).CombinedOutput()
}

func TestADamagedDiskIsReportedWithTheRepairCommand(t *testing.T) {
	s := newStore(t)
	_, release := acquire(t, s, key)
	release()
	s.Close()
	image := s.file(key, imageExtension)
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt(make([]byte, 4096), 1024)
	f.Close()
	again := openStore(t, filepath.Dir(s.opts.Images))
	_, _, err = again.Acquire(t.Context(), key)
	wantError(t, err, dreamcore.CodeSetup, "damaged", "e2fsck -f "+image)
	wantNothingLeft(t, filepath.Dir(s.opts.Images))
}
