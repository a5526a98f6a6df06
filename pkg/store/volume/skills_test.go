package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree/treetest"
)

// addSkill adds a skill to the global volume.
func addSkill(t *testing.T, s *Store) {
	t.Helper()
	dir, err := s.Path(Global)
	if err != nil {
		t.Fatal(err)
	}
	treetest.Write(t, dir, map[string]string{".claude/skills/p5js/SKILL.md": "Use p5.js.\n"})
}

// state describes every name in a directory: its type, mode and content.
func state(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := ""
		switch {
		case info.Mode().IsRegular():
			raw, _ := os.ReadFile(path)
			text = string(raw)
		case info.Mode()&fs.ModeSymlink != 0:
			text, _ = os.Readlink(path)
		}
		all = append(all, fmt.Sprintf("%s %v %q", strings.TrimPrefix(path, dir+"/"), info.Mode(), text))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestSkillsAreShownOnlyUntilTheyAreHidden(t *testing.T) {
	const link = `.claude/skills Lrwxrwxrwx "/global/.claude/skills"`
	at := func(p *Project, name string) string { return filepath.Join(p.Path(), name) }
	for _, tt := range []struct {
		name  string
		begin func(p *Project) error
		shown bool
		leave bool                   // begin makes what a killed job leaves
		work  func(p *Project) error // what the agent does
		added []string               // what stays afterwards
	}{
		{name: "an empty project", shown: true},
		{name: "a directory of its own", shown: true, begin: func(p *Project) error {
			return errors.Join(os.Mkdir(at(p, ".claude"), 0o700), os.WriteFile(at(p, ".claude/settings.json"), []byte("{}"), 0o600))
		}},
		{name: "an empty directory of its own", shown: true, begin: func(p *Project) error { return os.Mkdir(at(p, ".claude"), 0o750) }},
		{name: "skills of its own", begin: func(p *Project) error {
			return errors.Join(os.MkdirAll(at(p, ".claude/skills/mine"), 0o755), os.WriteFile(at(p, ".claude/skills/mine/SKILL.md"), []byte("x"), 0o644))
		}},
		{name: "a link to somewhere else", begin: func(p *Project) error {
			return errors.Join(os.Mkdir(at(p, ".claude"), 0o755), os.Symlink("/global/.claude", at(p, ".claude/skills")))
		}},
		{name: "a file", begin: func(p *Project) error { return os.WriteFile(at(p, ".claude"), []byte("x"), 0o644) }},
		{name: "a FIFO", begin: func(p *Project) error { return syscall.Mkfifo(at(p, ".claude"), 0o644) }},
		{name: "a link", begin: func(p *Project) error {
			return errors.Join(os.Mkdir(at(p, "other"), 0o755), os.Symlink("other", at(p, ".claude")))
		}},
		{name: "a link out of the project", begin: func(p *Project) error { return os.Symlink("/tmp", at(p, ".claude")) }},
		{name: "after a kill", shown: true, leave: true, begin: func(p *Project) error {
			return errors.Join(os.Mkdir(at(p, ".claude"), 0o755), os.Symlink(dreamcore.SkillsTarget, at(p, ".claude/skills")))
		}},
		{name: "removed by the agent", shown: true, work: func(p *Project) error { return os.RemoveAll(at(p, ".claude")) }},
		{name: "the link is removed by the agent", shown: true, work: func(p *Project) error { return os.Remove(at(p, ".claude/skills")) }},
		{name: "replaced by the agent", shown: true, work: func(p *Project) error {
			return errors.Join(os.RemoveAll(at(p, ".claude")), os.WriteFile(at(p, ".claude"), []byte("mine"), 0o644))
		}, added: []string{`.claude -rw-r--r-- "mine"`}},
		{name: "the link is replaced by the agent", shown: true, work: func(p *Project) error {
			return errors.Join(os.Remove(at(p, ".claude/skills")), os.WriteFile(at(p, ".claude/skills"), []byte("mine"), 0o644))
		}, added: []string{`.claude drwxr-xr-x ""`, `.claude/skills -rw-r--r-- "mine"`}},
		{name: "a file of the agent next to the link", shown: true, work: func(p *Project) error {
			return os.WriteFile(at(p, ".claude/notes.md"), []byte("mine"), 0o644)
		}, added: []string{`.claude drwxr-xr-x ""`, `.claude/notes.md -rw-r--r-- "mine"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer syscall.Umask(syscall.Umask(0))
			p, s, _ := newProject(t)
			addSkill(t, s)
			if tt.begin != nil {
				if err := tt.begin(p); err != nil {
					t.Fatal(err)
				}
			}
			want := state(t, p.Path())
			if tt.leave {
				want = nil
			}
			hide, err := s.ShowSkills(p)
			if err != nil {
				t.Fatal(err)
			}
			if got := state(t, p.Path()); slices.Contains(got, link) != tt.shown {
				t.Errorf("during the job: %q", got)
			}
			if tt.work != nil {
				if err := tt.work(p); err != nil {
					t.Fatal(err)
				}
			}
			if err := hide(); err != nil {
				t.Fatal(err)
			}
			want = append(want, tt.added...)
			if got := state(t, p.Path()); !slices.Equal(got, want) {
				t.Errorf("after the job: %q, want %q", got, want)
			}
		})
	}
}

func TestWithoutSkillsThereIsNoLink(t *testing.T) {
	p, s, _ := newProject(t)
	hide, err := s.ShowSkills(p)
	if got := state(t, p.Path()); err != nil || got != nil || hide() != nil {
		t.Errorf("%q, %v", got, err)
	}
	// A killed job has left a link, and the skills were removed since.
	if err := errors.Join(os.Mkdir(filepath.Join(p.Path(), ".claude"), 0o755), os.Symlink(dreamcore.SkillsTarget, filepath.Join(p.Path(), dreamcore.SkillsLink))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ShowSkills(p); err != nil || state(t, p.Path()) != nil {
		t.Errorf("%q, %v", state(t, p.Path()), err)
	}
}

// TestTheLinkToSkillsIsNotPartOfTheProject reads a project while a job has the
// link in it. A killed job leaves it there.
func TestTheLinkToSkillsIsNotPartOfTheProject(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("directory of its own %t", own), func(t *testing.T) {
			p, s, _ := newProject(t)
			addSkill(t, s)
			treetest.Write(t, p.Path(), map[string]string{"index.html": "<p>"})
			if own {
				treetest.Write(t, p.Path(), map[string]string{".claude/notes.md": "mine"})
			}
			read := func() string {
				var u tree.Usage
				if err := u.Measure(t.Context(), p.Root()); err != nil {
					t.Fatal(err)
				}
				d, err := tree.DigestOf(t.Context(), p.Root(), func(path, reason string) { t.Errorf("%s: %s", path, reason) })
				if err != nil {
					t.Fatal(err)
				}
				var listed []string
				for _, name := range []string{"", "/.claude"} {
					l, err := s.Locate(t.Context(), Data, "users/"+string(user)+"/projects/"+string(project)+name, false)
					if err != nil {
						t.Fatal(err)
					}
					entries, err := l.List()
					if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
						t.Fatal(err)
					}
					for _, e := range entries {
						listed = append(listed, name+"/"+e.Path)
					}
					l.Close()
				}
				return fmt.Sprintf("%d bytes, %d files, digest %s, list %q", u.Bytes, u.Files, d, listed)
			}
			before := read()
			hide, err := s.ShowSkills(p)
			if err != nil {
				t.Fatal(err)
			}
			if got := read(); got != before {
				t.Errorf("%s\nbefore: %s", got, before)
			}
			// The service is killed; a change comes before the next job.
			stage, err := s.Stage(t.Context(), user, project)
			if err != nil {
				t.Fatal(err)
			}
			stage.Close()
			if _, err := os.Lstat(filepath.Join(p.Path(), ".claude/skills")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the link after a change: %v", err)
			}
			if err := hide(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSkillsNeverLeaveTheProject shows and hides the skills while another process
// keeps replacing .claude, as only an exec by the operator during a job could.
func TestSkillsNeverLeaveTheProject(t *testing.T) {
	p, s, _ := newProject(t)
	addSkill(t, s)
	outside := t.TempDir()
	treetest.Write(t, outside, map[string]string{"keep": "x"})
	before := state(t, outside)
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		at := filepath.Join(p.Path(), ".claude")
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.RemoveAll(at)
			switch i % 5 {
			case 0:
				_ = os.Symlink(outside, at)
			case 1:
				_ = syscall.Mkfifo(at, 0o644)
			case 2:
				_ = os.WriteFile(at, []byte("x"), 0o644)
			case 3:
				_ = os.Mkdir(at, 0o755)
			}
		}
	})
	for range 2000 {
		// Errors are fine: the project changes while it is read.
		if hide, err := s.ShowSkills(p); err == nil {
			_ = hide()
		}
		var u tree.Usage
		_ = u.Measure(t.Context(), p.Root())
	}
	close(stop)
	writer.Wait()
	if got := state(t, outside); !slices.Equal(got, before) {
		t.Errorf("outside of the project: %q", got)
	}
	info, err := os.Stat(outside)
	if err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != os.Getuid() {
		t.Errorf("outside of the project: %+v, %v", info, err)
	}
}
