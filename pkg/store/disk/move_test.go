package disk

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// withPlain sets the plain directories of a test, from before the bound.
func withPlain(dir string) func(*Options) {
	return func(o *Options) {
		o.Plain = func(key string) []Tree {
			return []Tree{
				{Path: filepath.Join(dir, "mounts", key)},
				{Path: filepath.Join(dir, "homes", key), Into: "homes", Dirs: true},
			}
		}
	}
}

// plainFiles fills the plain directories with everything that sandboxes can create,
// and returns a listing of it.
func plainFiles(t testing.TB, dir string) string {
	t.Helper()
	top := filepath.Join(dir, "mounts", key)
	project := filepath.Join(top, "projects/p")
	home := filepath.Join(dir, "homes", key, "p")
	for i := range 150 {
		write(t, filepath.Join(project, fmt.Sprintf("d%d/%d", i%7, i)), strings.Repeat(fmt.Sprint(i), i*20))
	}
	write(t, filepath.Join(project, "--help"), "an option")
	write(t, filepath.Join(project, "a b\n\xff"), "odd")
	write(t, filepath.Join(top, "--help"), "an option at the top")
	write(t, filepath.Join(top, ".hidden"), "a dot")
	write(t, filepath.Join(project, strings.Repeat("deep/", 60)+"x"), "far down")
	write(t, filepath.Join(home, ".claude/session"), "words")
	write(t, filepath.Join(dir, "homes", key, "p.session"), "a note, which stays")
	for _, err := range []error{
		os.Symlink("/etc/passwd", filepath.Join(project, "link")),
		os.Symlink(".", filepath.Join(project, "self")),
		os.Link(filepath.Join(project, "--help"), filepath.Join(project, "second")),
		unix.Mkfifo(filepath.Join(project, "fifo"), 0o600),
		os.Chown(project, 123, 456), os.Lchown(filepath.Join(project, "link"), 123, 456),
		os.Chmod(filepath.Join(project, "second"), 0o4750),
		os.Chmod(filepath.Join(dir, "mounts"), 0o700),
		unix.Setxattr(filepath.Join(project, "second"), "user.color", []byte("green"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return listing(t, top) + listing(t, filepath.Join(dir, "homes", key, "p"))
}

// listing describes the content of a directory, without its path.
func listing(t testing.TB, dir string) string {
	t.Helper()
	var out strings.Builder
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		if path == "lost+found" || path == "homes" {
			return fs.SkipDir
		}
		info, err := root.Lstat(path)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&out, "%q %v %d:%d %v ", path, info.Mode(), st.Uid, st.Gid, info.ModTime())
		switch {
		case info.Mode().IsRegular():
			data, err := root.ReadFile(path)
			fmt.Fprintf(&out, "%d links %x %v", st.Nlink, sha256.Sum256(data), err)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := root.Readlink(path)
			fmt.Fprintf(&out, "%s %v", target, err)
		}
		out.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// wantMoved checks that everything is in the disk and nothing outside it.
func wantMoved(t testing.TB, s *Store, want string) {
	t.Helper()
	dir := filepath.Dir(s.opts.Images)
	path, release := acquire(t, s, key)
	got := listing(t, path) + listing(t, filepath.Join(path, "homes/p"))
	if got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
	var color [16]byte
	if n, err := unix.Getxattr(filepath.Join(path, "projects/p/--help"), "user.color", color[:]); err != nil || string(color[:n]) != "green" {
		t.Fatal(n, err)
	}
	wantFiles(t, filepath.Join(dir, "homes", key), "p.session")
	release()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, path)
	wantFiles(t, s.opts.Images, key+imageExtension, key+lockExtension)
	wantNothingLeft(t, dir)
}

func TestPlainDirectoriesAreMovedIntoTheDisk(t *testing.T) {
	s := newStore(t)
	dir := filepath.Dir(s.opts.Images)
	want := plainFiles(t, dir)
	wantMoved(t, openStore(t, dir, withPlain(dir)), want)
}

func TestAKilledMoveLosesNothing(t *testing.T) {
	const rounds = 12
	finished := 0
	for range rounds {
		s := newStore(t)
		dir := filepath.Dir(s.opts.Images)
		want := plainFiles(t, dir)
		for range 3 {
			v := startProcess(t, dir, "move")
			time.Sleep(time.Duration(rand.IntN(350)) * time.Millisecond)
			v.kill()
		}
		if there, _ := exists(s.file(key, imageExtension)); there {
			finished++
		}
		next := openStore(t, dir, withPlain(dir))
		if rand.IntN(2) == 0 {
			if err := next.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		wantMoved(t, next, want)
	}
	t.Logf("%d of %d moves were complete before the last kill", finished, rounds)
}

func TestAMoveInterruptedAtAnyStepIsCompleted(t *testing.T) {
	for name, cut := range map[string]func(t *testing.T, s *Store){
		"an old marker": func(t *testing.T, s *Store) { write(t, s.file(key, movedExtension), "") },
		"a half-made image": func(t *testing.T, s *Store) {
			write(t, s.file(key, partExtension), "half")
			write(t, s.file(key, partExtension)+tempExtension, "half")
		},
		"a half-filled image": func(t *testing.T, s *Store) {
			part, at := s.file(key, partExtension), s.file(key, filledExtension)
			if err := errors.Join(Format(t.Context(), part, testBytes, 0, 0), os.Mkdir(at, 0o700), attachAt(t.Context(), part, at)); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(at, "projects/p/d1/1"), "half")
		},
		"removed by half": func(t *testing.T, s *Store) {
			d := s.disk(key)
			if err := errors.Join(s.create(t.Context(), d), os.RemoveAll(filepath.Join(d.dir, "projects/p/d1"))); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			dir := filepath.Dir(s.opts.Images)
			want := plainFiles(t, dir)
			next := openStore(t, dir, withPlain(dir))
			if err := next.prepareDirs(); err != nil {
				t.Fatal(err)
			}
			cut(t, next)
			wantMoved(t, next, want)
		})
	}
}

func TestSweepRemovesAnInterruptedMove(t *testing.T) {
	s := newStore(t)
	dir := filepath.Dir(s.opts.Images)
	plainFiles(t, dir)
	before := listing(t, filepath.Join(dir, "mounts", key))
	if err := s.prepareDirs(); err != nil {
		t.Fatal(err)
	}
	part, at := s.file(key, partExtension), s.file(key, filledExtension)
	if err := errors.Join(Format(t.Context(), part, testBytes, 0, 0), os.Mkdir(at, 0o700), attachAt(t.Context(), part, at)); err != nil {
		t.Fatal(err)
	}
	write(t, s.file(key, lockExtension), "") // of a process that died
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, s.opts.Images, key+lockExtension)
	wantNothingLeft(t, dir)
	if after := listing(t, filepath.Join(dir, "mounts", key)); after != before {
		t.Fatalf("changed:\n%s", after)
	}
}

func TestAnOldMarkerRemovesNothing(t *testing.T) {
	s := newStore(t)
	dir := filepath.Dir(s.opts.Images)
	next := openStore(t, dir, withPlain(dir))
	if err := next.prepareDirs(); err != nil {
		t.Fatal(err)
	}
	write(t, next.file(key, movedExtension), "") // of a move whose image was not renamed
	_, release := acquire(t, next, key)
	release()
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	// Files from elsewhere below the mount point must not be removed.
	write(t, filepath.Join(s.opts.Mounts, key, "precious"), "text")
	again := openStore(t, dir, withPlain(dir))
	_, _, err := again.Acquire(t.Context(), key)
	wantError(t, err, dreamcore.CodeSetup, "has files", "mv ")
	wantText(t, filepath.Join(s.opts.Mounts, key, "precious"), "text")
}

func TestFilesThatDoNotFitStayInPlace(t *testing.T) {
	s := newStore(t)
	dir := filepath.Dir(s.opts.Images)
	plainFiles(t, dir)
	big := filepath.Join(dir, "mounts", key, "projects/p/big")
	f, err := os.Create(big)
	if err != nil {
		t.Fatal(err)
	}
	for range testBytes >> 20 {
		f.Write(make([]byte, 1<<20))
	}
	f.Close()
	before := listing(t, filepath.Join(dir, "mounts", key))
	next := openStore(t, dir, withPlain(dir))
	_, _, err = next.Acquire(t.Context(), key)
	wantError(t, err, dreamcore.CodeTooLarge, "do not fit into a disk of 32 MiB", "disk_mib")
	if after := listing(t, filepath.Join(dir, "mounts", key)); after != before {
		t.Fatalf("changed:\n%s", after)
	}
	wantFiles(t, s.opts.Images, key+lockExtension)
	wantNothingLeft(t, dir)
	enough := openStore(t, dir, withPlain(dir), sized(4*testBytes))
	path, release := acquire(t, enough, key)
	defer release()
	if got := listing(t, path); got != before {
		t.Fatalf("got\n%s", got)
	}
}
