package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestCopySkeleton(t *testing.T) {
	src, dst := t.TempDir(), filepath.Join(t.TempDir(), "root")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(src, "a/b"), 0o755))
	must(os.Chmod(filepath.Join(src, "a"), 0o711))
	must(os.WriteFile(filepath.Join(src, "a/f"), []byte("text"), 0o640))
	must(os.Symlink("/usr/bin", filepath.Join(src, "bin")))
	must(copySkeleton(src, dst))
	if b, err := os.ReadFile(filepath.Join(dst, "a/f")); string(b) != "text" || err != nil {
		t.Errorf("a/f is %q, %v", b, err)
	}
	if fi, err := os.Stat(filepath.Join(dst, "a")); err != nil || fi.Mode() != os.ModeDir|0o711 {
		t.Errorf("a: %v, %v", fi, err)
	}
	if to, err := os.Readlink(filepath.Join(dst, "bin")); to != "/usr/bin" {
		t.Errorf("bin points to %q, %v", to, err)
	}
	must(os.Mkdir(filepath.Join(dst, "a/b/new"), 0o755))
	if _, err := os.Stat(filepath.Join(src, "a/b/new")); err == nil {
		t.Error("a change of the copy changed the original")
	}
}

func TestCopyFileKeepsModeAndContent(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("text"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "b"))
	fi, serr := os.Stat(filepath.Join(dir, "b"))
	if err != nil || serr != nil || string(b) != "text" || fi.Mode() != 0o640 {
		t.Errorf("%q, %v, %v, %v", b, fi, err, serr)
	}
	if err := copyFile(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err == nil {
		t.Error("an existing file was overwritten")
	}
}

func TestCopySkeletonRefuses(t *testing.T) {
	big := t.TempDir()
	for i := range maxSkeleton {
		if err := os.WriteFile(filepath.Join(big, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fifo := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(fifo, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for src, want := range map[string]string{
		big:                              "more than",
		fifo:                             "pipe",
		filepath.Join(fifo, "not-there"): "not-there",
	} {
		if err := copySkeleton(src, filepath.Join(t.TempDir(), "root")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("copySkeleton(%s): %v", src, err)
		}
	}
}
