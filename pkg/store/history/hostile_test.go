package history

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

func TestHostileTreesLeaveASoundHistory(t *testing.T) {
	f := newFixture(t)
	outside := t.TempDir()
	os.WriteFile(filepath.Join(outside, "secret"), []byte("needle"), 0o644)
	f.write(t, map[string]string{
		"index.html": "<html>", "new\nline\t\"quote\"\\back": "odd", "\xff\xfe": "not UTF-8", "-rf": "dash", "..a": "dots", " ": "space",
		".git/config": "[core]\n\tfsmonitor = touch /pwned", "sub/.git": "gitdir: /etc", ".hidden/x": "kept", ".gitignore": "*", "sub/.gitattributes": "* text\n",
	})
	for _, name := range reservedNames {
		f.write(t, map[string]string{"bad/" + name: "x"})
	}
	f.write(t, map[string]string{"attr/.gitattributes": strings.Repeat("x", 3000), "huge/.gitattributes": strings.Repeat("a\n", smallBytes)})
	os.Mkdir(filepath.Join(f.dir, "links"), 0o755)
	for name, target := range map[string]string{
		"links/out": filepath.Join(outside, "secret"), "links/dir": outside, "links/loop": "loop", "links/up": "../..", "links/long": strings.Repeat("a", 4000),
		"links/.gitignore": "/etc/passwd", "links/.gitattributes": "/etc/passwd", "links/.mailmap": "/etc/passwd", "links/.gitmodules": "/etc/passwd", "links/.Git": "/",
	} {
		if err := os.Symlink(target, filepath.Join(f.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		syscall.Mkfifo(filepath.Join(f.dir, "fifo"), 0o644),
		os.MkdirAll(filepath.Join(f.dir, "deep"+strings.Repeat("/d", MaxDepth+20)), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f.write(t, map[string]string{"deep" + strings.Repeat("/d", MaxDepth-2) + "/just": "x", "deep" + strings.Repeat("/d", MaxDepth-1) + "/beyond": "x"})
	if err := os.Truncate(filepath.Join(f.dir, "index.html"), 10); err != nil {
		t.Fatal(err)
	}
	sparse := filepath.Join(f.dir, "sparse")
	os.WriteFile(sparse, nil, 0o644)
	os.Truncate(sparse, MaxFileBytes+1)
	f.commit(t, "hostile")
	want := []string{
		"100644  ", "100644 -rf", "100644 ..a", "100644 .gitignore", "100644 .hidden/x", "100644 deep" + strings.Repeat("/d", MaxDepth-2) + "/just",
		"100644 index.html", "100644 new\nline\t\"quote\"\\back", "100644 sub/.gitattributes", "100644 \xff\xfe",
		"120000 links/dir", "120000 links/long", "120000 links/loop", "120000 links/out", "120000 links/up",
	}
	slices.Sort(want)
	if got := f.tree(t); !slices.Equal(got, want) {
		t.Fatalf("got %q", got)
	}
	if all := f.command(t, "cat-file", "--batch-all-objects", "--batch"); strings.Contains(all, "needle") || strings.Contains(all, "fsmonitor") {
		t.Fatal("the history contains files from outside or from .git")
	}
	for _, reason := range []string{"larger than 256 MiB", "Git reserves the name", "too many directories", "too long for Git", "user=" + string(user), "Git reserves the name: 2"} {
		if !strings.Contains(f.logs.String(), reason) {
			t.Errorf("the log does not say %q: %s", reason, f.logs)
		}
	}
}

var reservedNames = []string{
	".GIT/x", ".gIt", ".git.", ".git ", ".git . .", "git~1", "GIT~12", ".g\u200cit", ".\ufeffgit", ".git::$INDEX_ALLOCATION", "a\\.git", ".git\\x",
	".gitmodules", ".GITMODULES", ".gitmodules ", ".gitmodule\u200ds", "gitmod~1", "GI7EBA~1", "gi7eb~10", "gi7eba~9", ".gitmodules:$DATA", "~1000000",
}

func TestReservedNames(t *testing.T) {
	for _, name := range append(reservedNames, ".git") {
		if name = strings.TrimSuffix(name, "/x"); !reserved(name, false) {
			t.Errorf("%q is not reserved", name)
		}
	}
	for _, name := range []string{".gitignore", ".gitattributes", ".mailmap", "git", "git.js", "a.git", ".gitx", "digit~1x", "backup~1", "file~", "gi.txt", "game", "~", ".github", "..git"} {
		if reserved(name, false) {
			t.Errorf("%q is reserved", name)
		}
	}
	for _, name := range []string{".gitignore", ".GitAttributes", ".mailmap "} {
		if !reserved(name, true) {
			t.Errorf("the link %q is not reserved", name)
		}
	}
}

// FuzzReserved checks that every disguise of a reserved name is reserved.
func FuzzReserved(f *testing.F) {
	for _, name := range reservedNames {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		for _, disguise := range []string{name, strings.ToUpper(name), name + " .", name + ":x", "\u200d" + name, `x\` + name} {
			if reserved(name, false) && !reserved(disguise, false) {
				t.Fatalf("%q is reserved and %q is not", name, disguise)
			}
		}
		if reserved(name, false) && !reserved(name, true) {
			t.Fatalf("the link %q is not reserved", name)
		}
	})
}

func TestNumberAndSizeOfFilesAreBounded(t *testing.T) {
	f := newFixture(t)
	for i := range 50 {
		f.write(t, map[string]string{fmt.Sprintf("d/%02d", i): "12345"})
	}
	f.commit(t, "sound")
	for name, limit := range map[string]func(*snapshot){
		"names": func(s *snapshot) { s.namesLeft = 21 },
		"bytes": func(s *snapshot) { s.bytesLeft = 100 },
	} {
		top, _ := f.root.OpenRoot(".")
		s := newSnapshot(t.Context(), newWriter(f.git), newIndex())
		limit(s)
		if _, files, err := s.dir(top, "", 1); err != nil || !files || len(s.next.files) != 20 || len(s.notes) != 1 {
			t.Fatalf("%s: %d files, %v left out, %v", name, len(s.next.files), s.notes, err)
		}
	}
}

func TestLargeFilesAreStored(t *testing.T) {
	f := newFixture(t)
	large := strings.Repeat("0123456789abcdef", (smallBytes/16)+1)
	f.write(t, map[string]string{"large": large, "at-limit": large[:smallBytes]})
	first, _ := f.commit(t, "large")
	f.fsck(t)
	if got := f.command(t, "show", "main:large"); got != large {
		t.Fatalf("%d bytes came back", len(got))
	}
	os.Chtimes(filepath.Join(f.dir, "large"), time.Now(), time.Now())
	if hash, changed := f.commit(t, "touched"); hash != first || changed {
		t.Fatal(hash, changed)
	}
}

func TestFilesThatCannotBeReadAreLeftOut(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"a": "1", "closed": "2", "dir/b": "3"})
	os.Chmod(filepath.Join(f.dir, "closed"), 0)
	os.Chmod(filepath.Join(f.dir, "dir"), 0)
	t.Cleanup(func() { os.Chmod(filepath.Join(f.dir, "dir"), 0o755) })
	done := make(chan error)
	go func() {
		// Root can read everything, so this thread takes another user ID for
		// the file system. It ends with the goroutine, which keeps it locked.
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			const nobody = 65534
			for _, dir := range []string{f.dir, f.store.dir} {
				os.Chown(dir, nobody, nobody)
				os.Chmod(filepath.Dir(dir), 0o755)
				os.Chmod(filepath.Dir(filepath.Dir(dir)), 0o755)
			}
			syscall.Syscall(syscall.SYS_SETFSUID, nobody, 0, 0)
		}
		_, _, err := f.tryCommit(t.Context(), "some")
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := f.tree(t); !slices.Equal(got, []string{"100644 a"}) || !strings.Contains(f.logs.String(), "cannot be read: 2") {
		t.Fatalf("got %q, log %s", got, f.logs)
	}
}

func TestErrorsOfTheHostAreNotTolerated(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"d/a": "1"})
	f.commit(t, "one")
	f.write(t, map[string]string{"d/a": "2"})
	for _, own := range []error{os.ErrNotExist, os.ErrPermission, syscall.EINVAL, errReplaced} {
		s := newSnapshot(t.Context(), newWriter(f.git), newIndex())
		if err := s.tolerate("x", fmt.Errorf("wrapped: %w", &ownError{own})); !errors.Is(err, own) {
			t.Errorf("%v was tolerated: %v", own, err)
		}
		if err := s.tolerate("x", own); err != nil {
			t.Errorf("%v was not tolerated: %v", own, err)
		}
	}
	if err := os.Rename(filepath.Join(f.git, "objects"), filepath.Join(f.git, "aside")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.tryCommit(t.Context(), "two"); err == nil {
		t.Fatal("a version without objects")
	}
}

func TestNoVersionAfterTheContextEnded(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"a": "1"})
	first, _ := f.commit(t, "one")
	f.write(t, map[string]string{"a": "2"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := f.tryCommit(ctx, "two"); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if versions, err := f.store.Log(t.Context(), user, project, 0); err != nil || len(versions) != 1 || versions[0].Hash != first {
		t.Fatalf("%v, %v", versions, err)
	}
}

func TestALinkThatReplacesAnExaminedNameIsNotFollowed(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"file": "fine", "dir/a": "fine", "other/a": "x", "else": "x"})
	for _, target := range []string{"/etc", "../..", "missing", "other", "else"} {
		for _, name := range []string{"file", "dir"} {
			before, err := f.root.Lstat(name)
			if err != nil {
				t.Fatal(err)
			}
			s := newSnapshot(t.Context(), newWriter(f.git), newIndex())
			os.Rename(filepath.Join(f.dir, name), filepath.Join(f.dir, "aside"))
			os.Symlink(target, filepath.Join(f.dir, name))
			if name == "file" {
				_, _, err = s.read(f.root, name, before, plumbing.ZeroHash)
			} else {
				_, err = tree.OpenSameDir(f.root, name, before)
			}
			if err == nil || s.tolerate(name, err) != nil {
				t.Errorf("%s replaced by a link to %s: %v", name, target, err)
			}
			os.Remove(filepath.Join(f.dir, name))
			os.Rename(filepath.Join(f.dir, "aside"), filepath.Join(f.dir, name))
		}
	}
}

func TestConcurrentWritersCauseNoLeakAndNoHang(t *testing.T) {
	f := newFixture(t)
	outside := t.TempDir()
	os.WriteFile(filepath.Join(outside, "secret"), []byte("needle"), 0o644)
	f.write(t, map[string]string{"d/secret": "fine", "real/secret": "fine", "growing": "", "index.html": "x"})
	stop := make(chan struct{})
	var all sync.WaitGroup
	worker := func(work func(i int)) {
		all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					work(i)
				}
			}
		})
	}
	swap := func(path string, makers ...func(string)) func(int) {
		path = filepath.Join(f.dir, path)
		return func(i int) {
			os.Rename(path, path+"-aside")
			makers[i%len(makers)](path)
			os.Remove(path)
			os.Rename(path+"-aside", path)
		}
	}
	link := func(target string) func(string) { return func(path string) { os.Symlink(target, path) } }
	fifo := func(path string) { syscall.Mkfifo(path, 0o644) }
	worker(swap("d", link(outside), fifo, link("real")))
	worker(swap("real/secret", link(filepath.Join(outside, "secret")), fifo))
	worker(func(i int) { // grows and shrinks while it is read
		f.root.WriteFile("growing", []byte(strings.Repeat("g", (i%7)*100_000)), 0o644)
	})
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		if _, _, err := f.tryCommit(t.Context(), "moving"); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	all.Wait()
	f.commit(t, "at rest")
	if got := f.tree(t); !slices.Equal(got, []string{"100644 d/secret", "100644 growing", "100644 index.html", "100644 real/secret"}) {
		t.Fatalf("got %q", got)
	}
	if all := f.command(t, "cat-file", "--batch-all-objects", "--batch", "--buffer"); strings.Contains(all, "needle") {
		t.Fatal("a file outside of the project is in its history")
	}
}

func TestReservedPaths(t *testing.T) {
	for path, want := range map[string]bool{
		"index.html": false, "a/b.js": false, ".gitignore": false, "a/.GIT/config": true, "g\u200cit": false, ".g\u200cit/x": true, "a/git~1": true, ".gitmodules": true,
	} {
		if Reserved(path) != want {
			t.Errorf("%q", path)
		}
	}
}

// TestVersionsDoNotContainTheSkillsLink: a job removes it before it saves,
// but a killed service does not.
func TestVersionsDoNotContainTheSkillsLink(t *testing.T) {
	f := newFixture(t)
	link := func(name, target string) {
		t.Helper()
		path := filepath.Join(f.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(target, path)); err != nil {
			t.Fatal(err)
		}
	}
	link(".claude/skills", "/global/.claude/skills")
	if hash, _ := f.commit(t, "nothing but the link"); hash != "" {
		t.Errorf("a version %s of a project without a file", hash)
	}
	f.write(t, map[string]string{"index.html": "<p>"})
	f.commit(t, "a game")
	if got := f.tree(t); !slices.Equal(got, []string{"100644 index.html"}) {
		t.Errorf("%q", got)
	}
	// Any other link is part of the project.
	link("a/.claude/skills", "/global/.claude/skills")
	link(".claude/other", "/global/.claude/skills")
	f.write(t, map[string]string{".claude/notes.md": "mine"})
	f.commit(t, "more")
	want := []string{"100644 .claude/notes.md", "100644 index.html", "120000 .claude/other", "120000 a/.claude/skills"}
	if got := f.tree(t); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
