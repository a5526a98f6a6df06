package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	user    = dreamcore.UserID("11111111-1111-4111-8111-111111111111")
	project = dreamcore.ProjectID("22222222-2222-4222-8222-222222222222")
)

// when has a time zone, which versions preserve.
var when = time.Date(2026, 1, 30, 12, 0, 0, 0, time.FixedZone("JST", 9*3600))

// fixture is a project and its history.
type fixture struct {
	store *Store
	root  *os.Root
	dir   string // of the project
	git   string // its repository
	logs  *bytes.Buffer
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	return newFixtureIn(t, t.TempDir(), filepath.Join(t.TempDir(), "history"))
}

func newFixtureIn(t testing.TB, dir, history string) *fixture {
	t.Helper()
	f := &fixture{dir: dir, logs: &bytes.Buffer{}}
	var err error
	if f.store, err = Open(history, Options{Logger: slog.New(slog.NewTextHandler(f.logs, nil))}); err != nil {
		t.Fatal(err)
	}
	if f.root, err = os.OpenRoot(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.root.Close() })
	f.git = filepath.Join(history, string(user), string(project)+".git")
	return f
}

func (f *fixture) write(t testing.TB, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(f.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

func (f *fixture) tryCommit(ctx context.Context, message string) (string, bool, error) {
	return f.store.Commit(ctx, user, project, f.root, message, when)
}

func (f *fixture) commit(t testing.TB, message string) (hash string, changed bool) {
	t.Helper()
	hash, changed, err := f.tryCommit(t.Context(), message)
	if err != nil {
		t.Fatal(err)
	}
	return hash, changed
}

// command runs stock git on the history.
func (f *fixture) command(t testing.TB, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		sandboxtest.Need(t, false, "git")
	}
	cmd := exec.Command("git", append([]string{"--git-dir", f.git}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// tree lists the files of the newest version as "mode path", according to git.
func (f *fixture) tree(t testing.TB) (items []string) {
	t.Helper()
	f.fsck(t)
	for line := range strings.SplitSeq(strings.TrimSuffix(f.command(t, "ls-tree", "-r", "-z", "main"), "\x00"), "\x00") {
		info, path, _ := strings.Cut(line, "\t")
		items = append(items, strings.Fields(info)[0]+" "+path)
	}
	slices.Sort(items)
	return items
}

func (f *fixture) fsck(t testing.TB) {
	t.Helper()
	out := f.command(t, "fsck", "--strict", "--full", "--no-dangling", "--no-progress")
	if out != "" {
		t.Fatalf("git fsck reports: %s", out)
	}
}

func TestVersionsAreCommitsThatStockGitReads(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"index.html": "<html>", "assets/a.js": "1;", "a.b": "", "a/b": "", "a0": "", "日本/ゲーム.txt": "語"})
	os.Chmod(filepath.Join(f.dir, "assets/a.js"), 0o755)
	os.Symlink("index.html", filepath.Join(f.dir, "link"))
	os.Symlink("/etc/passwd", filepath.Join(f.dir, "out"))
	os.Mkdir(filepath.Join(f.dir, "empty"), 0o755)
	first, changed := f.commit(t, "make snake\n\nwith a body")
	if !changed || !regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(first) || Short(first) != first[:7] {
		t.Fatal(first, changed)
	}
	want := []string{"100644 a.b", "100644 a/b", "100644 a0", "100644 index.html", "100644 日本/ゲーム.txt", "100755 assets/a.js", "120000 link", "120000 out"}
	if got := f.tree(t); !slices.Equal(got, want) {
		t.Fatalf("got %q", got)
	}
	if got := f.command(t, "show", "main:out"); got != "/etc/passwd" {
		t.Fatalf("the link holds %q", got)
	}
	f.write(t, map[string]string{"index.html": "<html>2"})
	os.Remove(filepath.Join(f.dir, "a0"))
	second, _ := f.commit(t, "faster")
	f.fsck(t)
	got := f.command(t, "log", "--name-status", "--format=%H %an <%ae> %cn %cI|%s|%b")
	wantLog := fmt.Sprintf("%s dreamcore <dreamcore@localhost> dreamcore 2026-01-30T12:00:00+09:00|faster|\n\nD\ta0\nM\tindex.html\n", second)
	if !strings.HasPrefix(got, wantLog) || !strings.Contains(got, first+" dreamcore <dreamcore@localhost>") || !strings.Contains(got, "|make snake|with a body") {
		t.Fatalf("git log:\n%s", got)
	}
	if got := f.command(t, "symbolic-ref", "HEAD"); got != "refs/heads/main\n" {
		t.Fatalf("HEAD is %q", got)
	}
}

func TestNoVersionWithoutAChange(t *testing.T) {
	f := newFixture(t)
	if hash, changed := f.commit(t, "empty"); hash != "" || changed {
		t.Fatalf("an empty project: %q, %v", hash, changed)
	}
	if versions, err := f.store.Log(t.Context(), user, project, 0); err != nil || len(versions) != 0 {
		t.Fatalf("%v, %v", versions, err)
	}
	f.write(t, map[string]string{"a": "1"})
	first, changed := f.commit(t, "one")
	if !changed {
		t.Fatal("the first version was not created")
	}
	for range 2 {
		if hash, changed := f.commit(t, "again"); hash != first || changed {
			t.Fatalf("%q, %v", hash, changed)
		}
	}
	os.Chtimes(filepath.Join(f.dir, "a"), time.Now(), time.Unix(1, 0))
	os.Mkdir(filepath.Join(f.dir, "empty"), 0o755)
	if hash, changed := f.commit(t, "touched"); hash != first || changed {
		t.Fatalf("a touched file: %q, %v", hash, changed)
	}
	os.Chmod(filepath.Join(f.dir, "a"), 0o755)
	if hash, changed := f.commit(t, "a program"); hash == first || !changed {
		t.Fatalf("a changed mode: %q, %v", hash, changed)
	}
	os.Remove(filepath.Join(f.dir, "a"))
	if _, changed := f.commit(t, "all gone"); !changed {
		t.Fatal("no version was created after the last file was removed")
	}
	f.fsck(t)
	if n := len(strings.Fields(f.command(t, "rev-list", "main"))); n != 3 {
		t.Fatalf("%d commits", n)
	}
}

func TestLogReturnsTheNewestFirst(t *testing.T) {
	f := newFixture(t)
	if versions, err := f.store.Log(t.Context(), user, project, 5); err != nil || versions != nil {
		t.Fatalf("no history: %v, %v", versions, err)
	}
	if _, err := os.Stat(f.git); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("Log created a history")
	}
	var hashes []string
	for i := range 5 {
		f.write(t, map[string]string{"a": fmt.Sprint(i)})
		hash, _ := f.commit(t, fmt.Sprintf("version %d\n", i))
		hashes = append(hashes, hash)
	}
	for limit, want := range map[int]int{1: 1, 3: 3, 5: 5, 100: 5, 0: 5, -1: 5, 1 << 40: 5} {
		versions, err := f.store.Log(t.Context(), user, project, limit)
		if err != nil || len(versions) != want {
			t.Fatalf("limit %d: %d versions, %v", limit, len(versions), err)
		}
		for i, v := range versions {
			n := 4 - i
			if v.Hash != hashes[n] || v.Message != fmt.Sprintf("version %d", n) || v.When.Format(time.RFC3339) != "2026-01-30T12:00:00+09:00" {
				t.Fatalf("version %d: %+v", n, v)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.store.Log(ctx, user, project, 1); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestCommitAfterGitGC(t *testing.T) {
	f := newFixture(t)
	for i := range 3 {
		f.write(t, map[string]string{"a": fmt.Sprint(i), "b": "same"})
		f.commit(t, "before")
	}
	f.command(t, "gc", "--quiet", "--prune=now")
	f.command(t, "pack-refs", "--all")
	f.write(t, map[string]string{"a": "after"})
	f.commit(t, "after")
	f.fsck(t)
	if versions, err := f.store.Log(t.Context(), user, project, 0); err != nil || len(versions) != 4 || versions[0].Message != "after" {
		t.Fatalf("%v, %v", versions, err)
	}
}

func TestGitAcceptsEveryMessage(t *testing.T) {
	f := newFixture(t)
	for i, m := range []string{"", " \n ", "a\x00b", "bad \xff UTF-8", strings.Repeat("語", maxMessage), "tree 0\nparent x\n", "-----BEGIN PGP SIGNATURE-----"} {
		f.write(t, map[string]string{"a": fmt.Sprint(i)})
		f.commit(t, m)
	}
	for i, w := range []time.Time{{}, time.Unix(-5, 0), time.Unix(1<<40, 0).In(time.FixedZone("", -12*3600))} {
		f.write(t, map[string]string{"b": fmt.Sprint(i)})
		if _, _, err := f.store.Commit(t.Context(), user, project, f.root, "m", w); err != nil {
			t.Fatal(err)
		}
	}
	f.fsck(t)
	if versions, err := f.store.Log(t.Context(), user, project, 0); err != nil || len(versions) != 10 || versions[9].Message != "New version" || versions[7].Message != "ab" {
		t.Fatalf("%v, %v", versions, err)
	}
}

func TestConcurrentCommits(t *testing.T) {
	f := newFixture(t)
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 5 {
				f.write(t, map[string]string{fmt.Sprintf("w%d", w): fmt.Sprint(i)})
				if _, _, err := f.tryCommit(t.Context(), fmt.Sprintf("%d %d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	f.commit(t, "last")
	if got := f.tree(t); len(got) != 4 {
		t.Fatalf("got %q", got)
	}
	for w := range 4 {
		if got := f.command(t, "show", fmt.Sprintf("main:w%d", w)); got != "4" {
			t.Errorf("w%d is %q", w, got)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(f.git)); len(left) != 1 {
		t.Fatalf("left over: %v", left)
	}
}

func TestCommitWaitsForTheLockUntilItsContextEnds(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"a": "1"})
	f.commit(t, "one")
	unlock, err := lock(t.Context(), f.git)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, _, err := f.tryCommit(ctx, "two"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	unlock()
	f.commit(t, "three")
}

func TestResidueOfAKilledWriterIsRemoved(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"a": "1"})
	os.MkdirAll(f.git+".new/objects", dirMode)
	f.commit(t, "one")
	for _, name := range []string{tempPrefix + "x", "objects/" + tempPrefix + "y"} {
		os.WriteFile(filepath.Join(f.git, name), []byte("half"), fileMode)
	}
	f.commit(t, "one")
	filepath.WalkDir(filepath.Dir(f.git), func(path string, d fs.DirEntry, err error) error {
		if strings.HasPrefix(d.Name(), tempPrefix) || strings.HasSuffix(path, ".new") {
			t.Errorf("left over: %s", path)
		}
		return err
	})
}

func TestDamagedHistoryIsAnErrorNotANewHistory(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"a": "1"})
	hash, _ := f.commit(t, "one")
	ref := filepath.Join(f.git, branch)
	check := func(what string) {
		t.Helper()
		f.write(t, map[string]string{"a": what})
		_, _, err := f.tryCommit(t.Context(), "two")
		_, logErr := f.store.Log(t.Context(), user, project, 0)
		for _, err := range []error{err, logErr} {
			if dreamcore.CodeOf(err) != dreamcore.CodeInternal || !strings.Contains(dreamcore.HintOf(err), "fsck") {
				t.Fatalf("%s: %v, hint %q", what, err, dreamcore.HintOf(err))
			}
		}
	}
	good, _ := os.ReadFile(ref)
	os.WriteFile(ref, nil, fileMode)
	check("empty reference")
	os.WriteFile(ref, []byte(strings.Repeat("1", 40)+"\n"), fileMode)
	check("reference to nothing")
	os.WriteFile(ref, good, fileMode)
	object := filepath.Join(f.git, "objects", hash[:2], hash[2:])
	os.WriteFile(object, nil, fileMode)
	check("empty commit")
}

func TestFullDiskLeavesTheHistoryIntact(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to mount")
	mount := t.TempDir()
	sandboxtest.Need(t, syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=1m") == nil, "root, to mount a small tmpfs")
	t.Cleanup(func() {
		if err := syscall.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	f := newFixtureIn(t, t.TempDir(), filepath.Join(mount, "history"))
	f.write(t, map[string]string{"a": "1"})
	first, _ := f.commit(t, "one")
	noise := func(size int) string { // does not compress
		b := make([]byte, size)
		state := uint64(size)
		for i := range b {
			state = state*6364136223846793005 + 1442695040888963407
			b[i] = byte(state >> 56)
		}
		return string(b)
	}
	for name, size := range map[string]int{"small": 2 << 20, "large": smallBytes + 1} {
		f.write(t, map[string]string{"big": noise(size)})
		_, _, err := f.tryCommit(t.Context(), "two")
		if !errors.Is(err, syscall.ENOSPC) || dreamcore.CodeOf(err) != dreamcore.CodeSetup || !strings.Contains(dreamcore.HintOf(err), "df -h") {
			t.Fatalf("%s: %v, hint %q", name, err, dreamcore.HintOf(err))
		}
		if versions, err := f.store.Log(t.Context(), user, project, 0); err != nil || len(versions) != 1 || versions[0].Hash != first {
			t.Fatalf("%s: %v, %v", name, versions, err)
		}
		f.fsck(t)
		if left, _ := filepath.Glob(filepath.Join(f.git, "objects", tempPrefix+"*")); len(left) != 0 {
			t.Fatalf("%s: left over %v", name, left)
		}
	}
	f.write(t, map[string]string{"big": "small"})
	if _, changed := f.commit(t, "three"); !changed {
		t.Fatal("no version was created with free space again")
	}
	f.fsck(t)
}
