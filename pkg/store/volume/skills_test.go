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
)

// addSkill puts a skill into the global volume.
func addSkill(t *testing.T, s *Store) {
	t.Helper()
	dir, err := s.Path(Global)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, map[string]string{".claude/skills/p5js/SKILL.md": "Use p5.js.\n"})
}

// state describes every name in a directory: its kind, mode and content.
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
		leave bool                   // of a job that was killed
		work  func(p *Project) error // of the agent
		added []string               // that stays afterwards
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
		{name: "a file of the agent beside the link", shown: true, work: func(p *Project) error {
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
	// The skills went while a link was left behind.
	if err := errors.Join(os.Mkdir(filepath.Join(p.Path(), ".claude"), 0o755), os.Symlink(dreamcore.SkillsTarget, filepath.Join(p.Path(), dreamcore.SkillsLink))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ShowSkills(p); err != nil || state(t, p.Path()) != nil {
		t.Errorf("%q, %v", state(t, p.Path()), err)
	}
}

// TestShownSkillsAreNoPartOfTheProject looks at a project while a job has the
// link in it, as it also is after a kill.
func TestShownSkillsAreNoPartOfTheProject(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("directory of its own %t", own), func(t *testing.T) {
			p, s, _ := newProject(t)
			addSkill(t, s)
			write(t, p.Path(), map[string]string{"index.html": "<p>"})
			if own {
				write(t, p.Path(), map[string]string{".claude/notes.md": "mine"})
			}
			look := func() string {
				var u usage
				if err := u.measure(t.Context(), p.Root(), 1); err != nil {
					t.Fatal(err)
				}
				d, err := DigestOf(t.Context(), p.Root(), func(path, reason string) { t.Errorf("%s: %s", path, reason) })
				if err != nil {
					t.Fatal(err)
				}
				var listed []string
				for _, name := range []string{"", "/.claude"} {
					place, err := s.Locate(t.Context(), Data, "users/"+string(user)+"/projects/"+string(project)+name, false)
					if err != nil {
						t.Fatal(err)
					}
					entries, err := place.List()
					if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
						t.Fatal(err)
					}
					for _, e := range entries {
						listed = append(listed, name+"/"+e.Path)
					}
					place.Close()
				}
				return fmt.Sprintf("%d bytes, %d files, digest %s, list %q", u.bytes, u.files, d, listed)
			}
			before := look()
			hide, err := s.ShowSkills(p)
			if err != nil {
				t.Fatal(err)
			}
			if got := look(); got != before {
				t.Errorf("%s\nbefore: %s", got, before)
			}
			// The service is killed; a change by hand comes before the next job.
			changes := []Change{{Path: ".claude/skills/mine/SKILL.md", Write: Content("mine")}}
			if _, err := s.Apply(t.Context(), user, project, changes, nil, nil); err != nil {
				t.Errorf("a change after a kill: %v", err)
			}
			again, err := s.Project(user, project)
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if raw, err := os.ReadFile(filepath.Join(again.Path(), ".claude/skills/mine/SKILL.md")); string(raw) != "mine" {
				t.Errorf("%q, %v", raw, err)
			}
			if err := hide(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSkillsStayInTheProject shows and hides them while a process replaces
// .claude all the time, as only an operator's exec beside a job could.
func TestSkillsStayInTheProject(t *testing.T) {
	p, s, _ := newProject(t)
	addSkill(t, s)
	outside := t.TempDir()
	write(t, outside, map[string]string{"keep": "x"})
	before := state(t, outside)
	stop := make(chan struct{})
	var racer sync.WaitGroup
	racer.Go(func() {
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
		// Errors are fine: the project changes while it is looked at.
		if hide, err := s.ShowSkills(p); err == nil {
			_ = hide()
		}
		var u usage
		_ = u.measure(t.Context(), p.Root(), 1)
	}
	close(stop)
	racer.Wait()
	if got := state(t, outside); !slices.Equal(got, before) {
		t.Errorf("outside of the project: %q", got)
	}
	info, err := os.Stat(outside)
	if err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != os.Getuid() {
		t.Errorf("outside of the project: %+v, %v", info, err)
	}
}
