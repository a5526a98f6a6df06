package history

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// random is content that cannot be compressed.
func random(size int) string {
	b := make([]byte, size)
	rand.Read(b)
	return string(b)
}

func (f *fixture) prune(t testing.TB, b Limits) Pruned {
	t.Helper()
	f.store.SetLimits(b)
	p, err := f.store.Prune(t.Context(), user, project)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// onDiskBytes returns the size of the repository as du counts it.
func onDiskBytes(t testing.TB, dir string) (total int64) {
	t.Helper()
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil {
			total += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

func TestPruneKeepsTheNewestVersionsComplete(t *testing.T) {
	f := newFixture(t)
	var hashes []string
	for i := range 20 {
		f.write(t, map[string]string{"large.bin": random(200 << 10), "index.html": fmt.Sprint(i), "assets/same.png": "same", fmt.Sprintf("d/%d", i): "x"})
		hash, _ := f.commit(t, fmt.Sprint(i))
		hashes = append(hashes, hash)
	}
	const limit = 2 << 20
	p := f.prune(t, Limits{ProjectBytes: limit})
	versions, err := f.store.Log(t.Context(), user, project, 0)
	if err != nil || len(versions) < 4 || len(versions) > 10 || p.Versions != 20-len(versions) || p.Bytes < 2<<20 {
		t.Fatal(p, len(versions), err)
	}
	if size := onDiskBytes(t, f.git); size > limit {
		t.Errorf("%d bytes, the limit is %d", size, limit)
	}
	f.fsck(t)
	for i, v := range versions {
		if v.Hash != hashes[19-i] {
			t.Errorf("version %d has the hash %s", i, v.Hash)
		}
		if got := f.command(t, "show", v.Hash+":index.html"); got != fmt.Sprint(19-i) {
			t.Errorf("version %d: %q", i, got)
		}
		f.command(t, "archive", v.Hash) // every file of it is there
	}
	oldest, gone := versions[len(versions)-1], hashes[0]
	if text := f.diff(t, oldest.Hash); !strings.Contains(text, "versions before this one are not kept") || !strings.Contains(text, "new file mode") {
		t.Errorf("%.200s … %s", text, text[max(0, len(text)-200):])
	}
	if text := f.diff(t, versions[0].Hash); strings.Contains(text, "not kept") || strings.Contains(text, "same.png") {
		t.Errorf("%.300s", text)
	}
	_, err = f.store.Diff(t.Context(), user, project, gone)
	_, _, err2 := f.store.Files(t.Context(), user, project, gone, func(string) bool { return true })
	if dreamcore.CodeOf(err) != dreamcore.CodeNotFound || dreamcore.CodeOf(err2) != dreamcore.CodeNotFound {
		t.Error(err, err2)
	}
	if n, err := f.store.Count(t.Context(), user, project); n != len(versions) || err != nil {
		t.Error(n, err)
	}
	f.write(t, map[string]string{"index.html": "next"})
	f.commit(t, "next")
	f.fsck(t)
	if again := f.prune(t, Limits{ProjectBytes: limit}); again != (Pruned{}) {
		t.Errorf("below the limit: %+v", again)
	}
}

func TestPruneKeepsTheNewestVersionHoweverLargeItIs(t *testing.T) {
	f := newFixture(t)
	for i := range 3 {
		f.write(t, map[string]string{"large.bin": random(1 << 20), "index.html": fmt.Sprint(i)})
		f.commit(t, fmt.Sprint(i))
	}
	f.prune(t, Limits{ProjectBytes: 100 << 10})
	if n, err := f.store.Count(t.Context(), user, project); n != 1 || err != nil {
		t.Error(n, err)
	}
	f.fsck(t)
	if text := f.diff(t, f.head(t)); !strings.Contains(text, "index.html") {
		t.Error(text)
	}
}

// TestPruneRemovesNothingDuringAShortage: if a version cannot be opened
// because the machine lacks a resource, neither it nor an older one is removed.
func TestPruneRemovesNothingDuringAShortage(t *testing.T) {
	f := newFixture(t)
	var hashes []string
	for i := range 8 {
		f.write(t, map[string]string{"large.bin": random(100 << 10), "index.html": fmt.Sprint(i)})
		hash, _ := f.commit(t, fmt.Sprint(i))
		hashes = append(hashes, hash)
	}
	object := loosePath(filepath.Join(f.git, objectsDir), plumbing.NewHash(strings.TrimSpace(f.command(t, "rev-parse", hashes[6]+"^{tree}"))))
	// A link to itself (ELOOP) stands for a process with too many open files
	// (EMFILE).
	if err := errors.Join(os.Rename(object, object+"-aside"), os.Symlink(filepath.Base(object), object)); err != nil {
		t.Fatal(err)
	}
	f.store.SetLimits(Limits{ProjectBytes: 600 << 10})
	if p, err := f.store.Prune(t.Context(), user, project); err == nil || p != (Pruned{}) {
		t.Errorf("%+v, %v", p, err)
	}
	if err := os.Rename(object+"-aside", object); err != nil {
		t.Fatal(err)
	}
	if n, err := f.store.Count(t.Context(), user, project); n != 8 || err != nil {
		t.Error(n, err)
	}
	f.prune(t, Limits{ProjectBytes: 600 << 10})
	if n, err := f.store.Count(t.Context(), user, project); n < 2 || n > 6 || err != nil {
		t.Error(n, err)
	}
	f.fsck(t)
}

// TestPruneOfAHistoryWithMerges prunes one whose oldest versions are on two
// branches.
func TestPruneOfAHistoryWithMerges(t *testing.T) {
	f := newFixture(t)
	git(t, f.dir, "init", "-q", "-b", "master")
	for i := range 8 {
		f.write(t, map[string]string{"m.bin": random(100 << 10)})
		git(t, f.dir, "add", "-A")
		git(t, f.dir, "commit", "-qm", fmt.Sprint("main ", i))
		if i%3 != 2 {
			continue
		}
		git(t, f.dir, "checkout", "-qb", fmt.Sprint("side", i), "HEAD~2")
		for j := range 4 {
			f.write(t, map[string]string{fmt.Sprintf("side%d/%d.bin", i, j): random(50 << 10)})
			git(t, f.dir, "add", "-A")
			git(t, f.dir, "commit", "-qm", fmt.Sprint("side ", i, j))
		}
		git(t, f.dir, "checkout", "-q", "master")
		git(t, f.dir, "merge", "-q", "--no-edit", fmt.Sprint("side", i))
	}
	f.commit(t, "first")
	all, err := f.store.Count(t.Context(), user, project)
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int64{1200 << 10, 900 << 10, 600 << 10, 1} {
		f.prune(t, Limits{ProjectBytes: limit})
		n, err := f.store.Count(t.Context(), user, project)
		if err != nil || n >= all || n < 1 {
			t.Errorf("%d versions of %d: %v", n, all, err)
		}
		all = n + 1
		f.fsck(t)
	}
}

// TestPruneOfAUserStartsWithTheLargestHistory has a small project whose
// versions all stay, and a large one that another process is writing to.
func TestPruneOfAUserStartsWithTheLargestHistory(t *testing.T) {
	state := filepath.Join(t.TempDir(), "history")
	var fixtures []*fixture
	const other = dreamcore.ProjectID("33333333-3333-4333-8333-333333333333")
	for _, p := range []dreamcore.ProjectID{project, other} {
		f := newFixtureIn(t, t.TempDir(), state)
		fixtures = append(fixtures, f)
		size := 20 << 10
		if p == other {
			size = 300 << 10
		}
		for i := range 10 {
			f.write(t, map[string]string{"a": random(size)})
			if _, _, err := f.store.Commit(t.Context(), user, p, f.root, fmt.Sprint(i), when); err != nil {
				t.Fatal(err)
			}
		}
	}
	store := fixtures[0].store
	store.SetLimits(Limits{UserBytes: 2 << 20})
	dir := filepath.Join(state, string(user), string(other)+".git")
	unlock, err := lock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Prune(t.Context(), user, project); err != nil {
		t.Fatal(err)
	}
	if n, err := store.Count(t.Context(), user, other); n != 10 || err != nil {
		t.Error("pruned while it was in use:", n, err)
	}
	unlock()
	if _, err := store.PruneAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if size := onDiskBytes(t, filepath.Join(state, string(user))); size > 2<<20 {
		t.Errorf("%d bytes", size)
	}
	if n, err := store.Count(t.Context(), user, other); n >= 10 || n < 2 || err != nil {
		t.Error(n, err)
	}
	if out, err := exec.Command("git", "--git-dir", dir, "fsck", "--strict", "--full").CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
}

// TestTheTotalOfAUserIsKept: after it was counted, a version of one project does not look
// at the other ones, until the total is too large or old.
func TestTheTotalOfAUserIsKept(t *testing.T) {
	state := filepath.Join(t.TempDir(), "history")
	const other = dreamcore.ProjectID("33333333-3333-4333-8333-333333333333")
	var store *Store
	for _, p := range []dreamcore.ProjectID{project, other} {
		f := newFixtureIn(t, t.TempDir(), state)
		store = f.store
		for i := range 10 {
			f.write(t, map[string]string{"a": random(100 << 10)})
			if _, _, err := store.Commit(t.Context(), user, p, f.root, fmt.Sprint(i), when); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := filepath.Join(state, string(user))
	versions := func() int {
		t.Helper()
		if _, err := store.Prune(t.Context(), user, project); err != nil {
			t.Fatal(err)
		}
		a, err := store.Count(t.Context(), user, project)
		b, err2 := store.Count(t.Context(), user, other)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		return a + b
	}
	store.SetLimits(Limits{UserBytes: 1 << 30})
	if n := versions(); n != 20 || store.totals.users[dir].bytes < 2<<20-100<<10 {
		t.Fatalf("%d versions, %+v", n, store.totals.users[dir])
	}
	store.SetLimits(Limits{UserBytes: 1500 << 10})
	keep := func(bytes int64, age time.Duration) {
		store.totals.set(dir, map[string]int64{filepath.Join(dir, string(other)+repoExtension): bytes})
		store.totals.users[dir].since = time.Now().Add(-age)
	}
	keep(1, 0)
	if n := versions(); n != 20 {
		t.Errorf("the other project was looked at: %d versions", n)
	}
	if got := store.totals.users[dir]; len(got.sizes) != 2 || got.bytes < 1000<<10 || store.totals.repos != 2 {
		t.Errorf("what is kept: %+v", got)
	}
	keep(1, totalAge+time.Second)
	if n := versions(); n >= 20 {
		t.Errorf("an old total holds: %d versions", n)
	}
	before := versions()
	store.SetLimits(Limits{UserBytes: 700 << 10})
	if n := versions(); n >= before {
		t.Errorf("a total beyond the limit changes nothing: %d versions", n)
	}
	if size := onDiskBytes(t, dir); size > 700<<10 {
		t.Errorf("%d bytes", size)
	}
}

// BenchmarkPruneOfManyProjects is what the limit of a user costs each version.
func BenchmarkPruneOfManyProjects(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			store, err := Open(filepath.Join(b.TempDir(), "history"), Options{})
			if err != nil {
				b.Fatal(err)
			}
			store.SetLimits(Limits{UserBytes: 1 << 40})
			root, err := os.OpenRoot(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			defer root.Close()
			if err := root.WriteFile("a", []byte("a"), 0o600); err != nil {
				b.Fatal(err)
			}
			for i := range n {
				id := dreamcore.ProjectID(fmt.Sprintf("33333333-3333-4333-8333-%012d", i))
				if _, _, err := store.Commit(b.Context(), user, id, root, "a", when); err != nil {
					b.Fatal(err)
				}
			}
			prune := func() {
				if _, err := store.Prune(b.Context(), user, "33333333-3333-4333-8333-000000000000"); err != nil {
					b.Fatal(err)
				}
			}
			prune() // counts everything
			for b.Loop() {
				prune()
			}
		})
	}
}

// TestKilledPruneLeavesASoundHistory kills it at every step.
func TestKilledPruneLeavesASoundHistory(t *testing.T) {
	for step, damage := range map[string]func(f *fixture, r *repo, kept map[plumbing.Hash]bool, boundary map[plumbing.Hash]bool) error{
		"before anything": func(f *fixture, r *repo, _, _ map[plumbing.Hash]bool) error { return r.forgetSize() },
		"the list is half written": func(f *fixture, r *repo, _, _ map[plumbing.Hash]bool) error {
			return os.WriteFile(filepath.Join(f.git, tempPrefix+"x"), []byte("0123"), 0o600)
		},
		"after the list": func(f *fixture, r *repo, _, boundary map[plumbing.Hash]bool) error { return r.setShallow(boundary) },
		"while objects are removed": func(f *fixture, r *repo, kept, boundary map[plumbing.Hash]bool) error {
			if err := r.setShallow(boundary); err != nil {
				return err
			}
			removed := 0
			return r.looseObjects(t.Context(), func(path string, hash plumbing.Hash, _ os.FileInfo) error {
				if removed++; kept[hash] || removed%2 == 0 {
					return nil
				}
				return os.Remove(path)
			})
		},
	} {
		t.Run(step, func(t *testing.T) {
			f := newFixture(t)
			for i := range 8 {
				f.write(t, map[string]string{"large.bin": random(100 << 10), "index.html": fmt.Sprint(i)})
				f.commit(t, fmt.Sprint(i))
			}
			r, err := openRepo(f.git)
			if err != nil {
				t.Fatal(err)
			}
			head, err := r.head()
			if err != nil {
				t.Fatal(err)
			}
			k := &keeper{ctx: t.Context(), repo: r, kept: map[plumbing.Hash]bool{}}
			if err := k.choose(head, 350<<10); err != nil {
				t.Fatal(err)
			}
			if err := damage(f, r, k.kept, k.boundary); err != nil {
				t.Fatal(err)
			}
			f.command(t, "fsck", "--full", "--strict")
			f.write(t, map[string]string{"index.html": "after"})
			f.commit(t, "after")
			f.prune(t, Limits{ProjectBytes: 500 << 10})
			if size := onDiskBytes(t, f.git); size > 500<<10 {
				t.Errorf("%d bytes", size)
			}
			f.fsck(t)
			if n, err := f.store.Count(t.Context(), user, project); n < 2 || err != nil {
				t.Error(n, err)
			}
		})
	}
}

// TestAdoptOfAPrunedHistory adopts a copy of it, as an import after an export
// does.
// A missing file is tolerated while objects are looked for, not where they are used.
func TestErrorsOfVisitsAreReturned(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"index.html": "x"})
	f.commit(t, "first")
	r, err := openRepo(f.git)
	if err != nil {
		t.Fatal(err)
	}
	visits := 0
	err = r.looseObjects(t.Context(), func(string, plumbing.Hash, os.FileInfo) error {
		visits++
		return fs.ErrNotExist
	})
	if !errors.Is(err, fs.ErrNotExist) || visits != 1 {
		t.Errorf("%v after %d visits", err, visits)
	}
}

func TestAdoptOfAPrunedHistory(t *testing.T) {
	f := newFixture(t)
	for i := range 8 {
		f.write(t, map[string]string{"large.bin": random(100 << 10), "index.html": fmt.Sprint(i)})
		f.commit(t, fmt.Sprint(i))
	}
	f.prune(t, Limits{ProjectBytes: 600 << 10})
	want, err := f.store.Log(t.Context(), user, project, 0)
	if err != nil || len(want) >= 8 {
		t.Fatal(len(want), err)
	}
	to := newFixture(t)
	if out, err := exec.Command("cp", "-r", f.git, filepath.Join(to.dir, gitDir)).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	to.write(t, map[string]string{"index.html": "new"})
	if a := adopt(t, to); a.Versions != len(want) || a.LeftOut != 0 || a.Reason != "" {
		t.Errorf("%+v, want %d versions", a, len(want))
	}
	to.fsck(t)
	got, err := to.store.Log(t.Context(), user, project, 0)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v: %v", got, want, err)
	}
	to.commit(t, "goes on")
	to.fsck(t)
	if a := adopt(t, to); a.Reason != "" {
		t.Errorf("again: %+v", a)
	}
}

func TestFalseShallowListIsHarmless(t *testing.T) {
	f := newFixture(t)
	oldProject(t, f)
	head := git(t, f.dir, "rev-parse", "HEAD~2")
	if err := os.WriteFile(filepath.Join(f.dir, gitDir, shallowFile), []byte(strings.Repeat("1", 40)+"\n"+head+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if a := adopt(t, f); a.Head == "" || a.Reason != "" {
		t.Errorf("%+v", a)
	}
	f.fsck(t)
}

// TestSizeIsCachedUntilAnInterruption: versions keep the size up to date, and
// it is counted again after an interrupted one.
func TestSizeIsCachedUntilAnInterruption(t *testing.T) {
	f := newFixture(t)
	known := func() (int64, bool) {
		r, err := openRepo(f.git)
		if err != nil {
			t.Fatal(err)
		}
		return r.knownSize(plumbing.NewHash(f.head(t)))
	}
	for i := range 5 {
		f.write(t, map[string]string{"a": random(100<<10 + i)})
		f.commit(t, fmt.Sprint(i))
		if _, err := sizeOf(t.Context(), f.git); err != nil {
			t.Fatal(err)
		}
		if size, ok := known(); !ok || size < onDiskBytes(t, f.git)*8/10 || size > onDiskBytes(t, f.git)*12/10 {
			t.Errorf("%d %v, on disk %d", size, ok, onDiskBytes(t, f.git))
		}
	}
	r, err := openRepo(f.git)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.forgetSize(); err != nil { // as a killed commit leaves it
		t.Fatal(err)
	}
	f.write(t, map[string]string{"a": "x"})
	f.commit(t, "after")
	if _, ok := known(); ok {
		t.Error("a size is cached that was not counted")
	}
	if size, err := sizeOf(t.Context(), f.git); err != nil || size < onDiskBytes(t, f.git)*9/10 {
		t.Error(size, err)
	}
}

// TestReadersDuringAPrune: a version is read or not found; the history is
// never reported as damaged.
func TestReadersDuringAPrune(t *testing.T) {
	f := newFixture(t)
	var hashes []string
	for i := range 12 {
		f.write(t, map[string]string{"a.js": random(50 << 10), "b.js": fmt.Sprint(i)})
		hash, _ := f.commit(t, fmt.Sprint(i))
		hashes = append(hashes, hash)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for limit := int64(900 << 10); limit > 100<<10; limit -= 100 << 10 {
			f.store.SetLimits(Limits{ProjectBytes: limit})
			if _, err := f.store.Prune(t.Context(), user, project); err != nil {
				t.Error(err)
			}
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		for _, hash := range hashes {
			if _, err := f.store.Diff(t.Context(), user, project, hash); err != nil && dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
				t.Error(err)
			}
		}
		if _, err := f.store.Log(t.Context(), user, project, 0); err != nil {
			t.Error(err)
		}
	}
	f.fsck(t)
}

// TestManyVersionsStayWithinTheirBound creates a thousand versions with
// DREAMCORE_TEST_VERSIONS=1000.
func TestManyVersionsStayWithinTheirBound(t *testing.T) {
	count := 60
	if text := os.Getenv("DREAMCORE_TEST_VERSIONS"); text != "" {
		if _, err := fmt.Sscan(text, &count); err != nil {
			t.Fatal(err)
		}
	}
	const limit = 3 << 20
	f := newFixture(t)
	f.store.SetLimits(Limits{ProjectBytes: limit, UserBytes: 2 * limit})
	var most int64
	var slowest time.Duration
	for i := range count {
		f.write(t, map[string]string{"index.html": fmt.Sprint(i), "game.js": strings.Repeat(fmt.Sprint("line ", i, "\n"), 500), "sprite.png": random(100 << 10)})
		f.commit(t, fmt.Sprint(i))
		began := time.Now()
		if _, err := f.store.Prune(t.Context(), user, project); err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(began))
		most = max(most, onDiskBytes(t, f.git))
	}
	if most > limit+16<<10 { // the index and the list are counted only by measure
		t.Errorf("%d bytes, the limit is %d", most, limit)
	}
	f.fsck(t)
	versions, err := f.store.Log(t.Context(), user, project, 0)
	if err != nil || len(versions) < 5 || versions[0].Message != fmt.Sprint(count-1) {
		t.Fatal(len(versions), err)
	}
	for _, v := range versions {
		f.command(t, "archive", v.Hash)
	}
	t.Logf("%d versions: at most %d KiB on disk (limit %d), %d versions are left, the slowest pruning took %v", count, most>>10, limit>>10, len(versions), slowest)
}

// TestPruneRemovesObjectsOfOtherBranches: the branches and tags that an
// operator adds to the repository do not keep old versions.
func TestPruneRemovesObjectsOfOtherBranches(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"large.bin": random(300 << 10)})
	first, _ := f.commit(t, "first")
	f.command(t, "branch", "operator", first)
	for range 3 {
		f.write(t, map[string]string{"large.bin": random(300 << 10)})
		f.commit(t, "later")
	}
	f.prune(t, Limits{ProjectBytes: 500 << 10})
	if size := onDiskBytes(t, f.git); size > 500<<10 {
		t.Errorf("%d bytes: the limit is exceeded because of another branch", size)
	}
	if n, err := f.store.Count(t.Context(), user, project); n != 1 || err != nil {
		t.Error(n, err)
	}
	f.command(t, "log", "main")
}
