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

// hostDisk creates a small disk in place of the host's, with a Store on it.
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

// fillHost uses up the free space of the disk that dir is on.
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

// writeSynced writes and syncs n bytes.
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
		t.Errorf("only %d bytes are reserved", taken)
	}
	fillHost(t, dir)
	path, unuse := acquire(t, s, key)
	if err := writeSynced(path, "game", 20<<20); err != nil {
		t.Errorf("a program cannot write to the reserved space: %v", err)
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
		t.Errorf("the space was not returned: %d bytes are free", got)
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
		t.Errorf("a third reservation, beyond the disk: %v", err)
	}
	// A second reservation of the same disk costs no space, and the space is
	// reserved until both have ended.
	again, err := s.Reserve(t.Context(), "one", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	releases[0]()
	if _, err := s.Reserve(t.Context(), "three", 16<<20); err == nil {
		t.Error("the space that is reserved twice was returned at the first release")
	}
	again()
	release, err := s.Reserve(t.Context(), "three", 16<<20)
	if err != nil {
		t.Fatalf("the returned space cannot be reserved: %v, %d free", err, free(t, dir))
	}
	release()
	releases[1]()
}

func TestReservationsReturnTheSpaceEachTime(t *testing.T) {
	dir, s := hostDisk(t, "size=96m", 32<<20)
	_, unuse := acquire(t, s, key) // it stays mounted, as for a pooled sandbox
	defer unuse()
	before := free(t, dir)
	const tables = 14 << 20 // maximum size of the file system's own tables, which stay allocated until it is unmounted
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
	if err := s.Repair(t.Context(), key); err != nil { // unmounts it
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

// The disk of another user may be being trimmed, which can take long.
func TestReservationOfOneUserDoesNotWaitForAnother(t *testing.T) {
	s := newStore(t)
	dir, release := acquire(t, s, "a")
	defer release()
	d := s.disk("a")
	d.lock() // as while its space is being returned
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan error)
	go func() { waits <- s.reserve(ctx, d, dir, 0) }()
	for range 50 { // time to get to the lock
		if len(s.allocating) > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	limited, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	release2, err := s.Reserve(limited, "b", 0)
	if err != nil {
		t.Error(err)
	} else {
		release2()
	}
	cancel()
	if err := <-waits; !errors.Is(err, context.Canceled) {
		t.Errorf("the waiting reservation: %v", err)
	}
	d.unlock()
}

func TestReservationOfAnotherProcessStays(t *testing.T) {
	dir, s := hostDisk(t, "size=96m", 32<<20)
	other := openStore(t, dir, sized(32<<20)) // its locks work as those of another process
	mine, err := s.Reserve(t.Context(), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := other.Reserve(t.Context(), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	reserved := free(t, dir)
	mine()
	if got := free(t, dir); got > reserved+1<<20 {
		t.Errorf("%d bytes of the other reservation were returned", got-reserved)
	}
	theirs()
	if got := free(t, dir); got < reserved+16<<20 {
		t.Errorf("the last reservation returned %d bytes", got-reserved)
	}
}

func TestFailedDiskIsFoundAndRepaired(t *testing.T) {
	dir, s := hostDisk(t, "size=64m", 48<<20)
	path, unuse := acquire(t, s, key)
	if err := writeSynced(path, "kept", 1<<20); err != nil {
		t.Fatal(err)
	}
	other := fillHost(t, dir)
	// The image cannot grow: written data is lost, and ext4 stops.
	for i := 0; Probe(path) == nil; i++ {
		if i == 100 {
			t.Fatal("the file system works without its disk")
		}
		_ = writeSynced(path, "lost", 20<<20)
		_ = os.Remove(filepath.Join(path, "lost"))
		_ = os.Mkdir(filepath.Join(path, string(rune('a'+i))), 0o755)
	}
	if err := Probe(path); !errors.Is(err, ErrFailed) {
		t.Fatalf("Probe: %v", err)
	}
	if _, err := s.Reserve(t.Context(), key, 0); dreamcore.CodeOf(err) != dreamcore.CodeSetup {
		t.Errorf("Reserve on a full host: %v", err)
	}
	soon, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Repair(soon, key); err == nil {
		t.Error("a disk that is in use was unmounted")
	}
	d := s.disk(key)
	d.lock() // then nothing is known about its uses
	if err := s.Repair(soon, key); !errors.Is(err, context.Canceled) || dreamcore.ReasonOf(err) != "" {
		t.Errorf("Repair of a disk that is locked: %v", err)
	}
	d.unlock()
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
		t.Errorf("earlier content is lost: %v", err)
	}
}
