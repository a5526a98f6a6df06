package history

import (
	"bytes"
	"compress/zlib"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/admission"
)

// These tests limit the bytes that the host allocates for hostile projects and
// histories, garbage included: unlike a time or a peak, that is the same in every
// run.

// allocated returns the number of bytes that f allocates.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// forged is a .git directory with objects that Git would not create.
type forged struct {
	t   testing.TB
	dir string
	w   *writer
}

// forge creates a .git directory in the project of the fixture.
func (f *fixture) forge(t testing.TB) *forged {
	t.Helper()
	dir := filepath.Join(f.dir, gitDir)
	if err := os.MkdirAll(filepath.Join(dir, objectsDir, "pack"), 0o755); err != nil {
		t.Fatal(err)
	}
	return &forged{t, dir, newWriter(dir)}
}

func (g *forged) put(kind plumbing.ObjectType, content []byte) plumbing.Hash {
	g.t.Helper()
	hash, err := g.w.put(kind, content, plumbing.ZeroHash)
	if err != nil {
		g.t.Fatal(err)
	}
	return hash
}

func (g *forged) blob(text string) plumbing.Hash {
	g.t.Helper()
	return g.put(plumbing.BlobObject, []byte(text))
}

// tree takes lines of a mode and a name, such as "40000 dir", all for the object
// target.
func (g *forged) tree(target plumbing.Hash, entries ...string) plumbing.Hash {
	g.t.Helper()
	var b bytes.Buffer
	for _, e := range entries {
		b.WriteString(e + "\x00")
		b.Write(target[:])
	}
	return g.put(plumbing.TreeObject, b.Bytes())
}

func (g *forged) commit(tree plumbing.Hash, message string, parents ...plumbing.Hash) plumbing.Hash {
	g.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "tree %s\n", tree)
	for _, p := range parents {
		fmt.Fprintf(&b, "parent %s\n", p)
	}
	fmt.Fprintf(&b, "author a <a@x> 1600000000 +0000\ncommitter a <a@x> 1600000000 +0000\n\n%s\n", message)
	return g.put(plumbing.CommitObject, []byte(b.String()))
}

func (g *forged) setHead(commit plumbing.Hash) {
	g.t.Helper()
	g.file(headFile, commit.String()+"\n")
}

func (g *forged) file(name, text string) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, name), []byte(text), 0o644); err != nil {
		g.t.Fatal(err)
	}
}

func TestHostileHistoriesCostLittleMemory(t *testing.T) {
	long := strings.Repeat("n", 4<<20)
	for name, c := range map[string]struct {
		make   func(g *forged) plumbing.Hash
		reason string // "" if the history is adopted
		most   int64  // MiB
	}{
		"names of 4 MB, 40 deep": {func(g *forged) plumbing.Hash {
			at := g.tree(g.blob("x"), "100644 "+long)
			for range 40 {
				at = g.tree(at, "40000 "+long)
			}
			return g.commit(at, "long")
		}, "name of more than 255 bytes", 60},
		"paths of 8 KiB": {func(g *forged) plumbing.Hash {
			name := long[:dreamcore.MaxNameBytes]
			at := g.tree(g.blob("x"), "100644 "+name)
			for range 32 {
				at = g.tree(at, "40000 "+name)
			}
			return g.commit(at, "long")
		}, "path of more than 4096 bytes", 20},
		"many long paths": {func(g *forged) plumbing.Hash {
			entries := make([]string, 5000)
			for i := range entries {
				entries[i] = fmt.Sprintf("100644 %05d%s", i, long[:200])
			}
			at := g.tree(g.blob(""), entries...)
			for range 10 {
				at = g.tree(at, "40000 "+long[:250])
			}
			return g.commit(at, "many")
		}, "paths are longer than 8 MiB", 40},
		"a tree that stands for 10^30 files": {func(g *forged) plumbing.Hash {
			at := g.tree(g.blob("x"), "100644 a")
			for range 50 {
				at = g.tree(at, "40000 a", "40000 b", "40000 c", "40000 d")
			}
			return g.commit(at, "bomb")
		}, "more than 100000 files", 20},
		"few objects that stand for a TiB": {func(g *forged) plumbing.Hash {
			at := g.tree(g.blob(strings.Repeat("0", 3<<20)), "100644 a", "100644 b", "100644 c", "100644 d")
			for range 5 {
				at = g.tree(at, "40000 a", "40000 b", "40000 c", "40000 d", "40000 e")
			}
			return g.commit(at, "bomb")
		}, "larger than 4 GiB", 60},
		"large trees inside each other": {func(g *forged) plumbing.Hash {
			at := g.blob("x")
			for i := range 5 {
				mode := "40000"
				if i == 0 {
					mode = "100644"
				}
				entries := make([]string, 90_000)
				for i := range entries {
					entries[i] = fmt.Sprintf("%s %05d", mode, i)
				}
				at = g.tree(at, entries...)
			}
			return g.commit(at, "wide")
		}, "files", 120},
		"a chain of commits of 1 MB": {func(g *forged) plumbing.Hash {
			tree := g.tree(g.blob("x"), "100644 a")
			at := g.commit(tree, "0")
			for i := range 30 {
				at = g.commit(tree, fmt.Sprint(i, long[:1000_000]), at)
			}
			return at
		}, "", 450}, // each is read at most twice, hashed and written
		"very many parents": {func(g *forged) plumbing.Hash {
			tree := g.tree(g.blob("x"), "100644 a")
			first := g.commit(tree, "0")
			parents := make([]plumbing.Hash, 20_000)
			for i := range parents {
				parents[i] = first
			}
			return g.commit(tree, "many", parents...)
		}, "more than 100 parents", 20},
		"a link to 1 MB": {func(g *forged) plumbing.Hash {
			return g.commit(g.tree(g.blob(long[:1<<20]), "120000 link"), "link")
		}, "link to more than 4096 bytes", 20},
		"an author of 900 kB": {func(g *forged) plumbing.Hash {
			tree := g.tree(g.blob("x"), "100644 a")
			return g.put(plumbing.CommitObject, fmt.Appendf(nil, "tree %s\nauthor %s <a> 1 +0000\ncommitter b <b> 1 +0000\n\nx\n", tree, long[:900_000]))
		}, "", 30},
		"an author of 2 MB": {func(g *forged) plumbing.Hash {
			tree := g.tree(g.blob("x"), "100644 a")
			return g.put(plumbing.CommitObject, fmt.Appendf(nil, "tree %s\nauthor %s <a> 1 +0000\ncommitter b <b> 1 +0000\n\nx\n", tree, long[:2<<20]))
		}, "larger than", 10},
		"very many references and an index": {func(g *forged) plumbing.Hash {
			g.file("packed-refs", strings.Repeat(strings.Repeat("0", 40)+" refs/tags/x\n", 1_000_000))
			g.file("index", long+long)
			g.file(shallowFile, strings.Repeat("x", 40<<20))
			return g.commit(g.tree(g.blob("x"), "100644 a"), "refs")
		}, "", 20},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.write(t, map[string]string{"index.html": "x"})
			g := f.forge(t)
			g.setHead(c.make(g))
			g.w = nil
			var hash string
			cost := allocated(func() {
				hash, _ = f.commit(t, "first")
				f.diff(t, hash)
				if _, _, err := f.store.Items(t.Context(), user, project); err != nil {
					t.Error(err)
				}
			})
			t.Logf("%d MiB", cost>>20)
			if cost > c.most<<20 {
				t.Errorf("%d MiB were allocated, want at most %d", cost>>20, c.most)
			}
			n, err := f.store.Count(t.Context(), user, project)
			if taken := n > 1; err != nil || taken != (c.reason == "") || !strings.Contains(f.logs.String(), c.reason) {
				t.Errorf("%d versions, %v, log %.300s, want the reason %q", n, err, f.logs, c.reason)
			}
			f.fsck(t)
		})
	}
}

// TestPacksThatInflateCostLittleMemory has a chain of deltas that each
// result in an object larger than maxInMemoryBytes.
func TestPacksThatInflateCostLittleMemory(t *testing.T) {
	f := newFixture(t)
	git(t, f.dir, "init", "-q", "-b", "master")
	large := strings.Repeat("0123456789abcdef", 40<<20/16)
	for i := range 2 {
		f.write(t, map[string]string{"a": fmt.Sprint(i) + large})
		git(t, f.dir, "add", "-A")
		git(t, f.dir, "commit", "-qm", "version")
	}
	git(t, f.dir, "gc", "-q", "--prune=now")
	cost := allocated(func() { f.commit(t, "first") })
	t.Logf("%d MiB", cost>>20)
	if cost > 250<<20 {
		t.Errorf("%d MiB were allocated", cost>>20)
	}
	f.fsck(t)
}

// oldRepo creates a repository as it was before the limits.
func oldRepo(t *testing.T, f *fixture, make func(g *forged) plumbing.Hash) string {
	t.Helper()
	if _, err := makeRepo(t.Context(), f.git); err != nil {
		t.Fatal(err)
	}
	g := &forged{t, f.git, newWriter(f.git)}
	hash := make(g)
	if err := os.WriteFile(filepath.Join(f.git, branch), []byte(hash.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return hash.String()
}

func TestHistoriesOlderThanTheLimitsAreReadWithinBounds(t *testing.T) {
	long := strings.Repeat("n", 4<<20)
	for name, c := range map[string]struct {
		make func(g *forged) plumbing.Hash
		most int64 // MiB
	}{
		"names of 4 MB, 40 deep": {func(g *forged) plumbing.Hash {
			at := g.tree(g.blob("x"), "100644 "+long)
			for range 40 {
				at = g.tree(at, "40000 "+long)
			}
			return g.commit(at, "long")
		}, 120},
		"a large tree": {func(g *forged) plumbing.Hash {
			var entries []string
			for i := range 1_000_000 {
				entries = append(entries, fmt.Sprintf("100644 %07d", i))
			}
			return g.commit(g.tree(g.blob("x"), entries...), "large")
		}, 60},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			hash := oldRepo(t, f, c.make)
			cost := allocated(func() {
				text, err := f.store.Diff(t.Context(), user, project, hash)
				if err != nil || !strings.Contains(text, "more files changed and are not shown") || len(text) > maxDiffBytes {
					t.Errorf("%.300s %v", text, err)
				}
				_, _, err = f.store.Items(t.Context(), user, project)
				_, _, err2 := f.store.Files(t.Context(), user, project, hash, func(string) bool { return true })
				if dreamcore.CodeOf(err) != dreamcore.CodeTooLarge || dreamcore.CodeOf(err2) != dreamcore.CodeTooLarge {
					t.Error(err, err2)
				}
			})
			t.Logf("%d MiB", cost>>20)
			if cost > c.most<<20 {
				t.Errorf("%d MiB were allocated, want at most %d", cost>>20, c.most)
			}
			f.write(t, map[string]string{"index.html": "x"})
			f.commit(t, "goes on")
			if text := f.diff(t, f.head(t)); len(text) > maxDiffBytes {
				t.Error(len(text))
			}
		})
	}
}

func (f *fixture) head(t testing.TB) string {
	t.Helper()
	head, err := f.store.Newest(user, project)
	if err != nil {
		t.Fatal(err)
	}
	return head
}

// deepDirs creates nested directories with names of 255 bytes in dir, and returns
// the deepest one. Its path is longer than a system call accepts.
func deepDirs(t testing.TB, dir string, depth int) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		name := strings.Repeat("d", dreamcore.MaxNameBytes)
		err := root.Mkdir(name, 0o755)
		next, err2 := root.OpenRoot(name)
		if root.Close(); err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		root = next
	}
	return root
}

// TestLongPathsCostLittleMemory is the attack of 45,000 empty files with long
// names in deep directories, with fewer files: the allocated memory must not grow
// with the length of their paths.
func TestLongPathsCostLittleMemory(t *testing.T) {
	for name, c := range map[string]struct {
		depth, files int
		reason       string
	}{
		"62 directories": {62, 2500, "path is too long: more than 4096 bytes: 1"},
		"15 directories": {15, 2500, "paths of the project are too long: more than 8 MiB together: "},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.write(t, map[string]string{"index.html": "x"})
			root := deepDirs(t, f.dir, c.depth)
			defer root.Close()
			for i := range c.files {
				file, err := root.Create(fmt.Sprintf("%0200d", i))
				if err != nil {
					t.Fatal(err)
				}
				file.Close()
			}
			cost := allocated(func() {
				hash, _ := f.commit(t, "first")
				f.diff(t, hash)
				f.write(t, map[string]string{"index.html": "y"})
				f.commit(t, "second")
			})
			t.Logf("%d MiB", cost>>20)
			if cost > 250<<20 { // two indexes are read and written, a version is compared
				t.Errorf("%d MiB were allocated", cost>>20)
			}
			if info, err := os.Stat(filepath.Join(f.git, indexName)); err != nil || info.Size() > maxIndexBytes {
				t.Error(info, err)
			}
			if !strings.Contains(f.logs.String(), c.reason) {
				t.Errorf("the log does not say %q: %.500s", c.reason, f.logs)
			}
			f.fsck(t)
		})
	}
}

func TestOversizedIndexIsNotRead(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"index.html": "x"})
	f.commit(t, "one")
	if err := os.Truncate(filepath.Join(f.git, indexName), 700<<20); err != nil {
		t.Fatal(err)
	}
	f.write(t, map[string]string{"index.html": "y"})
	if cost := allocated(func() { f.commit(t, "two") }); cost > 20<<20 {
		t.Errorf("%d MiB were allocated", cost>>20)
	}
}

// TestFalseObjectSizesCostLittleMemory reads 1,000 bytes whose header
// claims 32 MiB, and an object that inflates to more than its header claims.
func TestFalseObjectSizesCostLittleMemory(t *testing.T) {
	f := newFixture(t)
	g := f.forge(t)
	lie := func(hash string, header string, content []byte) plumbing.Hash {
		var b bytes.Buffer
		z := zlib.NewWriter(&b)
		z.Write(append([]byte(header+"\x00"), content...))
		z.Close()
		name := filepath.Join(g.dir, objectsDir, hash[:2], hash[2:])
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return plumbing.NewHash(hash)
	}
	small := lie(hex.EncodeToString(bytes.Repeat([]byte{1}, 20)), "tree 33554432", []byte("x"))
	large := lie(hex.EncodeToString(bytes.Repeat([]byte{2}, 20)), "tree 10", make([]byte, 32<<20))
	src := openForeign(t.Context(), openRoot(t, g.dir), maxEmbeddedBytes)
	defer src.close()
	cost := allocated(func() {
		for _, hash := range []plumbing.Hash{small, large} {
			if _, err := src.read(hash, plumbing.TreeObject, 64<<20); !isFault(err) {
				t.Error(err)
			}
		}
	})
	if cost > 4<<20 {
		t.Errorf("%d kB were allocated", cost>>10)
	}
}

func openRoot(t testing.TB, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// TestReadersLeaveNoDescriptorOpen: descriptors must not stay open until a
// garbage collection.
func TestReadersLeaveNoDescriptorOpen(t *testing.T) {
	f := newFixture(t)
	files := map[string]string{}
	for i := range 500 {
		files[fmt.Sprint(i)] = fmt.Sprint(i)
	}
	f.write(t, files)
	hash, _ := f.commit(t, "many")
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	before := descriptors(t)
	f.diff(t, hash)
	_, _, err := f.store.Items(t.Context(), user, project)
	_, _, err2 := f.store.Files(t.Context(), user, project, hash, func(string) bool { return true })
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	if after := descriptors(t); after > before+20 {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
}

func descriptors(t testing.TB) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// TestAUserRunsOneDiffAtATime: while one runs, another one waits, and is
// refused in the end.
func TestAUserRunsOneDiffAtATime(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"a": "x"})
	hash, _ := f.commit(t, "one")
	f.store.heavy = admission.New(admission.Limits{Running: 2, Patience: 10 * time.Millisecond})
	leave, err := f.store.heavy.Enter(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.store.Diff(t.Context(), user, project, hash); dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Error(err)
	}
	f.write(t, map[string]string{"a": "y"})
	f.commit(t, "a version that is not the first does not wait")
	leave()
	if text := f.diff(t, hash); !strings.Contains(text, "+x") {
		t.Error(text)
	}
}
