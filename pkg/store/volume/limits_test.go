package volume

import (
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// allocated returns how many bytes f allocates, garbage included.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// hostilePaths makes a directory with a few files and, so many directories with
// names of 255 bytes deep, files empty files with long names.
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

// TestWalksCostLittleMemoryForLongPaths: the attack is 45,000 files, 62
// directories deep; what a walk costs must not grow with the length of paths.
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
				p.swaps = true // the list is made before the first is given
				again := 0
				for _, err := range p.FilesLeftOut(t.Context(), &again) {
					if err != nil {
						t.Fatal(err)
					}
				}
				if again != leftOut {
					t.Errorf("%d and %d are left out", again, leftOut)
				}
				for e, err := range Walk(t.Context(), p.Root(), func(path, reason string) {
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

// TestATreeFromOutsideKeepsTheLimits fills a directory with more paths than a
// project may have.
func TestATreeFromOutsideKeepsTheLimits(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f := NewFiller(root, os.Geteuid(), os.Getegid())
	long := strings.Repeat("d", 200)
	taken := 0
	for i := range 3000 {
		e := Entry{Path: strings.Repeat(long+"/", 18) + fmt.Sprint(i), Mode: fs.ModeDir | 0o755}
		_, _, err := f.Put(t.Context(), e, nil)
		if err == nil {
			taken++
		} else if dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Fatal(err)
		}
	}
	if most := dreamcore.MaxTreePaths / (18 * 201); taken > most || taken < most/2 {
		t.Errorf("%d were taken, at most %d fit", taken, most)
	}
	for _, bad := range []string{strings.Repeat("n", 256), strings.Repeat("d/", 2100) + "x"} {
		if _, _, err := f.Put(t.Context(), Entry{Path: bad, Mode: 0o644}, strings.NewReader("")); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Error(err)
		}
	}
}
