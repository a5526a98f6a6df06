package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// contents reads everything in a directory that stat finds, links as links.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		switch d.Type() {
		case 0:
			raw, err := os.ReadFile(path)
			got[name] = string(raw)
			return err
		case os.ModeSymlink:
			target, err := os.Readlink(path)
			got[name] = "-> " + target
			return err
		}
		got[name] = d.Type().String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func same(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

func TestApplyChangesFilesAndLeavesTheRest(t *testing.T) {
	p, s, state := newProject(t)
	hostile(t, p.Path(), outsideWithSecret(t))
	write(t, p.Path(), map[string]string{"run.sh": "old", "old/file.js": "x", "dir/keep": "k"})
	if err := os.Chmod(filepath.Join(p.Path(), "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := contents(t, p.Path())
	sizes, err := s.Apply(t.Context(), user, project, []Change{
		{Path: "index.html", Write: Content("<new>")},
		{Path: "./run.sh", Write: Content("new")},
		{Path: "a/b/c.js", Write: Content("c")},
		{Path: "link.txt", Write: Content("no link any more")},
		{Path: "old/file.js"},
		{Path: "no/such/file.js"},
	}, nil, nil)
	if err != nil || fmt.Sprint(sizes) != "[5 3 1 16 0 0]" {
		t.Fatal(sizes, err)
	}
	delete(want, "old/file.js")
	for name, text := range map[string]string{"index.html": "<new>", "run.sh": "new", "a/b/c.js": "c", "link.txt": "no link any more"} {
		want[name] = text
	}
	if got := contents(t, p.Path()); !same(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for name, mode := range map[string]os.FileMode{"run.sh": 0o755, "index.html": 0o644, "a/b": 0o755, ".": 0o755} {
		info, err := os.Lstat(filepath.Join(p.Path(), name))
		if err != nil || info.Mode().Perm() != mode || int(info.Sys().(*syscall.Stat_t).Uid) != s.opts.UID {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(state, "volumes", Data, "users", string(user), stagingDir, "*")); err != nil || len(left) != 0 {
		t.Error("left:", left, err)
	}
}

func TestApplyIsAllOrNothing(t *testing.T) {
	p, s, _ := newProject(t)
	outside := outsideWithSecret(t)
	write(t, p.Path(), map[string]string{"index.html": "old", "dir/file": "x"})
	if err := os.Symlink(outside, filepath.Join(p.Path(), "linkdir")); err != nil {
		t.Fatal(err)
	}
	want := contents(t, p.Path())
	good := Change{Path: "index.html", Write: Content("new")}
	gone := errors.New("gone")
	for name, changes := range map[string][]Change{
		"leaves":           {good, {Path: "../x", Write: Content("x")}},
		"absolute":         {good, {Path: "/etc/x", Write: Content("x")}},
		"through a link":   {good, {Path: "linkdir/secret", Write: Content("x")}},
		"removes by link":  {good, {Path: "linkdir/secret"}},
		"a directory":      {good, {Path: "dir", Write: Content("x")}},
		"removes a dir":    {good, {Path: "dir"}},
		"below a file":     {good, {Path: "dir/file/x", Write: Content("x")}},
		"twice":            {good, {Path: "./index.html"}},
		"git":              {good, {Path: ".git/hooks/pre-commit", Write: Content("x")}},
		"git in disguise":  {good, {Path: "a/.GIT /config", Write: Content("x")}},
		"the project":      {good, {Path: "."}},
		"ends in a slash":  {good, {Path: "x/", Write: Content("x")}},
		"NUL":              {good, {Path: "a\x00b", Write: Content("x")}},
		"a long name":      {good, {Path: strings.Repeat("a", 300), Write: Content("x")}},
		"nothing":          {good, {Path: ""}},
		"a writer's error": {good, {Path: "x", Write: func(io.Writer) error { return gone }}},
	} {
		_, err := s.Apply(t.Context(), user, project, changes, nil, nil)
		if name == "a writer's error" {
			if !errors.Is(err, gone) {
				t.Errorf("%s: %v", name, err)
			}
		} else if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), "Invalid file path: ") {
			t.Errorf("%s: %v", name, err)
		}
		if got := contents(t, p.Path()); !same(got, want) {
			t.Fatalf("%s: %q", name, got)
		}
	}
	seen := ""
	if _, err := s.Apply(t.Context(), user, project, []Change{good}, func(root *os.Root) error {
		raw, err := root.ReadFile("index.html")
		seen = string(raw)
		return errors.Join(err, gone)
	}, nil); !errors.Is(err, gone) || seen != "new" {
		t.Errorf("check: %q %v", seen, err)
	}
	if _, err := s.Apply(t.Context(), user, project, []Change{good}, nil, func(*os.Root) error {
		seen = contents(t, p.Path())["index.html"] + " in place"
		return gone
	}); !errors.Is(err, gone) || seen != "new in place" {
		t.Errorf("made: %q %v", seen, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Apply(ctx, user, project, []Change{good}, nil, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := contents(t, p.Path()); !same(got, want) {
		t.Errorf("%q", got)
	}
	if got := contents(t, outside); len(got) != 1 || got["secret"] != "needle" {
		t.Errorf("outside: %q", got)
	}
}

// applied is one state of a project: every file says the same.
func applied(n int) []Change {
	var changes []Change
	for i := range 20 {
		changes = append(changes, Change{Path: fmt.Sprintf("d%d/f%d.js", i%3, i), Write: Content(strings.Repeat(fmt.Sprintln(n), 500))})
	}
	return changes
}

// applyForParent makes this process one that changes a project until it is
// killed, when the test below has started it.
func applyForParent() {
	dir := os.Getenv("VOLUME_TEST_APPLY")
	if dir == "" {
		return
	}
	s, err := Open(dir, Options{UID: os.Geteuid(), GID: os.Getegid()})
	for n := 1; err == nil; n++ {
		_, err = s.Apply(context.Background(), user, project, applied(n), nil, nil)
		fmt.Fprintln(os.Stderr, "applied", n)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestAKilledApplyLeavesTheOneOrTheOther(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "volumes")
	s, err := Open(dir, Options{UID: os.Geteuid(), GID: os.Getegid()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Create(Data); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, Data, "users", string(user), "projects", string(project))
	states, rounds := map[string]bool{}, 25
	var left []Unfinished
	// A kill between two changes leaves nothing: then there is another round.
	for round := 0; round < rounds || len(left) == 0 && round < 2*rounds; round++ {
		if _, err := s.Apply(t.Context(), user, project, applied(0), nil, nil); err != nil {
			t.Fatal(err)
		}
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "VOLUME_TEST_APPLY="+dir)
		out, err := c.StderrPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal("the child made no change: ", err)
		}
		time.Sleep(time.Duration(rand.IntN(int(300 * time.Millisecond))))
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, out)
		_ = c.Wait()
		got := contents(t, path)
		if len(got) != 20 {
			t.Fatalf("%d files", len(got))
		}
		first := got["d0/f0.js"]
		states[first] = true
		for name, text := range got {
			if text != first {
				t.Fatalf("a half-applied change: %s has %.10q, the others %.10q", name, text, first)
			}
		}
		if left, err = s.Unfinished(); err != nil {
			t.Fatal(err)
		}
	}
	if len(states) < 3 {
		t.Errorf("only %d states in %d rounds: the kills met nothing", len(states), rounds)
	}
	if len(left) != 1 || left[0] != (Unfinished{user, project}) {
		t.Fatal("the killed change is not known: ", left)
	}
	want := contents(t, path)
	for range 2 {
		if err := s.Settle(t.Context(), Unfinished{user, project}); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := s.Unfinished(); err != nil || len(left) != 0 || !same(contents(t, path), want) {
		t.Fatal(left, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, Data, "users", string(user), stagingDir, "*")); err != nil || len(left) != 0 {
		t.Error("left:", left, err)
	}
}

// BenchmarkApply changes two files of a project of some size.
func TestReadersDoNotNoticeAChange(t *testing.T) {
	s, _ := newStore(t)
	if _, err := s.Apply(t.Context(), user, project, applied(0), nil, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	var reads atomic.Int64
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				readOnce(t, s)
				reads.Add(1)
			}
		})
	}
	for n := 1; n <= 60; n++ {
		if _, err := s.Apply(t.Context(), user, project, applied(n), nil, nil); err != nil {
			t.Error(err)
			break
		}
	}
	cancel()
	readers.Wait()
	if reads.Load() < 100 {
		t.Errorf("only %d reads", reads.Load())
	}
}

// readOnce finds the project of the tests, all of its files, and one of them.
func readOnce(t *testing.T, s *Store) {
	p, err := s.Find(user, project)
	if err != nil {
		t.Error(err)
		return
	}
	defer p.Close()
	n := 0
	for _, err := range p.Files(t.Context()) {
		if err != nil {
			t.Error(err)
		}
		n++
	}
	if n != 20 {
		t.Errorf("%d files", n)
	}
	f, _, err := p.Open("d2/f11.js")
	if err != nil {
		t.Error(err)
		return
	}
	f.Close()
}

func BenchmarkApply(b *testing.B) {
	for _, files := range []int{10, 200, 10_000} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			p, s, _ := newProject(b)
			for i := range files {
				write(b, p.Path(), map[string]string{fmt.Sprintf("assets/%d/%d.js", i/500, i): strings.Repeat("x", 1024)})
			}
			for b.Loop() {
				if _, err := s.Apply(b.Context(), user, project, applied(1)[:2], nil, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFiles lists the largest project there is.
func BenchmarkFiles(b *testing.B) {
	p, _, _ := newProject(b)
	for dir := range 99 {
		for i := range 1000 {
			write(b, p.Path(), map[string]string{fmt.Sprintf("d%d/f%d", dir, i): ""})
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
