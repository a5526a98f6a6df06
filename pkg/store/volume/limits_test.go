package volume

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// allocated returns the number of bytes that f allocates, including garbage.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// hostilePaths makes a directory with two files, and below depth nested
// directories with names of 255 bytes, empty files with long names.
func hostilePaths(t *testing.T, depth, files int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"index.html", "zz.js"} {
		if err := os.WriteFile(dir+"/"+name, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		name := strings.Repeat("d", dreamcore.MaxNameBytes)
		err := root.Mkdir(name, 0o755)
		next, err2 := root.OpenRoot(name)
		root.Close()
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		root = next
	}
	defer root.Close()
	for i := range files {
		f, err := root.Create(fmt.Sprintf("%0250d", i))
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return dir
}

// TestWalksCostLittleMemoryForLongPaths: the attack has 45,000 files below 62
// nested directories. The memory of a walk must not grow with the length of paths.
func TestWalksCostLittleMemoryForLongPaths(t *testing.T) {
	for _, c := range []struct {
		depth, files int
		reason       string
	}{
		{62, 2500, "path is too long"},
		{15, 2500, "paths of the project are too long"},
	} {
		t.Run(fmt.Sprint(c.depth), func(t *testing.T) {
			dir := hostilePaths(t, c.depth, c.files)
			p, err := OpenDirectory(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			var listed, paths, leftOut, walked int
			var reasons strings.Builder
			cost := allocated(func() {
				for f, err := range p.FilesLeftOut(t.Context(), &leftOut) {
					if err != nil {
						t.Fatal(err)
					}
					listed++
					paths += len(f.Path)
				}
				p.swaps = true // the whole list is made before the first entry is yielded
				again := 0
				for _, err := range p.FilesLeftOut(t.Context(), &again) {
					if err != nil {
						t.Fatal(err)
					}
				}
				if again != leftOut {
					t.Errorf("%d and %d are left out", again, leftOut)
				}
				for e, err := range tree.Walk(t.Context(), p.Root(), func(path, reason string) {
					if len(path) > 300 {
						t.Fatal(path)
					}
					if reasons.Len() < 10_000 {
						reasons.WriteString(reason)
					}
				}) {
					if err != nil || len(e.Path) > dreamcore.MaxPathBytes {
						t.Fatal(len(e.Path), err)
					}
					walked++
				}
			})
			t.Logf("%d MiB, %d of %d files", cost>>20, listed, c.files)
			if cost > 90<<20 || paths > dreamcore.MaxTreePaths {
				t.Errorf("%d MiB were allocated, %d bytes of paths", cost>>20, paths)
			}
			if leftOut == 0 || listed < 2 || walked < listed || !strings.Contains(reasons.String(), c.reason) {
				t.Errorf("%d listed, %d left out, %d walked, %.200s", listed, leftOut, walked, &reasons)
			}
		})
	}
}
