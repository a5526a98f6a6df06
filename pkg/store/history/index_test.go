package history

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestUnchangedFilesAreNotReadAgain(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"a": "1", "d/b": "2"})
	f.commit(t, "one")
	time.Sleep(racyMargin + 50*time.Millisecond) // real time stamps must age
	f.commit(t, "the index is trusted from here on")
	snap := func() *snapshot {
		r, err := openRepo(f.git)
		if err != nil {
			t.Fatal(err)
		}
		head, _ := r.head()
		_, s, _, err := r.commit(t.Context(), f.root, "m", when, new(Recorded))
		if err != nil || len(s.old.files) == 0 || s.old.head != head {
			t.Fatalf("the index is not used: %v", err)
		}
		return s
	}
	if s := snap(); s.stale || s.objects.content != nil {
		t.Fatal("unchanged files were read")
	}
	// A change that keeps the size and restores the old time is detected.
	path := filepath.Join(f.dir, "d/b")
	info, _ := os.Stat(path)
	os.WriteFile(path, []byte("3"), 0o644)
	os.Chtimes(path, time.Time{}, info.ModTime())
	if s := snap(); string(s.objects.content) != "3" {
		t.Fatal("a changed file was not read")
	}
	if got := f.command(t, "show", "main:d/b"); got != "3" {
		t.Fatalf("got %q", got)
	}
}

func TestAChangeRightAfterAVersionIsDetected(t *testing.T) {
	f := newFixture(t)
	for i := range 40 { // same size, and often the same time stamp
		text := fmt.Sprintf("%03d", i)
		f.write(t, map[string]string{"a": text})
		if _, changed := f.commit(t, text); !changed {
			t.Fatalf("version %d was not seen", i)
		}
	}
}

func TestADamagedOrForeignIndexIsNotTrusted(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"a": "1", "b": "2"})
	f.commit(t, "one")
	path := filepath.Join(f.git, indexName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		if _, err := decodeIndex(bad); err == nil {
			t.Fatalf("a flipped bit at %d is not noticed", i)
		}
	}
	os.WriteFile(path, good[:len(good)/2], fileMode)
	f.write(t, map[string]string{"a": "3"})
	second, _ := f.commit(t, "two")
	f.fsck(t)
	// An index of another commit may name objects that Git removed.
	os.WriteFile(path, good, fileMode)
	if hash, changed := f.commit(t, "same"); hash != second || changed {
		t.Fatal(hash, changed)
	}
	os.Remove(path)
	if hash, changed := f.commit(t, "same"); hash != second || changed {
		t.Fatal(hash, changed)
	}
}

// FuzzIndex decodes any bytes, and encodes and decodes an index again.
func FuzzIndex(f *testing.F) {
	x := newIndex()
	x.files["a\n"] = entry{stat: stat{size: 1, mtime: -2, ctime: 3, inode: 1 << 63, mode: 0o644}, racy: true}
	x.trees[""] = x.head
	f.Add(x.encode())
	f.Add([]byte(indexMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, b := range [][]byte{data, resealed(data)} {
			x, err := decodeIndex(b)
			if err != nil {
				continue
			}
			again, err := decodeIndex(x.encode())
			if err != nil || len(again.files) != len(x.files) || len(again.trees) != len(x.trees) || again.head != x.head {
				t.Fatalf("%v became %v, %v", x, again, err)
			}
			for path, e := range x.files {
				if again.files[path] != e {
					t.Fatalf("%q: %v became %v", path, e, again.files[path])
				}
			}
		}
	})
}

// resealed gives data the frame of an index, so that the fuzzer gets past it.
func resealed(data []byte) []byte {
	body := append([]byte(indexMagic), data...)
	sum := sha256.Sum256(body)
	return append(body, sum[:]...)
}
