package history

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

// These tests limit the disk space and memory of the host that adopts or shows a
// history.

// TestAdoptCountsABlockForEachSmallObject: in a pack such an object takes
// next to no space.
func TestAdoptCountsABlockForEachSmallObject(t *testing.T) {
	f := newFixture(t)
	git(t, f.dir, "init", "-q", "-b", "master")
	files := map[string]string{}
	for i := range 400 {
		files[fmt.Sprintf("d%d/%d", i%7, i)] = fmt.Sprint(i)
	}
	f.write(t, files)
	git(t, f.dir, "add", "-A")
	git(t, f.dir, "commit", "-qm", "many")
	git(t, f.dir, "gc", "-q", "--prune=now")
	r, err := makeRepo(t.Context(), f.git)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(filepath.Join(f.dir, gitDir))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	const budget = 200 * objectCost // far more than all of their bytes
	a, err := r.adopt(t.Context(), root, plumbing.ZeroHash, budget)
	if err != nil || a.Head != "" || !strings.Contains(a.Reason, "too large") {
		t.Errorf("%+v %v", a, err)
	}
	stored := 0
	_ = filepath.WalkDir(filepath.Join(f.git, objectsDir), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			stored++
		}
		return err
	})
	if stored > 200 {
		t.Errorf("%d objects on the disk of the host", stored)
	}
	if a, err := r.adopt(t.Context(), root, plumbing.ZeroHash, maxEmbeddedBytes); err != nil || a.Versions != 1 {
		t.Errorf("%+v %v", a, err)
	}
}

func TestPackCachesAreBoundedTogether(t *testing.T) {
	f := &foreign{}
	for range 10 {
		f.packs = append(f.packs, &pack{cache: map[int64]packObject{}})
	}
	const large = packCache / 4
	for i := range 60 {
		f.keep(f.packs[i%len(f.packs)], int64(i), packObject{content: make([]byte, large)})
	}
	held := 0
	for _, p := range f.packs {
		held += len(p.cache) * large
	}
	if held > packCache || held == 0 {
		t.Errorf("%d MiB are held", held>>20)
	}
}

func TestTheLogCutsLongMessages(t *testing.T) {
	f := newFixture(t)
	git(t, f.dir, "init", "-q", "-b", "master")
	for i := range 3 {
		name := filepath.Join(t.TempDir(), "message")
		if err := os.WriteFile(name, []byte(strings.Repeat(fmt.Sprintf("ね%d", i), 100_000)), 0o600); err != nil {
			t.Fatal(err)
		}
		git(t, f.dir, "commit", "-q", "--allow-empty", "-F", name)
	}
	f.write(t, map[string]string{"index.html": "x"})
	f.commit(t, "short")
	versions, err := f.store.Log(t.Context(), user, project, 0)
	if err != nil || len(versions) != 4 || versions[0].Message != "short" {
		t.Fatal(versions, err)
	}
	for _, v := range versions[1:] {
		if len(v.Message) > maxShown+3 || !strings.HasSuffix(v.Message, "…") || !strings.HasPrefix(v.Message, "ね") {
			t.Errorf("%d bytes: %.20q", len(v.Message), v.Message)
		}
	}
	if n, err := f.store.Count(t.Context(), user, project); n != 4 || err != nil {
		t.Error(n, err)
	}
}

// TestItemsHoldNoContent: a version may be larger than the memory.
func TestItemsHoldNoContent(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"a.js": "some content"})
	f.commit(t, "one")
	items, _, err := f.store.Items(t.Context(), user, project)
	if err != nil || len(items) != 1 || items[0].Size != 12 {
		t.Fatal(items, err)
	}
	if err := os.RemoveAll(filepath.Join(f.git, objectsDir)); err != nil {
		t.Fatal(err)
	}
	if r, err := items[0].Open(); err == nil {
		_ = r.Close()
		t.Error("the content was held in memory")
	}
}
