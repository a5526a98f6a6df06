package disk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// blankFiles returns the names of the images that have no key.
func blankFiles(t *testing.T, s *Store) (names []string) {
	t.Helper()
	list, err := os.ReadDir(s.opts.Images)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range list {
		if strings.Contains(e.Name(), blankExtension) {
			names = append(names, e.Name())
		}
	}
	return names
}

func waitForBlanks(t *testing.T, s *Store, n int) {
	t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(10 * time.Millisecond) {
		s.blanks.mu.Lock()
		ready := len(s.blanks.ready)
		s.blanks.mu.Unlock()
		if ready == n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d disks are ready, want %d", ready, n)
		}
	}
}

func inode(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// TestNewKeysGetBlankDisks: a new key gets a file system that was formatted ahead, each
// goes to one key, the next ones are made, and none stays.
func TestNewKeysGetBlankDisks(t *testing.T) {
	s := newStore(t)
	if err := s.KeepBlanks(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, key := range []string{"a", "b", "c"} {
		waitForBlanks(t, s, blanks)
		s.blanks.mu.Lock()
		first := inode(t, s.blanks.ready[0])
		s.blanks.mu.Unlock()
		dir, release := acquire(t, s, key)
		if !os.SameFile(first, inode(t, s.file(key, imageExtension))) {
			t.Errorf("disk %s was not made ahead", key)
		}
		list, err := os.ReadDir(dir)
		if err != nil || len(list) != 1 || list[0].Name() != "lost+found" {
			t.Errorf("%v, %v", list, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "of"), []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
		info := inode(t, dir)
		if info.Mode().Perm() != privateMode {
			t.Errorf("mode %v", info.Mode())
		}
		id := uuidOf(t, s.file(key, imageExtension))
		if seen[id] {
			t.Errorf("two disks have the id %s", id)
		}
		seen[id] = true
		release()
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if left := blankFiles(t, s); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// uuidOf returns the id of a file system, which the kernel uses to tell them apart.
func uuidOf(t *testing.T, image string) string {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id := make([]byte, 16)
	if _, err := f.ReadAt(id, 1024+0x68); err != nil {
		t.Fatal(err)
	}
	return string(id)
}

// TestBlankDisksOfADeadProcess: they may be unfinished, or of another size.
func TestBlankDisksOfADeadProcess(t *testing.T) {
	s := newStore(t)
	if err := os.MkdirAll(s.opts.Images, privateMode); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x" + blankExtension, "y" + blankExtension + tempExtension} {
		if err := os.WriteFile(filepath.Join(s.opts.Images, name), nil, fileMode); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.KeepBlanks(); err != nil {
		t.Fatal(err)
	}
	waitForBlanks(t, s, blanks)
	if err := s.KeepBlanks(); err != nil { // as a service does that was not ready at once
		t.Fatal(err)
	}
	if names := blankFiles(t, s); len(names) != blanks {
		t.Errorf("%v", names)
	}
	// Another process removes them: the key gets one that is formatted for it.
	for _, name := range blankFiles(t, s) {
		if err := os.Remove(filepath.Join(s.opts.Images, name)); err != nil {
			t.Fatal(err)
		}
	}
	_, release := acquire(t, s, key)
	release()
}

// BenchmarkAcquireNew is the first use of a key, without and with disks made ahead.
func BenchmarkAcquireNew(b *testing.B) {
	for name, ahead := range map[string]bool{"formatted": false, "ahead": true} {
		b.Run(name, func(b *testing.B) {
			s := newStore(b, sized(benchBytes))
			if ahead {
				if err := s.KeepBlanks(); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				b.StopTimer()
				for end := time.Now().Add(deadline); ahead && time.Now().Before(end); time.Sleep(time.Millisecond) {
					s.blanks.mu.Lock()
					ready := len(s.blanks.ready)
					s.blanks.mu.Unlock()
					if ready == blanks {
						break
					}
				}
				b.StartTimer()
				_, release := acquire(b, s, key)
				release()
				b.StopTimer()
				if err := retireNow(s); err != nil {
					b.Fatal(err)
				}
				if err := s.Remove(b.Context(), key); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
