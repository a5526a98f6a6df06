package project

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
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
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree/treetest"
)

func TestApplyChangesFilesAndLeavesTheRest(t *testing.T) {
	p, s := newProject(t, volume.Options{})
	treetest.Hostile(t, p.Path(), treetest.Outside(t))
	treetest.Write(t, p.Path(), map[string]string{"run.sh": "old", "old/file.js": "x", "dir/keep": "k"})
	if err := os.Chmod(filepath.Join(p.Path(), "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := treetest.Contents(t, p.Path())
	sizes, err := apply(t.Context(), s, testUser, testProject, []Change{
		{Path: "index.html", Write: Text("<new>")},
		{Path: "./run.sh", Write: Text("new")},
		{Path: "a/b/c.js", Write: Text("c")},
		{Path: "link.txt", Write: Text("no link any more")},
		{Path: "old/file.js"},
		{Path: "no/such/file.js"},
	}, noHook, noHook)
	if err != nil || fmt.Sprint(sizes) != "[5 3 1 16 0 0]" {
		t.Fatal(sizes, err)
	}
	delete(want, "old/file.js")
	for name, text := range map[string]string{"index.html": "<new>", "run.sh": "new", "a/b/c.js": "c", "link.txt": "no link any more"} {
		want[name] = text
	}
	if got := treetest.Contents(t, p.Path()); !maps.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for name, mode := range map[string]os.FileMode{"run.sh": 0o755, "index.html": 0o644, "a/b": 0o755, ".": 0o755} {
		info, err := os.Lstat(filepath.Join(p.Path(), name))
		if err != nil || info.Mode().Perm() != mode || int(info.Sys().(*syscall.Stat_t).Uid) != s.Owner().UID {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(p.Path(), "../../staging/*")); err != nil || len(left) != 0 {
		t.Error("residue:", left, err)
	}
}

func TestApplyIsAllOrNothing(t *testing.T) {
	p, s := newProject(t, volume.Options{})
	outside := treetest.Outside(t)
	treetest.Write(t, p.Path(), map[string]string{"index.html": "old", "dir/file": "x"})
	if err := os.Symlink(outside, filepath.Join(p.Path(), "linkdir")); err != nil {
		t.Fatal(err)
	}
	want := treetest.Contents(t, p.Path())
	good := Change{Path: "index.html", Write: Text("new")}
	gone := errors.New("gone")
	for name, changes := range map[string][]Change{
		"leaves":           {good, {Path: "../x", Write: Text("x")}},
		"absolute":         {good, {Path: "/etc/x", Write: Text("x")}},
		"through a link":   {good, {Path: "linkdir/secret", Write: Text("x")}},
		"removes by link":  {good, {Path: "linkdir/secret"}},
		"a directory":      {good, {Path: "dir", Write: Text("x")}},
		"removes a dir":    {good, {Path: "dir"}},
		"below a file":     {good, {Path: "dir/file/x", Write: Text("x")}},
		"twice":            {good, {Path: "./index.html"}},
		"git":              {good, {Path: ".git/hooks/pre-commit", Write: Text("x")}},
		"git in disguise":  {good, {Path: "a/.GIT /config", Write: Text("x")}},
		"the project":      {good, {Path: "."}},
		"ends in a slash":  {good, {Path: "x/", Write: Text("x")}},
		"NUL":              {good, {Path: "a\x00b", Write: Text("x")}},
		"a long name":      {good, {Path: strings.Repeat("a", 300), Write: Text("x")}},
		"nothing":          {good, {Path: ""}},
		"a writer's error": {good, {Path: "x", Write: func(io.Writer) error { return gone }}},
	} {
		_, err := apply(t.Context(), s, testUser, testProject, changes, noHook, noHook)
		if name == "a writer's error" {
			if !errors.Is(err, gone) {
				t.Errorf("%s: %v", name, err)
			}
		} else if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), "Invalid file path: ") {
			t.Errorf("%s: %v", name, err)
		}
		if got := treetest.Contents(t, p.Path()); !maps.Equal(got, want) {
			t.Fatalf("%s: %q", name, got)
		}
	}
	seen := ""
	if _, err := apply(t.Context(), s, testUser, testProject, []Change{good}, func(root *os.Root) error {
		raw, err := root.ReadFile("index.html")
		seen = string(raw)
		return errors.Join(err, gone)
	}, noHook); !errors.Is(err, gone) || seen != "new" {
		t.Errorf("check: %q %v", seen, err)
	}
	if _, err := apply(t.Context(), s, testUser, testProject, []Change{good}, noHook, func(*os.Root) error {
		seen = treetest.Contents(t, p.Path())["index.html"] + " in place"
		return gone
	}); !errors.Is(err, gone) || seen != "new in place" {
		t.Errorf("commit: %q %v", seen, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := apply(ctx, s, testUser, testProject, []Change{good}, noHook, noHook); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := treetest.Contents(t, p.Path()); !maps.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := treetest.Contents(t, outside); len(got) != 1 || got["secret"] != "needle" {
		t.Errorf("outside: %q", got)
	}
}

// applied returns the changes to state n of a project: all files have the same
// content.
func applied(n int) []Change {
	var changes []Change
	for i := range 20 {
		changes = append(changes, Change{Path: fmt.Sprintf("d%d/f%d.js", i%3, i), Write: Text(strings.Repeat(fmt.Sprintln(n), 500))})
	}
	return changes
}

// applyForParent changes a project until the process is killed, if the test below
// started the process.
func applyForParent() {
	dir := os.Getenv("PROJECT_TEST_APPLY")
	if dir == "" {
		return
	}
	s, err := volume.Open(dir, volume.Options{UID: os.Geteuid(), GID: os.Getegid()})
	for n := 1; err == nil; n++ {
		_, err = apply(context.Background(), s, testUser, testProject, applied(n), noHook, noHook)
		fmt.Fprintln(os.Stderr, "applied", n)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestAKilledApplyLeavesTheOldStateOrTheNew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "volumes")
	s, err := volume.Open(dir, volume.Options{UID: os.Geteuid(), GID: os.Getegid()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Create(volume.Data); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, volume.Data, "users", string(testUser), "projects", string(testProject))
	states, rounds := map[string]bool{}, 25
	var left []volume.Unfinished
	// A kill between two changes leaves no residue, and another round is needed.
	for round := 0; round < rounds || len(left) == 0 && round < 2*rounds; round++ {
		if _, err := apply(t.Context(), s, testUser, testProject, applied(0), noHook, noHook); err != nil {
			t.Fatal(err)
		}
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "PROJECT_TEST_APPLY="+dir)
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
		got := treetest.Contents(t, path)
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
		t.Errorf("only %d states in %d rounds: no kill interrupted a change", len(states), rounds)
	}
	if len(left) != 1 || left[0] != (volume.Unfinished{User: testUser, Project: testProject}) {
		t.Fatal("the killed change is not listed: ", left)
	}
	want := treetest.Contents(t, path)
	for range 2 {
		if err := s.RemoveResidue(t.Context(), volume.Unfinished{User: testUser, Project: testProject}); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := s.Unfinished(); err != nil || len(left) != 0 || !maps.Equal(treetest.Contents(t, path), want) {
		t.Fatal(left, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, volume.Data, "users", string(testUser), "staging", "*")); err != nil || len(left) != 0 {
		t.Error("residue:", left, err)
	}
}

func TestReadersDoNotNoticeAChange(t *testing.T) {
	s := newStore(t, volume.Options{})
	if _, err := apply(t.Context(), s, testUser, testProject, applied(0), noHook, noHook); err != nil {
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
		if _, err := apply(t.Context(), s, testUser, testProject, applied(n), noHook, noHook); err != nil {
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

// readOnce opens the test project, lists its files and opens one of them.
func readOnce(t *testing.T, s *volume.Store) {
	p, err := s.Find(testUser, testProject)
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

// BenchmarkApply changes two files of projects of different sizes.
func BenchmarkApply(b *testing.B) {
	for _, files := range []int{10, 200, 10_000} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			p, s := newProject(b, volume.Options{})
			for i := range files {
				treetest.Write(b, p.Path(), map[string]string{fmt.Sprintf("assets/%d/%d.js", i/500, i): strings.Repeat("x", 1024)})
			}
			for b.Loop() {
				if _, err := apply(b.Context(), s, testUser, testProject, applied(1)[:2], noHook, noHook); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestApplyKeepsTheLimitsOfAProject(t *testing.T) {
	p, s := newProject(t, volume.Options{ProjectBytes: 1 << 20, ProjectFiles: 20})
	treetest.Write(t, p.Path(), map[string]string{"a": "1", "b": strings.Repeat("x", 600<<10)})
	before := treetest.Contents(t, p.Path())
	try := func(changes ...Change) error {
		_, err := apply(t.Context(), s, testUser, testProject, changes, noHook, noHook)
		return err
	}
	large := Change{Path: "c", Write: Text(strings.Repeat("y", 600<<10))}
	wantError(t, try(large), dreamcore.CodeTooLarge, "larger than a project may be")
	var names []Change
	for i := range 20 {
		names = append(names, Change{Path: fmt.Sprintf("n%d", i), Write: Text("")})
	}
	wantError(t, try(names...), dreamcore.CodeTooLarge, "larger than a project may be")
	if !maps.Equal(before, treetest.Contents(t, filepath.Join(p.Path(), "..", string(testProject)))) {
		t.Error("the project was changed")
	}
	// It fits in the place of another file.
	large.Path = "b"
	if err := try(large); err != nil {
		t.Error(err)
	}
	// A change that shrinks a project is allowed, even beyond the limit.
	owner := s.Owner()
	strict, err := volume.Open(filepath.Join(p.Path(), "../../../../.."), volume.Options{UID: owner.UID, GID: owner.GID, ProjectBytes: 1000, ProjectFiles: 20})
	if err != nil {
		t.Fatal(err)
	}
	defer strict.Close()
	if _, err := apply(t.Context(), strict, testUser, testProject, []Change{{Path: "a"}}, noHook, noHook); err != nil {
		t.Error(err)
	}
}

// TestAChangeAfterAKilledJob: the job has left its link to the skills, where the
// change makes a directory.
func TestAChangeAfterAKilledJob(t *testing.T) {
	p, s := newProject(t, volume.Options{})
	if err := errors.Join(os.Mkdir(filepath.Join(p.Path(), dreamcore.ConfigDir), 0o755), os.Symlink(dreamcore.SkillsTarget, filepath.Join(p.Path(), dreamcore.SkillsLink))); err != nil {
		t.Fatal(err)
	}
	changes := []Change{{Path: ".claude/skills/mine/SKILL.md", Write: Text("mine")}}
	if _, err := apply(t.Context(), s, testUser, testProject, changes, noHook, noHook); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(filepath.Join(p.Path(), ".claude/skills/mine/SKILL.md")); string(raw) != "mine" {
		t.Errorf("%q, %v", raw, err)
	}
}
