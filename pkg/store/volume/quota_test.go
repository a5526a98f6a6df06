package volume

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const projectBytes = 8 << 20

// restrict gives the store bounds of projects.
func restrict(s *Store, bytes int64, files int) *Store {
	s.opts.ProjectBytes, s.opts.ProjectFiles = bytes, files
	return s
}

func guard(t *testing.T, s *Store, p *Project) *Guard {
	t.Helper()
	g, err := s.Guard(t.Context(), user, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func look(t *testing.T, g *Guard) Full {
	t.Helper()
	f, err := g.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestTheKernelKeepsAProjectWithinItsBytes(t *testing.T) {
	s, state := newBounded(t)
	restrict(s, projectBytes, 0)
	p, h := open(t, s)
	defer p.Close()
	defer h.Close()
	write(t, p.Path(), map[string]string{"game": strings.Repeat("x", 2<<20)})
	g := guard(t, s, p)
	if f := look(t, g); f.Any() {
		t.Fatalf("full at the start: %+v", f)
	}
	wrote := fillUp(t, filepath.Join(p.Path(), "more"))
	if wrote > projectBytes-2<<20 || wrote < projectBytes-3<<20 {
		t.Errorf("%d bytes were written beside 2 MiB, the bound is 8 MiB", wrote)
	}
	if f := look(t, g); !f.Bytes || !f.Kept {
		t.Errorf("%+v", f)
	}
	if err := os.WriteFile(filepath.Join(h.Path(), "detour"), make([]byte, 1<<20), 0o644); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a way around it: %v", err)
	}
	// What is set aside costs the machine nothing, and leaves no name.
	syscall.Sync()
	var st unix.Stat_t
	if err := unix.Stat(imageOf(state), &st); err != nil || st.Blocks*512 > 14<<20 {
		t.Errorf("the image takes %d bytes, %v", st.Blocks*512, err)
	}
	if err := os.Remove(filepath.Join(p.Path(), "more")); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if wrote := fillUp(t, filepath.Join(p.Path(), "more")); wrote < 16<<20 {
		t.Errorf("after it only %d bytes could be written", wrote)
	}
	// A project that is beyond its bound can be worked on, a little.
	g = guard(t, s, p)
	if err := os.Remove(filepath.Join(p.Path(), "more")); err != nil {
		t.Fatal(err)
	}
	if f := look(t, g); f.Any() {
		t.Errorf("after it was emptied: %+v", f)
	}
}

func TestTooManyFilesAreSeenAtOnce(t *testing.T) {
	s, _ := newBounded(t)
	p, h := open(t, s)
	defer p.Close()
	defer h.Close()
	restrict(s, 0, slackFiles+50)
	g := guard(t, s, p)
	many(t, p.Path(), slackFiles+40)
	if f := look(t, g); f.Any() {
		t.Fatalf("too early: %+v", f)
	}
	many(t, p.Path(), slackFiles+60)
	if f := look(t, g); !f.Files || f.Kept {
		t.Fatalf("%+v", f)
	}
}

func many(t *testing.T, dir string, n int) {
	t.Helper()
	for i := range n {
		write(t, dir, map[string]string{fmt.Sprintf("f%d", i): ""})
	}
}

func TestWithoutAFileSystemOfTheUserAProjectIsMeasured(t *testing.T) {
	p, s, _ := newProject(t)
	g := guard(t, restrict(s, 1<<20, 20), p)
	many(t, p.Path(), 10)
	sparse := filepath.Join(p.Path(), "sparse")
	if err := errors.Join(os.WriteFile(sparse, nil, 0o644), os.Truncate(sparse, 10<<30), os.Link(sparse, sparse+"2")); err != nil {
		t.Fatal(err)
	}
	if f := look(t, g); f.Any() {
		t.Fatalf("too early: %+v", f)
	}
	write(t, p.Path(), map[string]string{"d/large": strings.Repeat("x", 2<<20)})
	if f := look(t, g); f != (Full{Bytes: true}) {
		t.Fatalf("%+v", f)
	}
	many(t, p.Path(), 30)
	if f := look(t, g); f != (Full{Bytes: true, Files: true}) {
		t.Fatalf("%+v", f)
	}
}

func TestApplyKeepsTheBoundsOfAProject(t *testing.T) {
	p, s, _ := newProject(t)
	restrict(s, 1<<20, 20)
	write(t, p.Path(), map[string]string{"a": "1", "b": strings.Repeat("x", 600<<10)})
	before := contents(t, p.Path())
	try := func(changes ...Change) error {
		_, err := s.Apply(t.Context(), user, project, changes, nil, nil)
		return err
	}
	large := Change{Path: "c", Write: Content(strings.Repeat("y", 600<<10))}
	wantError(t, try(large), dreamcore.CodeTooLarge, "larger than a project may be")
	var names []Change
	for i := range 20 {
		names = append(names, Change{Path: fmt.Sprintf("n%d", i), Write: Content("")})
	}
	wantError(t, try(names...), dreamcore.CodeTooLarge, "larger than a project may be")
	if !same(before, contents(t, filepath.Join(p.Path(), "..", string(project)))) {
		t.Error("it was changed")
	}
	// In the place of another file it fits, and what shrinks is always allowed.
	large.Path = "b"
	if err := try(large); err != nil {
		t.Error(err)
	}
	restrict(s, 1000, 20)
	if err := try(Change{Path: "a"}); err != nil {
		t.Error(err)
	}
}

func TestATreeOfAnyDepthIsRemovedWithFewDescriptors(t *testing.T) {
	dir := t.TempDir()
	base, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
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
	err = errors.Join(removeTree(base, "d"), removeTree(base, "link"), removeTree(base, "f"), removeTree(base, "missing"))
	if err := errors.Join(err, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if raw, err := os.ReadFile(outside); err != nil || string(raw) != "kept" {
		t.Errorf("%q, %v", raw, err)
	}
}

// A job in another project of the user can write into the old state while it
// is removed, as deep as it likes.
func TestATreeThatIsWrittenToIsRemoved(t *testing.T) {
	dir := t.TempDir()
	base, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	write(t, dir, map[string]string{"d/a/x": "", "d/b": ""})
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
	err = removeTree(base, "d")
	<-done
	if err == nil {
		err = removeTree(base, "d")
	}
	if _, e := os.Lstat(filepath.Join(dir, "d")); err != nil || !errors.Is(e, os.ErrNotExist) {
		t.Errorf("%v, %v", err, e)
	}
}
