package history

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

// zipped returns content as packs hold it.
func zipped(content string) string {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	z.Write([]byte(content))
	z.Close()
	return b.String()
}

// A pack may hold any number of objects that claim to be larger than they are.
func TestFalseSizesInPacksAreSpent(t *testing.T) {
	const size, left = 1 << 20, 4 << 20 // bytes
	// The header has the type and 4, 7 and 9 bits of the size.
	object := "\xb0\x80\x80\x04" + zipped("")
	p := &pack{scanner: packfile.NewScanner(strings.NewReader(object)), cache: map[int64]packObject{}}
	f := &foreign{ctx: t.Context(), packs: []*pack{p}, bytesLeft: left}
	for range left / size {
		if _, err := f.packed(p, 0, plumbing.ZeroHash, size); !isFault(err) {
			t.Errorf("a false size: %v", err)
		}
	}
	if f.bytesLeft != 0 {
		t.Errorf("%d bytes may still be read", f.bytesLeft)
	}
}

func TestReadersAllocateWithWhatTheyRead(t *testing.T) {
	for size, content := range map[int64]int{1 << 30: 0, 1<<30 + 1: 1000, 1 << 20: 40 << 10} {
		cost := allocated(func() {
			if _, err := readExactly(bytes.NewReader(make([]byte, content)), size); err == nil {
				t.Error("no error")
			}
		})
		if cost > 64<<10+int64(content)*4 {
			t.Errorf("%d of %d bytes: %d KiB were allocated", content, size, cost>>10)
		}
	}
	for _, size := range []int{0, 1, 32<<10 + 1, 3<<20 + 1} {
		b, err := readExactly(bytes.NewReader(make([]byte, size)), int64(size))
		if err != nil || len(b) != size || cap(b) > size+size/16+64 {
			t.Errorf("%d bytes: %d of %d, %v", size, len(b), cap(b), err)
		}
	}
}

// TestPacksBesideTooManyNames has more packs than names that are not looked at,
// whatever the order of the names is.
func TestPacksBesideTooManyNames(t *testing.T) {
	f := newFixture(t)
	git(t, f.dir, "init", "-q", "-b", "master")
	f.write(t, map[string]string{"a": "x"})
	git(t, f.dir, "add", "-A")
	git(t, f.dir, "commit", "-qm", "version")
	git(t, f.dir, "gc", "-q", "--prune=now")
	dir := filepath.Join(f.dir, gitDir, objectsDir, "pack")
	found, err := filepath.Glob(filepath.Join(dir, "*.idx"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	base := strings.TrimSuffix(found[0], ".idx")
	for i := range 10 {
		for _, extension := range []string{".idx", ".pack"} {
			if err := os.Link(base+extension, filepath.Join(dir, fmt.Sprint("pack-", i, extension))); err != nil {
				t.Fatal(err)
			}
		}
	}
	const most = 2048
	for i := range most - 12 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	packs := openPacks(openRoot(t, dir), most)
	for _, p := range packs {
		p.close()
	}
	if len(packs) == 0 {
		t.Error("no pack is found")
	}
}
