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
	"github.com/notef-neighbor/dreamcore/pkg/system/tree/treetest"
)

func TestFilesListsRegularFilesOnly(t *testing.T) {
	p, _, _ := newProject(t)
	treetest.Hostile(t, p.Path(), treetest.Outside(t))
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
	if !slices.Equal(got, treetest.Visible) {
		t.Fatalf("got %q", got)
	}
	for range p.Files(t.Context()) {
		break // must not go on
	}
}

func TestFilesStopsWithItsContext(t *testing.T) {
	p, _, _ := newProject(t)
	treetest.Write(t, p.Path(), map[string]string{"a": "", "b": ""})
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

func TestOpenReadsRegularFilesOnly(t *testing.T) {
	p, _, _ := newProject(t)
	treetest.Hostile(t, p.Path(), treetest.Outside(t))
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

// FuzzOpen: for any path, Open reads only files of the project.
func FuzzOpen(f *testing.F) {
	p, _, state := newProject(f)
	treetest.Write(f, p.Path(), map[string]string{"index.html": "inside", "a/b": "inside"})
	treetest.Write(f, state, map[string]string{"secret": "outside"})
	for dir := filepath.Dir(p.Path()); dir != filepath.Dir(state); dir = filepath.Dir(dir) {
		treetest.Write(f, dir, map[string]string{"index.html": "outside"})
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

func TestSwappedFilesNeverLeaveTheProject(t *testing.T) {
	p, _, _ := newProject(t)
	outside := treetest.Outside(t)
	dir := p.Path()
	treetest.Write(t, dir, map[string]string{"d/secret": "fine", "real/secret": "fine"})
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
			// inside the project, and a directory again.
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
		t.Error("no file was read")
	}
}

// BenchmarkFiles lists a project of the largest possible size.
func BenchmarkFiles(b *testing.B) {
	p, _, _ := newProject(b)
	for dir := range 99 {
		for i := range 1000 {
			treetest.Write(b, p.Path(), map[string]string{fmt.Sprintf("d%d/f%d", dir, i): ""})
		}
	}
	for b.Loop() {
		n := 0
		for _, err := range p.Files(b.Context()) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 99_000 {
			b.Fatal(n)
		}
	}
}
