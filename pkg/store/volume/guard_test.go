package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/system/tree/treetest"
)

const projectBytes = 8 << 20

// restrict sets the limits of projects.
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

func check(t *testing.T, g *Guard) Full {
	t.Helper()
	f, err := g.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestTheKernelEnforcesTheBytesOfAProject(t *testing.T) {
	s, state := newLimited(t)
	restrict(s, projectBytes, 0)
	p, h := open(t, s)
	defer p.Close()
	defer h.Close()
	treetest.Write(t, p.Path(), map[string]string{"game": strings.Repeat("x", 2<<20)})
	g := guard(t, s, p)
	if f := check(t, g); f.Any() {
		t.Fatalf("full at the start: %+v", f)
	}
	wrote := fillUp(t, filepath.Join(p.Path(), "more"))
	if wrote > projectBytes-2<<20 || wrote < projectBytes-3<<20 {
		t.Errorf("%d bytes were written in addition to 2 MiB, the limit is 8 MiB", wrote)
	}
	if f := check(t, g); !f.Bytes || !f.Enforced {
		t.Errorf("%+v", f)
	}
	if err := os.WriteFile(filepath.Join(h.Path(), "detour"), make([]byte, 1<<20), 0o644); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a write to the home: %v", err)
	}
	// The reserve takes no space on the host.
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
		t.Errorf("without a guard only %d bytes could be written", wrote)
	}
	// A job can still run in a project that exceeds its limit, with a little space.
	g = guard(t, s, p)
	if err := os.Remove(filepath.Join(p.Path(), "more")); err != nil {
		t.Fatal(err)
	}
	if f := check(t, g); f.Any() {
		t.Errorf("after files were removed: %+v", f)
	}
}

func TestTooManyFilesAreDetected(t *testing.T) {
	s, _ := newLimited(t)
	p, h := open(t, s)
	defer p.Close()
	defer h.Close()
	restrict(s, 0, slackFiles+50)
	g := guard(t, s, p)
	many(t, p.Path(), slackFiles+40)
	if f := check(t, g); f.Any() {
		t.Fatalf("too early: %+v", f)
	}
	many(t, p.Path(), slackFiles+60)
	if f := check(t, g); !f.Files || f.Enforced {
		t.Fatalf("%+v", f)
	}
}

func many(t *testing.T, dir string, n int) {
	t.Helper()
	for i := range n {
		treetest.Write(t, dir, map[string]string{fmt.Sprintf("f%d", i): ""})
	}
}

func TestWithoutADiskTheProjectIsMeasured(t *testing.T) {
	p, s, _ := newProject(t)
	g := guard(t, restrict(s, 1<<20, 20), p)
	many(t, p.Path(), 10)
	sparse := filepath.Join(p.Path(), "sparse")
	if err := errors.Join(os.WriteFile(sparse, nil, 0o644), os.Truncate(sparse, 10<<30), os.Link(sparse, sparse+"2")); err != nil {
		t.Fatal(err)
	}
	if f := check(t, g); f.Any() {
		t.Fatalf("too early: %+v", f)
	}
	treetest.Write(t, p.Path(), map[string]string{"d/large": strings.Repeat("x", 2<<20)})
	if f := check(t, g); f != (Full{Bytes: true}) {
		t.Fatalf("%+v", f)
	}
	many(t, p.Path(), 30)
	if f := check(t, g); f != (Full{Bytes: true, Files: true}) {
		t.Fatalf("%+v", f)
	}
}
