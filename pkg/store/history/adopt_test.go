package history

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// git runs stock git on a repository of the test's own.
func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	c := exec.Command("git", args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_AUTHOR_NAME=Älice", "GIT_AUTHOR_EMAIL=a@x",
		"GIT_COMMITTER_NAME=bob", "GIT_COMMITTER_EMAIL=", "GIT_AUTHOR_DATE=1600000000 +0900", "GIT_COMMITTER_DATE=1600000001 -0330")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// oldProject creates a project as the previous backend left it: files, and a .git
// with a merge, deltas and a tag.
func oldProject(t testing.TB, f *fixture) {
	t.Helper()
	oldOnce.Do(func() {
		made := &fixture{dir: t.TempDir()}
		makeOldProject(t, made)
		raw, err := exec.Command("tar", "-C", made.dir, "-c", ".").Output()
		if err != nil {
			t.Fatal(err)
		}
		oldTree = raw
	})
	c := exec.Command("tar", "-C", f.dir, "-x")
	c.Stdin = bytes.NewReader(oldTree)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}

// One old project is created, and unpacked for each test.
var (
	oldOnce sync.Once
	oldTree []byte
)

func makeOldProject(t testing.TB, f *fixture) {
	t.Helper()
	git(t, f.dir, "init", "-q", "-b", "master")
	text := strings.Repeat("a line of code that is long enough for a delta\n", 200)
	for i := range 12 {
		f.write(t, map[string]string{"index.html": text + strings.Repeat("x", i), "dir/sub/a.js": strings.Repeat("y", i+1)})
		git(t, f.dir, "add", "-A")
		git(t, f.dir, "commit", "-qm", "version "+strings.Repeat("i", i))
	}
	git(t, f.dir, "checkout", "-qb", "side", "HEAD~3")
	f.write(t, map[string]string{"side.js": "s"})
	git(t, f.dir, "add", "-A")
	git(t, f.dir, "commit", "-qm", "aside")
	git(t, f.dir, "checkout", "-q", "master")
	git(t, f.dir, "merge", "-q", "--no-edit", "side")
	git(t, f.dir, "tag", "-a", "-m", "tag", "v1")
}

func adopt(t testing.TB, f *fixture) Adopted {
	t.Helper()
	root, err := os.OpenRoot(filepath.Join(f.dir, ".git"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	a, err := f.store.Adopt(t.Context(), user, project, root)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAdoptKeepsHashesAuthorsAndMessages(t *testing.T) {
	for name, prepare := range map[string][][]string{
		"loose":        nil,
		"packed":       {{"gc", "-q", "--prune=now"}, {"pack-refs", "--all"}},
		"packed twice": {{"repack", "-adq", "--depth=50", "--window=50"}, {"commit", "-q", "--allow-empty", "-m", "more"}},
		"detached":     {{"checkout", "-q", "HEAD~1"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			oldProject(t, f)
			for _, args := range prepare {
				git(t, f.dir, args...)
			}
			head, log := git(t, f.dir, "rev-parse", "HEAD"), git(t, f.dir, "log", "--format=%H %an %ae %cn %ad %cd %P %B")
			n := strings.Count(git(t, f.dir, "log", "--format=%H"), "\n") + 1
			a := adopt(t, f)
			if a.Head != head || a.Versions != n || a.LeftOut != 0 || a.Reason != "" {
				t.Fatalf("%+v, want %d versions up to %s", a, n, head)
			}
			if got := f.command(t, "log", "--format=%H %an %ae %cn %ad %cd %P %B", "main"); strings.TrimSpace(string(got)) != log {
				t.Errorf("the log differs:\n%s\n%s", got, log)
			}
			f.fsck(t)
			if again := adopt(t, f); again.Head != head || again.Versions != 0 || again.Reason != "" {
				t.Errorf("again: %+v", again)
			}
			if _, changed := f.commit(t, "on top"); changed && name != "detached" {
				t.Error("a version was created without a change")
			}
			f.fsck(t)
		})
	}
}

func TestFirstVersionContinuesTheHistoryInsideAProject(t *testing.T) {
	f := newFixture(t)
	oldProject(t, f)
	ran := filepath.Join(t.TempDir(), "ran")
	for _, hook := range []string{"post-commit", "pre-commit", "reference-transaction", "post-checkout"} {
		if err := os.WriteFile(filepath.Join(f.dir, ".git/hooks", hook), []byte("#!/bin/sh\ntouch "+ran+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f.write(t, map[string]string{".git/config": "[core]\n\tfsmonitor = touch " + ran + "\n", "new.js": "new"})
	before := filepath.Join(f.dir, ".git")
	was := git(t, t.TempDir(), "--git-dir", before, "rev-parse", "master")
	if _, changed := f.commit(t, "now"); !changed {
		t.Fatal("nothing changed")
	}
	versions, err := f.store.Log(t.Context(), user, project, 0)
	if err != nil || len(versions) < 13 || versions[0].Message != "now" || versions[1].Hash != was || !versions[1].When.Equal(time.Unix(1600000001, 0)) {
		t.Fatalf("%v %v", versions, err)
	}
	f.fsck(t)
	if _, err := os.Stat(ran); err == nil {
		t.Error("a hook or the configuration of the project was run")
	}
	// Later changes of .git have no effect.
	f.write(t, map[string]string{".git/refs/heads/master": strings.Repeat("1", 40) + "\n", "newer.js": "x"})
	f.commit(t, "later")
	if versions, _ := f.store.Log(t.Context(), user, project, 2); versions[1].Message != "now" {
		t.Errorf("%v", versions)
	}
}

func TestAdoptTakesTheSoundPartOfAFaultyHistory(t *testing.T) {
	object := func(f *fixture, hash string) string {
		return filepath.Join(f.dir, ".git/objects", hash[:2], hash[2:])
	}
	sentinel := t.TempDir()
	if err := os.WriteFile(filepath.Join(sentinel, "HEAD"), []byte("ref: refs/heads/master\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	remove := func(t *testing.T, path string) {
		t.Helper()
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		harm   func(t *testing.T, f *fixture)
		left   int // commits that are left out; -1 means all
		reason string
	}{
		"a missing blob": {func(t *testing.T, f *fixture) {
			remove(t, object(f, git(t, f.dir, "rev-parse", "HEAD~2:dir/sub/a.js")))
		}, 3, "missing"},
		"an object under a wrong name": {func(t *testing.T, f *fixture) {
			must(t, os.Chmod(object(f, git(t, f.dir, "rev-parse", "HEAD:dir/sub/a.js")), 0o644))
			must(t, os.Rename(object(f, git(t, f.dir, "rev-parse", "HEAD:index.html")), object(f, git(t, f.dir, "rev-parse", "HEAD:dir/sub/a.js"))))
		}, 2, "damaged"},
		"a FIFO as an object": {func(t *testing.T, f *fixture) {
			p := object(f, git(t, f.dir, "rev-parse", "HEAD^{tree}"))
			remove(t, p)
			must(t, syscall.Mkfifo(p, 0o644))
		}, 1, "missing"},
		"a link as an object": {func(t *testing.T, f *fixture) {
			p := object(f, git(t, f.dir, "rev-parse", "HEAD^{tree}"))
			must(t, os.Rename(p, filepath.Join(sentinel, "object")))
			must(t, os.Symlink(filepath.Join(sentinel, "object"), p))
		}, 1, "missing"},
		"alternates": {func(t *testing.T, f *fixture) {
			moved := filepath.Join(t.TempDir(), "objects")
			must(t, os.Rename(filepath.Join(f.dir, ".git/objects"), moved))
			f.write(t, map[string]string{".git/objects/info/alternates": moved + "\n"})
		}, -1, "missing"},
		"a replacement": {func(t *testing.T, f *fixture) {
			git(t, f.dir, "replace", "HEAD", "HEAD~5")
		}, 0, ""},
		"a .git in a tree": {func(t *testing.T, f *fixture) {
			tree := git(t, f.dir, "rev-parse", "HEAD^{tree}")
			c := exec.Command("git", "mktree")
			c.Dir, c.Stdin = f.dir, strings.NewReader("040000 tree "+tree+"\t.GIT\n")
			out, err := c.CombinedOutput()
			must(t, err)
			git(t, f.dir, "reset", "-q", "--soft", git(t, f.dir, "commit-tree", "-p", "HEAD", "-m", "bad", strings.TrimSpace(string(out))))
		}, 1, "reserved"},
		"a shallow one": {func(t *testing.T, f *fixture) { remove(t, object(f, git(t, f.dir, "rev-parse", "HEAD~12"))) }, -1, "missing"},
		"HEAD is a link": {func(t *testing.T, f *fixture) {
			remove(t, filepath.Join(f.dir, ".git/HEAD"))
			must(t, os.Symlink(filepath.Join(sentinel, "HEAD"), filepath.Join(f.dir, ".git/HEAD")))
		}, -1, "HEAD"},
		"HEAD leaves": {func(t *testing.T, f *fixture) { f.write(t, map[string]string{".git/HEAD": "ref: refs/../../../x\n"}) }, -1, "no branch"},
		"HEAD in turn": {func(t *testing.T, f *fixture) {
			f.write(t, map[string]string{".git/refs/heads/master": "ref: refs/heads/master\n"})
		}, -1, "and so on"},
		"SHA-256": {func(t *testing.T, f *fixture) {
			f.write(t, map[string]string{".git/refs/heads/master": strings.Repeat("a", 64)})
		}, -1, "SHA-1"},
		"a lying pack": {func(t *testing.T, f *fixture) {
			git(t, f.dir, "gc", "-q", "--prune=now")
			packs, _ := filepath.Glob(filepath.Join(f.dir, ".git/objects/pack/*.pack"))
			must(t, os.Chmod(packs[0], 0o644))
			raw, err := os.ReadFile(packs[0])
			must(t, err)
			for i := 12; i < len(raw)-20 && i < 400; i++ {
				raw[i] |= 0xf0 // sizes without an end
			}
			must(t, os.WriteFile(packs[0], raw, 0o644))
		}, -1, ""},
		"a lying index": {func(t *testing.T, f *fixture) {
			git(t, f.dir, "gc", "-q", "--prune=now")
			packs, _ := filepath.Glob(filepath.Join(f.dir, ".git/objects/pack/*.idx"))
			must(t, os.Chmod(packs[0], 0o644))
			must(t, os.WriteFile(packs[0], []byte("\xfftOc\x00\x00\x00\x02"+strings.Repeat("\xff", 1024)), 0o644))
		}, -1, "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			oldProject(t, f)
			all := strings.Count(git(t, f.dir, "rev-list", "--first-parent", "HEAD"), "\n") + 1
			tt.harm(t, f)
			a := adopt(t, f)
			left := tt.left
			if left < 0 {
				if left = a.LeftOut; a.Head != "" || a.Versions != 0 {
					t.Errorf("%+v of %d", a, all)
				}
			}
			if a.LeftOut != left || !strings.Contains(a.Reason, tt.reason) || (tt.left != 0) != (a.Reason != "") {
				t.Errorf("%+v of %d", a, all)
			}
			if a.Head != "" {
				f.fsck(t)
			}
			f.commit(t, "after")
			f.fsck(t)
		})
	}
}

func TestAdoptContinuesButNeverReplacesAHistory(t *testing.T) {
	f := newFixture(t)
	oldProject(t, f)
	adopt(t, f)
	f.write(t, map[string]string{"more.js": "m"})
	git(t, f.dir, "add", "-A")
	git(t, f.dir, "commit", "-qm", "more")
	head := git(t, f.dir, "rev-parse", "HEAD")
	if a := adopt(t, f); a.Head != head || a.Reason != "" {
		t.Fatalf("forward: %+v", a)
	}
	git(t, f.dir, "reset", "-q", "--hard", "HEAD~2")
	f.write(t, map[string]string{"other.js": "m"})
	git(t, f.dir, "add", "-A")
	git(t, f.dir, "commit", "-qm", "other")
	if a := adopt(t, f); a.Head != "" || !strings.Contains(a.Reason, "other versions") {
		t.Fatalf("aside: %+v", a)
	}
	if versions, err := f.store.Log(t.Context(), user, project, 1); err != nil || versions[0].Hash != head {
		t.Fatalf("%v %v", versions, err)
	}
	f.fsck(t)
}

// FuzzForeign parses any bytes as a commit and as a tree.
func FuzzForeign(f *testing.F) {
	f.Add([]byte("tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor a <a> 1 +0000\ncommitter a <a> 1 +0000\n\nm\n"))
	f.Add(append([]byte("100644 a\x00"), make([]byte, 20)...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := &foreignCommit{}
		if err := c.parse(raw); err == nil && c.tree == plumbing.ZeroHash {
			t.Error("a commit without a tree")
		}
		items, err := parseTree(raw, MaxFiles)
		for _, i := range items {
			if err == nil && (i.Name == "" || strings.ContainsAny(i.Name, "/\x00")) {
				t.Errorf("%q", i.Name)
			}
		}
	})
}
