package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// hostile fills a project with everything that a sandbox can put there.
func hostile(t *testing.T, dir, outside string) {
	t.Helper()
	write(t, dir, map[string]string{
		"index.html": "<html>", "assets/b.png": "png!", "assets/a b\n\xff.png": "odd", ".env": "hidden", ".git/config": "[core]", "z/.hidden/x": "hidden",
	})
	for name, target := range map[string]string{
		"link.txt": filepath.Join(outside, "secret"), "linkdir": outside, "inner.html": "index.html", "assets/up": "../..", "loop": "loop", "self": ".",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	t.Chdir(dir) // the address of a socket is short
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: "socket"}); err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(dir, "deep"+strings.Repeat("/d", MaxDepth+10))
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, deep, map[string]string{"too-deep": ""})
	write(t, dir, map[string]string{"deep" + strings.Repeat("/d", MaxDepth-2) + "/just": "x"})
}

var visible = []string{"assets/a b\n\xff.png", "assets/b.png", "deep" + strings.Repeat("/d", MaxDepth-2) + "/just", "index.html"}

func outsideWithSecret(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string]string{"secret": "needle"})
	return dir
}

func TestFilesListsRegularFilesOnly(t *testing.T) {
	p, _, _ := newProject(t)
	hostile(t, p.Path(), outsideWithSecret(t))
	var got []string
	for f, err := range p.Files(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if f.Path == "assets/b.png" && (f.Size != 4 || f.Mode != 0o644 || time.Since(f.Modified) > time.Hour) {
			t.Errorf("got %+v", f)
		}
		got = append(got, f.Path)
	}
	if !slices.Equal(got, visible) {
		t.Fatalf("got %q", got)
	}
	for range p.Files(t.Context()) {
		break // must not go on
	}
}

func TestFilesStopsWithItsContext(t *testing.T) {
	p, _, _ := newProject(t)
	write(t, p.Path(), map[string]string{"a": "", "b": ""})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	n := 0
	for _, err := range p.Files(ctx) {
		cancel()
		last = err
		n++
	}
	if n != 2 || !errors.Is(last, context.Canceled) {
		t.Fatalf("%d, %v", n, last)
	}
}

func TestFilesOfAnEndlessProjectIsAnError(t *testing.T) {
	p, _, _ := newProject(t)
	for i := range 30 {
		write(t, p.Path(), map[string]string{fmt.Sprintf("d/%d", i): ""})
	}
	root, _ := p.root.OpenRoot(".")
	var got error
	w := &walk{ctx: t.Context(), left: 20, yield: func(_ File, err error) bool { got = err; return true }}
	w.dir(root, "", 1)
	wantError(t, got, dreamcore.CodeTooLarge, "more than")
}

func TestOpenReadsRegularFilesOnly(t *testing.T) {
	p, _, _ := newProject(t)
	hostile(t, p.Path(), outsideWithSecret(t))
	for name, want := range map[string]string{"index.html": "<html>", "./assets//b.png": "png!", "assets/../index.html": "<html>", "assets/a b\n\xff.png": "odd"} {
		f, info, err := p.Open(name)
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		data, err := io.ReadAll(f)
		if err != nil || string(data) != want || info.Size() != int64(len(want)) {
			t.Errorf("%q: %q, %v", name, data, err)
		}
		f.Close()
	}
	for _, name := range []string{"link.txt", "linkdir/secret", "inner.html", "assets/up/x", "loop", "self/index.html", "fifo", "socket", "assets", "missing", "index.html/x", "fifo/x", strings.Repeat("a", 300)} {
		_, _, err := p.Open(name)
		wantError(t, err, dreamcore.CodeNotFound, "File not found")
	}
	for _, name := range []string{"", ".", "/", "/etc/passwd", "..", "../x", "a/../../x", "a\x00b", strings.Repeat("a/", 3000)} {
		_, _, err := p.Open(name)
		wantError(t, err, dreamcore.CodeInvalid, "Invalid file path")
	}
}

func TestALinkOutOfTheProjectIsNoDiskError(t *testing.T) {
	p, _, _ := newProject(t)
	write(t, p.Path(), map[string]string{"a": ""})
	os.Symlink("/etc/passwd", filepath.Join(p.Path(), "link"))
	// What os.Root says when a file became a link after it was looked at.
	_, err := p.root.OpenFile("link", os.O_RDONLY, 0)
	if err == nil {
		t.Fatal("os.Root followed a link out")
	}
	wantError(t, fileError(replaced(err)), dreamcore.CodeNotFound, "File not found")
	_, err = p.root.OpenFile("a/b", os.O_RDONLY, 0)
	if got := replaced(err); got != err {
		t.Fatalf("%v became %v", err, got)
	}
}

// FuzzOpen: whatever the path, only files of the project are read.
func FuzzOpen(f *testing.F) {
	p, _, state := newProject(f)
	write(f, p.Path(), map[string]string{"index.html": "inside", "a/b": "inside"})
	write(f, state, map[string]string{"secret": "outside"})
	for dir := filepath.Dir(p.Path()); dir != filepath.Dir(state); dir = filepath.Dir(dir) {
		write(f, dir, map[string]string{"index.html": "outside"})
	}
	os.Symlink(state, filepath.Join(p.Path(), "l"))
	for _, seed := range []string{"index.html", "a/b", "../index.html", "l/secret", "a/../../index.html", "/etc/passwd", "a/b/..", "//", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		file, _, err := p.Open(name)
		if err != nil {
			if code := dreamcore.CodeOf(err); code != dreamcore.CodeInvalid && code != dreamcore.CodeNotFound {
				t.Fatalf("%q: %v", name, err)
			}
			return
		}
		defer file.Close()
		if data, err := io.ReadAll(file); err != nil || string(data) != "inside" {
			t.Fatalf("%q reads %q, %v", name, data, err)
		}
	})
}

func TestFilesSwappedWhileTheyAreReadNeverLeaveTheProject(t *testing.T) {
	p, _, _ := newProject(t)
	outside := outsideWithSecret(t)
	dir := p.Path()
	write(t, dir, map[string]string{"d/secret": "fine", "real/secret": "fine"})
	stop := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			// The directory becomes a link out of the project, a FIFO, a link
			// inside, and itself again.
			os.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "aside"))
			switch i % 3 {
			case 0:
				os.Symlink(outside, filepath.Join(dir, "d"))
			case 1:
				syscall.Mkfifo(filepath.Join(dir, "d"), 0o644)
			case 2:
				os.Symlink("real", filepath.Join(dir, "d"))
			}
			os.Remove(filepath.Join(dir, "d"))
			os.Rename(filepath.Join(dir, "aside"), filepath.Join(dir, "d"))
		}
	})
	all.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			os.Rename(filepath.Join(dir, "real/secret"), filepath.Join(dir, "real/aside"))
			if i%2 == 0 {
				os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "real/secret"))
			} else {
				syscall.Mkfifo(filepath.Join(dir, "real/secret"), 0o644)
			}
			os.Remove(filepath.Join(dir, "real/secret"))
			os.Rename(filepath.Join(dir, "real/aside"), filepath.Join(dir, "real/secret"))
		}
	})
	read := 0
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		for _, name := range []string{"d/secret", "real/secret"} {
			f, _, err := p.Open(name)
			if err != nil {
				if dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
					t.Errorf("open: %v", err)
				}
				continue
			}
			data, err := io.ReadAll(f)
			f.Close()
			if err != nil || string(data) != "fine" {
				t.Errorf("read %q, %v", data, err)
			}
			read++
		}
		for f, err := range p.Files(t.Context()) {
			if err != nil || f.Size != int64(len("fine")) {
				t.Errorf("listed %+v, %v", f, err)
			}
		}
	}
	close(stop)
	all.Wait()
	if read == 0 {
		t.Error("nothing was ever read")
	}
}

func TestCopyOutWritesTheFilesAndNothingElse(t *testing.T) {
	p, _, _ := newProject(t)
	hostile(t, p.Path(), outsideWithSecret(t))
	os.Chmod(filepath.Join(p.Path(), "index.html"), 0o755|os.ModeSetuid)
	dest := filepath.Join(t.TempDir(), "new/game")
	copied, err := p.CopyOut(t.Context(), dest, false)
	if err != nil {
		t.Fatal(err)
	}
	var listed, got []string
	for _, f := range copied {
		listed = append(listed, f.Path)
	}
	filepath.WalkDir(dest, func(path string, d os.DirEntry, err error) error {
		if !d.IsDir() {
			rel, _ := filepath.Rel(dest, path)
			got = append(got, rel)
		}
		return err
	})
	if !slices.Equal(listed, visible) || !slices.Equal(got, visible) {
		t.Fatalf("returned %q, wrote %q", listed, got)
	}
	if data, _ := os.ReadFile(filepath.Join(dest, "assets/b.png")); string(data) != "png!" {
		t.Fatalf("wrote %q", data)
	}
	for name, mode := range map[string]os.FileMode{"index.html": 0o755, "assets/b.png": 0o644} {
		if info, _ := os.Stat(filepath.Join(dest, name)); info.Mode() != mode {
			t.Errorf("%s: %v", name, info.Mode())
		}
	}
}

func TestCopyOutKeepsWhatIsThereUnlessForced(t *testing.T) {
	p, _, _ := newProject(t)
	write(t, p.Path(), map[string]string{"index.html": "new"})
	dest := t.TempDir()
	write(t, dest, map[string]string{"index.html": "old", "mine.txt": "mine"})
	_, err := p.CopyOut(t.Context(), dest, false)
	wantError(t, err, dreamcore.CodeConflict, "not empty")
	if data, _ := os.ReadFile(filepath.Join(dest, "index.html")); string(data) != "old" {
		t.Fatalf("wrote %q", data)
	}
	if _, err := p.CopyOut(t.Context(), dest, true); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"index.html": "new", "mine.txt": "mine"} {
		if data, _ := os.ReadFile(filepath.Join(dest, name)); string(data) != want {
			t.Errorf("%s: %q", name, data)
		}
	}
}

func TestCopyOutNeverFollowsLinksOfTheDestination(t *testing.T) {
	p, _, _ := newProject(t)
	write(t, p.Path(), map[string]string{"a.txt": "new", "sub/b.txt": "new"})
	outside := t.TempDir()
	write(t, outside, map[string]string{"a.txt": "old"})
	dest := t.TempDir()
	os.Symlink(filepath.Join(outside, "a.txt"), filepath.Join(dest, "a.txt"))
	os.Symlink(outside, filepath.Join(dest, "sub"))
	_, err := p.CopyOut(t.Context(), dest, true)
	wantError(t, err, dreamcore.CodeInvalid, "sub/b.txt")
	if data, _ := os.ReadFile(filepath.Join(outside, "a.txt")); string(data) != "old" {
		t.Fatalf("wrote %q through a link", data)
	}
	if _, err := os.Lstat(filepath.Join(outside, "b.txt")); err == nil {
		t.Fatal("wrote into a linked directory")
	}
	if info, _ := os.Lstat(filepath.Join(dest, "a.txt")); !info.Mode().IsRegular() {
		t.Fatalf("the link was not replaced: %v", info.Mode())
	}
	if left, _ := filepath.Glob(filepath.Join(dest, ".dreamcore-*")); len(left) != 0 {
		t.Fatalf("left over: %v", left)
	}
}

func TestCopyOutFaults(t *testing.T) {
	p, _, _ := newProject(t)
	write(t, p.Path(), map[string]string{"a.txt": "new"})
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o600)
	_, err := p.CopyOut(t.Context(), file, true)
	wantError(t, err, dreamcore.CodeInvalid, "cannot copy")
	dest := t.TempDir()
	os.MkdirAll(filepath.Join(dest, "a.txt"), 0o755)
	_, err = p.CopyOut(t.Context(), dest, true)
	wantError(t, err, dreamcore.CodeInvalid, "a.txt")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.CopyOut(ctx, t.TempDir(), false); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	if n, err := copyBytes(t.Context(), io.Discard, strings.NewReader("12345"), 4); !errors.Is(err, errTooLarge) {
		t.Fatalf("over the limit: %d, %v", n, err)
	}
	if n, err := copyBytes(t.Context(), io.Discard, strings.NewReader("1234"), 4); n != 4 || err != nil {
		t.Fatalf("at the limit: %d, %v", n, err)
	}
}
