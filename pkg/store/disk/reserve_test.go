package disk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// hostDisk makes a small disk that stands for the host's, with a Store on it.
func hostDisk(t *testing.T, options string, bytes int64) (dir string, s *Store) {
	t.Helper()
	needDisks(t)
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		wantNothingLeft(t, dir)
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir, openStore(t, dir, sized(bytes))
}

func free(t *testing.T, dir string) int64 {
	t.Helper()
	n, err := freeBelow(dir)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// fillHost takes all that is left of the disk that dir is on.
func fillHost(t *testing.T, dir string) (name string) {
	t.Helper()
	name = filepath.Join(dir, "other")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for chunk := make([]byte, 64<<10); len(chunk) > 0; {
		if _, err := f.Write(chunk); errors.Is(err, unix.ENOSPC) {
			chunk = chunk[:len(chunk)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// writeSynced writes n bytes and waits for the disk.
func writeSynced(dir, name string, n int) error {
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	_, err = f.Write(bytes.Repeat([]byte("dreamcore"), n/9))
	return errors.Join(err, f.Sync(), f.Close())
}

func TestReservedSpaceOutlastsAFullHost(t *testing.T) {
	dir, s := hostDisk(t, "size=96m", 32<<20)
	before := free(t, dir)
	release, err := s.Reserve(t.Context(), key, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if taken := before - free(t, dir); taken < 31<<20 {
		t.Errorf("only %d bytes are set aside", taken)
	}
	fillHost(t, dir)
	path, unuse := acquire(t, s, key)
	if err := writeSynced(path, "game", 20<<20); err != nil {
		t.Errorf("a program cannot write what was reserved: %v", err)
	}
	if err := Probe(path); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(path, "game")); err != nil {
		t.Fatal(err)
	}
	unuse()
	release()
	release()
	if got := free(t, dir); got < 20<<20 {
		t.Errorf("the space was not given back: %d bytes are free", got)
	}
}

func TestReservationsAddUp(t *testing.T) {
	dir, s := hostDisk(t, "size=96m", 32<<20)
	var releases []func()
	for _, key := range []string{"one", "two"} {
		release, err := s.Reserve(t.Context(), key, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		releases = append(releases, release)
	}
	if _, err := s.Reserve(t.Context(), "three", 16<<20); dreamcore.CodeOf(err) != dreamcore.CodeSetup {
		t.Errorf("a third one beyond the disk: %v", err)
	}
	// Twice the same one costs nothing more, and is held until both have ended.
	again, err := s.Reserve(t.Context(), "one", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	releases[0]()
	if _, err := s.Reserve(t.Context(), "three", 16<<20); err == nil {
		t.Error("what is reserved twice was given away at the first release")
	}
	again()
	release, err := s.Reserve(t.Context(), "three", 16<<20)
	if err != nil {
		t.Fatalf("what was given back cannot be reserved: %v, %d free", err, free(t, dir))
	}
	release()
	releases[1]()
}

func TestReservationIsGivenBackAgainAndAgain(t *testing.T) {
	dir, s := hostDisk(t, "size=96m", 32<<20)
	_, unuse := acquire(t, s, key) // it stays mounted, as with a sandbox that is kept
	defer unuse()
	before := free(t, dir)
	const tables = 14 << 20 // of the file system itself, at most: they stay until it is unmounted
	for range 3 {
		release, err := s.Reserve(t.Context(), key, 0)
		if err != nil {
			t.Fatal(err)
		}
		release()
		if got := free(t, dir); got < before-tables {
			t.Fatalf("%d bytes were free, and %d are", before, got)
		}
	}
}

func TestUnmountedImageIsSparseAgain(t *testing.T) {
	dir, s := hostDisk(t, "size=96m", 32<<20)
	path, unuse := acquire(t, s, key)
	if err := writeSynced(path, "game", 1<<20); err != nil {
		t.Fatal(err)
	}
	unuse()
	if err := s.Repair(t.Context(), key); err != nil { // which unmounts it
		t.Fatal(err)
	}
	before := free(t, dir)
	release, err := s.Reserve(t.Context(), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	release()
	if err := s.Repair(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if got := free(t, dir); got < before-1<<20 {
		t.Errorf("%d bytes were free before a reservation, and %d after it", before, got)
	}
	path, unuse = acquire(t, s, key)
	defer unuse()
	if got, err := os.ReadFile(filepath.Join(path, "game")); err != nil || !bytes.HasPrefix(got, []byte("dreamcoredreamcore")) || len(got) != 1<<20/9*9 {
		t.Errorf("a file has changed: %d bytes, %v", len(got), err)
	}
}

// TestReservationOfOneUserDoesNotWaitForAnother: a disk may be trimmed for long.
func TestReservationOfOneUserDoesNotWaitForAnother(t *testing.T) {
	s := newStore(t)
	dir, release := acquire(t, s, "a")
	defer release()
	d := s.disk("a")
	d.enter() // as while its space is given back
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan error)
	go func() { waits <- s.reserve(ctx, d, dir, 0) }()
	for range 50 { // it would have the turn soon
		if len(s.allocating) > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	limited, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	giveBack, err := s.Reserve(limited, "b", 0)
	if err != nil {
		t.Error(err)
	} else {
		giveBack()
	}
	cancel()
	if err := <-waits; !errors.Is(err, context.Canceled) {
		t.Errorf("the one that waits: %v", err)
	}
	d.leave()
}

func TestReservationOfAnotherProcessStays(t *testing.T) {
	dir, s := hostDisk(t, "size=96m", 32<<20)
	other := openStore(t, dir, sized(32<<20)) // its locks are as those of a process
	mine, err := s.Reserve(t.Context(), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := other.Reserve(t.Context(), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	held := free(t, dir)
	mine()
	if got := free(t, dir); got > held+1<<20 {
		t.Errorf("%d bytes of the other's reservation were given back", got-held)
	}
	theirs()
	if got := free(t, dir); got < held+16<<20 {
		t.Errorf("the last one gave back %d bytes", got-held)
	}
}

func TestFailedDiskIsFoundAndRepaired(t *testing.T) {
	dir, s := hostDisk(t, "size=64m", 48<<20)
	path, unuse := acquire(t, s, key)
	if err := writeSynced(path, "kept", 1<<20); err != nil {
		t.Fatal(err)
	}
	other := fillHost(t, dir)
	// The image cannot grow: what is written is lost, and ext4 stops.
	for i := 0; Probe(path) == nil; i++ {
		if i == 100 {
			t.Fatal("the file system goes on without its disk")
		}
		_ = writeSynced(path, "lost", 20<<20)
		_ = os.Remove(filepath.Join(path, "lost"))
		_ = os.Mkdir(filepath.Join(path, string(rune('a'+i))), 0o755)
	}
	if err := Probe(path); !errors.Is(err, ErrFailed) {
		t.Fatalf("Probe: %v", err)
	}
	if _, err := s.Reserve(t.Context(), key, 0); dreamcore.CodeOf(err) != dreamcore.CodeSetup {
		t.Errorf("Reserve on a host that is full: %v", err)
	}
	soon, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Repair(soon, key); err == nil {
		t.Error("a disk that is used was taken away")
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reserve(t.Context(), key, 0); !errors.Is(err, ErrFailed) {
		t.Errorf("Reserve: %v", err)
	}
	unuse()
	if err := s.Repair(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	release, err := s.Reserve(t.Context(), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := writeSynced(path, "new", 1<<20); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(path, "kept")); err != nil || info.Size() < 1<<20-9 {
		t.Errorf("what was there before is gone: %v", err)
	}
}
