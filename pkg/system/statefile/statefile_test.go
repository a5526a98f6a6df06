package statefile

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func openRoot(t *testing.T) (*os.Root, string) {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root, dir
}

func openFile(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestALockBelongsToTheOpenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	a, b := openFile(t, path), openFile(t, path)
	if err := TryLock(a); err != nil || !Locked(b) {
		t.Fatal(err)
	}
	if err := TryLock(b); !errors.Is(err, ErrLocked) || !errors.Is(err, unix.EWOULDBLOCK) {
		t.Fatalf("a second lock: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := Lock(ctx, b); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("waited for a lock that is held: %v", err)
	}
	time.AfterFunc(10*time.Millisecond, func() { _ = a.Close() })
	if err := Lock(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := Unlock(b); err != nil || Locked(openFile(t, path)) {
		t.Fatalf("still locked: %v", err)
	}
}

func TestADirectoryCanBeLocked(t *testing.T) {
	dir := t.TempDir()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := TryLock(d); err != nil {
		t.Fatal(err)
	}
}

func TestRangesAreLockedOneByOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	a, b := openFile(t, path), openFile(t, path)
	for _, c := range []struct {
		f     *os.File
		mode  Mode
		start int64
		want  error
	}{
		{a, Exclusive, 0, nil},
		{b, Shared, 0, ErrLocked},
		{b, Exclusive, 1, nil}, // another byte
		{a, Shared, 0, nil},    // from exclusive to shared
		{b, Shared, 0, nil},
		{a, Exclusive, 0, ErrLocked},
		{b, Unlocked, 0, nil},
		{a, Exclusive, 0, nil},
	} {
		if err := TryRange(c.f, c.mode, c.start, 1); !errors.Is(err, c.want) {
			t.Fatalf("mode %d at %d: %v, want %v", c.mode, c.start, err, c.want)
		}
	}
	if locked, err := RangeLocked(b); err != nil || !locked {
		t.Errorf("the range of another open file: %v, %v", locked, err)
	}
	_ = a.Close()
	if locked, err := RangeLocked(b); err != nil || locked {
		t.Errorf("after it was closed: %v, %v", locked, err)
	}
}

func TestReplaceLeavesTheOldFileOrTheNewOne(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	root, dir := openRoot(t)
	failed := errors.New("no content")
	for _, c := range []struct {
		name  string
		write func(*os.Root, string, fs.FileMode, func(*os.File) error) error
		fill  func(*os.File) error
		err   error
		want  string
	}{
		{"a failed first write", Replace, func(*os.File) error { return failed }, failed, ""},
		{"a first write", Create, Bytes([]byte("one")), nil, "one"},
		{"a second Create", Create, Bytes([]byte("two")), fs.ErrExist, "one"},
		{"a failed write", Replace, func(f *os.File) error { _, _ = f.WriteString("tw"); return failed }, failed, "one"},
		{"a second write", Replace, Bytes([]byte("two")), nil, "two"},
		{"a cache", ReplaceCache, Bytes([]byte("three")), nil, "three"},
	} {
		if err := c.write(root, "file", 0o644, c.fill); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "file"))
		if string(got) != c.want || err != nil && c.want != "" {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
		if info, err := os.Stat(filepath.Join(dir, "file")); err == nil && info.Mode() != 0o644 {
			t.Errorf("%s: mode %v", c.name, info.Mode())
		}
		if names, err := Names(root, func(name string) bool { return name != "file" }); len(names) != 0 || err != nil {
			t.Errorf("%s: residue %v, %v", c.name, names, err)
		}
	}
	path := filepath.Join(dir, "by path")
	if err := errors.Join(ReplaceFile(path, 0o600, Bytes([]byte("x"))), ReplaceCacheFile(path, 0o600, Bytes([]byte("y")))); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); string(got) != "y" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if err := ReplaceFile(filepath.Join(dir, "none", "file"), 0o600, Bytes(nil)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing directory: %v", err)
	}
}

func TestReplaceStaysInItsDirectory(t *testing.T) {
	root, dir := openRoot(t)
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Replace(root, "sub/file", 0o600, Bytes([]byte("x"))); err != nil {
		t.Error(err)
	}
	if err := Replace(root, "../file", 0o600, Bytes([]byte("x"))); err == nil {
		t.Error("a name outside the directory was written")
	}
}

func TestSweepRemovesUnfinishedFilesOnly(t *testing.T) {
	root, dir := openRoot(t)
	for _, name := range []string{TempPrefix + "1", "kept", ".new"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(root); err != nil {
		t.Fatal(err)
	}
	if names, err := Names(root, func(string) bool { return true }); !slices.Equal(names, []string{".new", "kept"}) || err != nil {
		t.Errorf("%v, %v", names, err)
	}
}

func TestLinesSkipsTornAndLongLines(t *testing.T) {
	long := strings.Repeat("x", 1<<17)
	src := "one\n" + long + "\ntwo\n12345\n" + "torn"
	var got []string
	size, err := Lines(strings.NewReader(src), 5, func(line []byte) bool {
		got = append(got, string(line))
		return true
	})
	if want := []string{"one\n", "two\n"}; !slices.Equal(got, want) || err != nil || size != int64(len(src)-len("torn")) {
		t.Errorf("%q of %d bytes, %v", got, size, err)
	}
	size, err = Lines(strings.NewReader(src), 5, func([]byte) bool { return false })
	if size != 4 || err != nil {
		t.Errorf("stopped after %d bytes, %v", size, err)
	}
}

// A record that follows a torn one is read, even if the torn one is damaged.
func FuzzLines(f *testing.F) {
	f.Add([]byte("{\"a\":1}\n{\"b\""), uint16(64))
	f.Add(bytes.Repeat([]byte("x"), 100), uint16(8))
	f.Fuzz(func(t *testing.T, torn []byte, most uint16) {
		maxLine := int(most) + 8
		record := []byte("record")
		var last []byte
		size, err := Lines(bytes.NewReader(append(slices.Clone(torn), Frame(record)...)), maxLine, func(line []byte) bool {
			if len(line) > maxLine || bytes.IndexByte(line, '\n') != len(line)-1 {
				t.Fatalf("%q is no line", line)
			}
			last = bytes.Clone(line)
			return true
		})
		if err != nil || size != int64(len(torn)+len(Frame(record))) || string(last) != "record\n" {
			t.Fatalf("%d bytes, the last line is %q, %v", size, last, err)
		}
	})
}

func TestErrorsOfADisk(t *testing.T) {
	for _, c := range []struct {
		err  error
		code dreamcore.Code
		hint string
	}{
		{syscall.ENOSPC, dreamcore.CodeSetup, "df -h"},
		{syscall.EDQUOT, dreamcore.CodeSetup, "df -h"},
		{fs.ErrPermission, dreamcore.CodeSetup, "ls -ld"},
		{syscall.EROFS, dreamcore.CodeSetup, "ls -ld"},
		{syscall.EIO, dreamcore.CodeInternal, "dmesg"},
		{errors.New("other"), dreamcore.CodeInternal, "ls -ld"},
	} {
		e := Error("write the log", &os.PathError{Op: "write", Path: "log", Err: c.err})
		if e.Code != c.code || !strings.Contains(e.Hint, c.hint) || !errors.Is(e, c.err) || !strings.HasPrefix(e.Message, "cannot write the log") {
			t.Errorf("%v: %+v", c.err, e)
		}
	}
}
