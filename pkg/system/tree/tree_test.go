package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

func openTemp(t *testing.T) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func TestALinkOutOfTheTreeIsNotADiskError(t *testing.T) {
	root := openTemp(t)
	write(t, root.Name(), map[string]string{"a": ""})
	if err := root.Symlink("/etc/passwd", "link"); err != nil {
		t.Fatal(err)
	}
	// os.Root returns this error if a file became a link after it was looked at.
	_, err := root.OpenFile("link", os.O_RDONLY, 0)
	if err == nil {
		t.Fatal("os.Root followed a link out")
	}
	if err := FileError(Replaced(err)); dreamcore.CodeOf(err) != dreamcore.CodeNotFound || !strings.Contains(err.Error(), "File not found") {
		t.Error(err)
	}
	_, err = root.OpenFile("a/b", os.O_RDONLY, 0)
	if got := Replaced(err); got != err {
		t.Fatalf("%v became %v", err, got)
	}
}

func TestAWalkOfTooManyNamesIsAnError(t *testing.T) {
	root := openTemp(t)
	for i := range 30 {
		write(t, root.Name(), map[string]string{fmt.Sprintf("d/%d", i): ""})
	}
	for _, visible := range []bool{true, false} {
		var got error
		w := &walker{ctx: t.Context(), left: 20, visible: visible, skip: NoSkip, yield: func(_ Entry, err error) bool {
			got = err
			return true
		}}
		w.run(root)
		if dreamcore.CodeOf(got) != dreamcore.CodeTooLarge || !strings.Contains(got.Error(), "more than 100000 files") {
			t.Errorf("visible %v: %v", visible, got)
		}
	}
}

func TestCopyStopsAtItsLimit(t *testing.T) {
	if n, err := Copy(t.Context(), io.Discard, strings.NewReader("12345"), 4); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("over the limit: %d, %v", n, err)
	}
	if n, err := Copy(t.Context(), io.Discard, strings.NewReader("1234"), 4); n != 4 || err != nil {
		t.Fatalf("at the limit: %d, %v", n, err)
	}
}

func TestATreeOfAnyDepthIsRemovedWithFewDescriptors(t *testing.T) {
	base := openTemp(t)
	outside := filepath.Join(t.TempDir(), "kept")
	write(t, filepath.Dir(outside), map[string]string{"kept": "kept"})
	const depth = 3000
	at, err := base.OpenRoot(".")
	for range depth {
		if err = errors.Join(err, at.Mkdir("d", 0o700), at.Symlink(outside, "link"), at.WriteFile("f", nil, 0)); err != nil {
			t.Fatal(err)
		}
		next, err := at.OpenRoot("d")
		at.Close()
		if at = next; err != nil {
			t.Fatal(err)
		}
	}
	at.Close()
	var limit, low syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low = limit
	low.Cur = 256
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	err = errors.Join(RemoveAll(base, "d"), RemoveAll(base, "link"), RemoveAll(base, "f"), RemoveAll(base, "missing"))
	if err := errors.Join(err, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(base.Name())
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if raw, err := os.ReadFile(outside); err != nil || string(raw) != "kept" {
		t.Errorf("%q, %v", raw, err)
	}
}

// A job in another project of the user can write into the old state of a project
// while it is being removed, at any depth.
func TestATreeThatIsWrittenToIsRemoved(t *testing.T) {
	base := openTemp(t)
	write(t, base.Name(), map[string]string{"d/a/x": "", "d/b": ""})
	inner, err := base.OpenRoot("d/a")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	stop := time.Now().Add(100 * time.Millisecond)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; time.Now().Before(stop); i++ {
			if f, err := inner.Create(fmt.Sprint(i)); err == nil {
				_, _ = io.WriteString(f, "x")
				f.Close()
			}
		}
	}()
	err = RemoveAll(base, "d")
	<-done
	if err == nil {
		err = RemoveAll(base, "d")
	}
	if _, e := os.Lstat(filepath.Join(base.Name(), "d")); err != nil || !errors.Is(e, os.ErrNotExist) {
		t.Errorf("%v, %v", err, e)
	}
}

// TestAFillerKeepsTheLimitsOnPaths fills a directory with more paths than a
// project may have.
func TestAFillerKeepsTheLimitsOnPaths(t *testing.T) {
	root := openTemp(t)
	f := NewFiller(root, Owner{UID: os.Geteuid(), GID: os.Getegid()})
	long := strings.Repeat("d", 200)
	accepted := 0
	for i := range 3000 {
		e := Entry{Path: strings.Repeat(long+"/", 18) + fmt.Sprint(i), Mode: fs.ModeDir | 0o755}
		_, _, err := f.Put(t.Context(), e, nil)
		if err == nil {
			accepted++
		} else if dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Fatal(err)
		}
	}
	if most := dreamcore.MaxTreePaths / (18 * 201); accepted > most || accepted < most/2 {
		t.Errorf("%d were accepted, at most %d fit", accepted, most)
	}
	for _, bad := range []string{strings.Repeat("n", 256), strings.Repeat("d/", 2100) + "x"} {
		if _, _, err := f.Put(t.Context(), Entry{Path: bad, Mode: 0o644}, strings.NewReader("")); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Error(err)
		}
	}
}

// TestPutFileIsReadableAndNotWritableByOthers: a sandbox can read the skills of an
// operator with a strict umask, and a file from a project is not writable for all
// because its agent made it so.
func TestPutFileIsReadableAndNotWritableByOthers(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	root := openTemp(t)
	for name, c := range map[string]struct{ mode, want fs.FileMode }{
		"a/b/private":  {0o600, 0o644},
		"a/open":       {0o666, 0o644},
		"program":      {0o700, 0o755},
		"open program": {0o777, 0o755},
		"closed":       {0, 0o644},
		"d/e":          {fs.ModeDir | 0o777, fs.ModeDir | 0o755},
	} {
		if err := PutFile(t.Context(), root, Entry{Path: name, Mode: c.mode}, strings.NewReader("x"), false); err != nil {
			t.Fatal(err)
		}
		for at, want := name, c.want; at != "."; at, want = filepath.Dir(at), fs.ModeDir|0o755 {
			if info, err := root.Lstat(at); err != nil || info.Mode() != want {
				t.Errorf("%s: %v, want %v, %v", at, info.Mode(), want, err)
			}
		}
	}
	err := PutFile(t.Context(), root, Entry{Path: "closed", Mode: 0o644}, strings.NewReader("y"), false)
	if err == nil || errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
}
