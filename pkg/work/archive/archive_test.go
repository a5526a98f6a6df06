package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

const (
	alice = "11111111-1111-4111-8111-111111111111"
	bob   = "22222222-2222-4222-8222-222222222222"
)

// rig is a test installation.
type rig struct {
	*Depot
	state string
}

func newRig(t testing.TB) *rig {
	t.Helper()
	state := t.TempDir()
	volumes, err := volume.Open(filepath.Join(state, "volumes"), volume.Options{UID: os.Geteuid(), GID: os.Getegid()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { volumes.Close() })
	for _, v := range []string{volume.Data, volume.Global} {
		if _, err := volumes.Create(v); err != nil {
			t.Fatal(err)
		}
	}
	versions, err := history.Open(filepath.Join(state, "history"), history.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{New(volumes, versions, Options{StateDir: state, Patience: 200 * time.Millisecond}), state}
}

func (r *rig) path(p string) string {
	return filepath.Join(r.state, "volumes", volume.Data, p)
}

func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

func projectID(n int) string { return fmt.Sprintf("33333333-3333-4333-8333-%012d", n) }

func projectPath(user string, n int) string {
	return "users/" + user + "/projects/" + projectID(n)
}

func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	c := exec.Command("git", args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "LC_ALL=C",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@x", "GIT_COMMITTER_NAME=b", "GIT_COMMITTER_EMAIL=b@x", "GIT_AUTHOR_DATE=1600000000 +0900", "GIT_COMMITTER_DATE=1600000000 +0900")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// oldTree makes an old volume with projects of alice and one of bob. It returns
// the directory and the newest commit of each project.
func oldTree(t testing.TB, projects int) (dir string, heads []string) {
	t.Helper()
	dir = t.TempDir()
	first := filepath.Join(dir, projectPath(alice, 0))
	for i := range projects {
		user := alice
		if i == 1 {
			user = bob
		}
		p := filepath.Join(dir, projectPath(user, i))
		if i == 0 {
			write(t, p, map[string]string{"index.html": "<html>", "assets/a b\n\xff.png": "png", "bin/run": "#!"})
			git(t, p, "init", "-q", "-b", "main")
			git(t, p, "add", "-A")
			git(t, p, "commit", "-qm", "first")
		} else if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		} else if out, err := exec.Command("cp", "-a", first, p).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		write(t, p, map[string]string{"index.html": fmt.Sprintf("<html>%d", i)})
		git(t, p, "commit", "-qam", fmt.Sprint("of ", i))
		heads = append(heads, git(t, p, "rev-parse", "HEAD"))
	}
	return dir, heads
}

// contents returns the modes and contents of everything in a directory, except for
// a .git at its top.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if name == ".git" {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String() + " "
		switch d.Type() {
		case 0:
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += string(raw)
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += target
		}
		if name != "." {
			got[name] = text
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func wantSame(t testing.TB, got, want string) {
	t.Helper()
	a, b := contents(t, got), contents(t, want)
	if fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("%s\ngot  %q\nwant %q", got, a, b)
	}
}

// wantSound checks the history of a project with stock git.
func (r *rig) wantSound(t testing.TB, user string, n int, head string) {
	t.Helper()
	repo := filepath.Join(r.state, "history", user, projectID(n)+".git")
	if out := git(t, t.TempDir(), "--git-dir", repo, "fsck", "--strict", "--full", "--no-dangling", "--no-progress"); out != "" {
		t.Errorf("git fsck: %s", out)
	}
	if got := git(t, t.TempDir(), "--git-dir", repo, "rev-parse", "main"); head != "" && got != head {
		t.Errorf("newest version of %d: %s, want %s", n, got, head)
	}
}

func states(r Report) (s []string) {
	for _, p := range r.Projects {
		s = append(s, p.State)
	}
	return s
}

func wantStates(t testing.TB, r Report, err error, want ...string) {
	t.Helper()
	if err != nil || !slices.Equal(states(r), want) {
		t.Fatalf("got %+v, %v, want %v", r, err, want)
	}
}

func TestImportOfAnOldVolume(t *testing.T) {
	old, heads := oldTree(t, 3)
	for name, src := range map[string]string{"the volume": old, "its users": filepath.Join(old, "users"), "its parent": filepath.Join(t.TempDir(), "up")} {
		t.Run(name, func(t *testing.T) {
			if name == "its parent" {
				if err := errors.Join(os.MkdirAll(src, 0o755), os.Symlink(old, filepath.Join(src, "not-followed"))); err != nil {
					t.Fatal(err)
				}
				if out, err := exec.Command("cp", "-a", old, filepath.Join(src, "data")).CombinedOutput(); err != nil {
					t.Fatalf("%v %s", err, out)
				}
			}
			r := newRig(t)
			report, err := r.Import(t.Context(), src, ImportOptions{Users: map[dreamcore.UserID]dreamcore.UserID{bob: alice}})
			wantStates(t, report, err, Copied, Copied, Copied)
			for i := range 3 {
				user := alice
				if i == 1 {
					user = bob
				}
				wantSame(t, r.path(projectPath(alice, i)), filepath.Join(old, projectPath(user, i)))
				r.wantSound(t, alice, i, heads[i])
			}
			if p := report.Projects[0]; p.Versions != 2 || p.Files != 3 || len(p.Notes) != 0 {
				t.Errorf("%+v", p)
			}
			// Changes that users made since then stay.
			write(t, r.path(projectPath(alice, 0)), map[string]string{"index.html": "newer"})
			report, err = r.Import(t.Context(), src, ImportOptions{Users: map[dreamcore.UserID]dreamcore.UserID{bob: alice}})
			wantStates(t, report, err, Present, Present, Present)
			if raw, _ := os.ReadFile(filepath.Join(r.path(projectPath(alice, 0)), "index.html")); string(raw) != "newer" {
				t.Errorf("%q", raw)
			}
		})
	}
}

func TestImportKeepsExistingProjects(t *testing.T) {
	old, _ := oldTree(t, 1)
	r := newRig(t)
	write(t, r.path(projectPath(alice, 0)), map[string]string{"mine.txt": "mine"})
	report, err := r.Import(t.Context(), old, ImportOptions{})
	wantStates(t, report, err, Skipped)
	report, err = r.Import(t.Context(), old, ImportOptions{Force: true})
	wantStates(t, report, err, Copied)
	wantSame(t, r.path(projectPath(alice, 0)), filepath.Join(old, projectPath(alice, 0)))
	versions, err := r.versions.Log(t.Context(), alice, dreamcore.ProjectID(projectID(0)), 0)
	if err != nil || len(versions) != 2 || versions[1].Message != "Before an import" {
		t.Errorf("%v %v", versions, err)
	}
	r.wantSound(t, alice, 0, "")
}

func TestImportOfHostileTrees(t *testing.T) {
	old, heads := oldTree(t, 3)
	outside := t.TempDir()
	write(t, outside, map[string]string{"secret": "needle", "index.html": "needle"})
	p := filepath.Join(old, projectPath(alice, 0))
	write(t, p, map[string]string{"new\nline": "x", "sub/.git/config": "[core]\n\tfsmonitor = false", "-rf": "dash", ".hidden": "h"})
	deep := "deep" + strings.Repeat("/d", tree.MaxDepth+5)
	for _, err := range []error{
		os.Symlink(filepath.Join(outside, "secret"), filepath.Join(p, "link")), os.Symlink(outside, filepath.Join(p, "dir")), os.Symlink("loop", filepath.Join(p, "loop")),
		syscall.Mkfifo(filepath.Join(p, "fifo"), 0o644), os.MkdirAll(filepath.Join(p, deep), 0o755), os.WriteFile(filepath.Join(p, "sparse"), nil, 0o644),
		os.Symlink(outside, filepath.Join(old, "users", bob, "projects", projectID(8))), os.Symlink(outside, filepath.Join(old, "users", projectID(9))),
		os.MkdirAll(filepath.Join(old, "users", "..nobody"), 0o755), os.MkdirAll(filepath.Join(old, "users", bob, "assets"), 0o755),
		os.WriteFile(filepath.Join(old, "users", bob, "projects", projectID(7)), []byte("a file"), 0o644),
		os.RemoveAll(filepath.Join(old, projectPath(bob, 1), ".git")), os.WriteFile(filepath.Join(old, projectPath(bob, 1), ".git"), []byte("gitdir: "+p), 0o644),
		os.RemoveAll(filepath.Join(old, projectPath(alice, 2), ".git")), os.Symlink(filepath.Join(p, ".git"), filepath.Join(old, projectPath(alice, 2), ".git")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r := newRig(t)
	report, err := r.Import(t.Context(), old, ImportOptions{})
	wantStates(t, report, err, Copied, Copied, Copied)
	for _, want := range []string{"fifo", "deep"} {
		if !strings.Contains(fmt.Sprint(report.Projects[0].Notes), want) {
			t.Errorf("%s is not noted: %q", want, report.Projects[0].Notes)
		}
	}
	for i, want := range map[int]string{1: "not a directory", 2: "not a directory"} {
		if !strings.Contains(fmt.Sprint(report.Projects[i].Notes), want) || report.Projects[i].Versions != 0 {
			t.Errorf("%+v", report.Projects[i])
		}
	}
	for _, want := range []string{projectID(7), projectID(8), projectID(9), "..nobody", "assets"} {
		if !strings.Contains(fmt.Sprint(report.Notes), want) {
			t.Errorf("%s is not noted: %q", want, report.Notes)
		}
	}
	got := contents(t, r.path(projectPath(alice, 0)))
	for name, want := range map[string]string{"new\nline": "x", "-rf": "dash", "sub/.git/config": "fsmonitor", "link": outside + "/secret", "dir": outside, "loop": "loop", ".hidden": "h"} {
		if !strings.HasSuffix(got[name], want) && !strings.Contains(got[name], want) {
			t.Errorf("%q: %q", name, got[name])
		}
	}
	out, err := exec.Command("grep", "-rl", "needle", r.state).CombinedOutput()
	if len(out) != 0 {
		t.Errorf("a file from outside was imported: %s %v", out, err)
	}
	versions, err := r.versions.Log(t.Context(), alice, dreamcore.ProjectID(projectID(0)), 0)
	if err != nil || len(versions) != 3 || versions[1].Hash != heads[0] {
		t.Errorf("%v %v", versions, err)
	}
	for i, user := range []string{alice, bob, alice} {
		r.wantSound(t, user, i, "")
	}
}

func TestAnExportCanBeImported(t *testing.T) {
	old, heads := oldTree(t, 2)
	if err := os.Symlink("index.html", filepath.Join(old, projectPath(alice, 0), "link")); err != nil {
		t.Fatal(err)
	}
	from := newRig(t)
	report, err := from.Import(t.Context(), old, ImportOptions{})
	wantStates(t, report, err, Copied, Copied)
	for _, name := range []string{"out", "out.tar", "out.tar.gz", "out.tar.zst"} {
		t.Run(name, func(t *testing.T) {
			dest := filepath.Join(t.TempDir(), name)
			report, err := from.Export(t.Context(), Scope{}, dest, false)
			wantStates(t, report, err, Copied, Copied)
			if _, err := from.Export(t.Context(), Scope{}, dest, false); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
				t.Errorf("again: %v", err)
			}
			to := newRig(t)
			report, err = to.Import(t.Context(), dest, ImportOptions{})
			wantStates(t, report, err, Copied, Copied)
			for i, user := range []string{alice, bob} {
				wantSame(t, to.path(projectPath(user, i)), from.path(projectPath(user, i)))
				newest, _ := from.versions.Newest(dreamcore.UserID(user), dreamcore.ProjectID(projectID(i)))
				to.wantSound(t, user, i, newest)
			}
			if name == "out" {
				if got := git(t, filepath.Join(dest, projectPath(bob, 1)), "rev-parse", "HEAD"); got != heads[1] {
					t.Errorf("stock git sees %s", got)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(dest), ".*")); len(left) != 0 {
				t.Errorf("residue: %v", left)
			}
			if left, _ := filepath.Glob(filepath.Join(to.state, importsDir, spoolPrefix+"*")); len(left) != 0 {
				t.Errorf("residue: %v", left)
			}
		})
	}
	if _, err := from.Export(t.Context(), Scope{Project: dreamcore.ProjectID(projectID(9))}, filepath.Join(t.TempDir(), "x.tar"), false); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("a missing project: %v", err)
	}
}

func TestHostileTars(t *testing.T) {
	outside := t.TempDir()
	base := projectPath(alice, 0)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, text string) {
		h.Size = int64(len(text))
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	add(tar.Header{Name: "../up", Typeflag: tar.TypeReg}, "needle")
	add(tar.Header{Name: "/" + base + "/absolute", Typeflag: tar.TypeReg}, "needle")
	add(tar.Header{Name: base + "/ok", Typeflag: tar.TypeReg}, "fine")
	add(tar.Header{Name: base + "/../../../../../../up", Typeflag: tar.TypeReg}, "needle")
	add(tar.Header{Name: base + "/out", Typeflag: tar.TypeSymlink, Linkname: outside}, "")
	add(tar.Header{Name: base + "/out/file", Typeflag: tar.TypeReg}, "needle")
	add(tar.Header{Name: base + "/in", Typeflag: tar.TypeSymlink, Linkname: "."}, "")
	add(tar.Header{Name: base + "/in/file", Typeflag: tar.TypeReg}, "needle")
	add(tar.Header{Name: base + "/hard", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}, "")
	add(tar.Header{Name: base + "/dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, "")
	add(tar.Header{Name: base + "/ok", Typeflag: tar.TypeReg}, "needle")
	add(tar.Header{Name: base + "/.git", Typeflag: tar.TypeSymlink, Linkname: outside}, "")
	add(tar.Header{Name: base + "/suid", Typeflag: tar.TypeReg, Mode: 0o6755}, "s")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "evil.tar")
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	report, err := r.Import(t.Context(), name, ImportOptions{})
	wantStates(t, report, err, Copied)
	got := fmt.Sprint(contents(t, r.path(base)))
	want := fmt.Sprint(map[string]string{"ok": "-rw-r--r-- fine", "suid": "-rwxr-xr-x s", "out": "Lrwxrwxrwx " + outside, "in": "Lrwxrwxrwx ."})
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if out, _ := exec.Command("grep", "-rl", "needle", r.state, outside).CombinedOutput(); len(out) != 0 {
		t.Errorf("written: %s", out)
	}
	for n := range b.Len() / 512 { // truncated anywhere: no panic, no incomplete project
		if err := os.WriteFile(name, b.Bytes()[:n*512+100], 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := newRig(t).Import(t.Context(), name, ImportOptions{}); err == nil {
			t.Errorf("truncated after %d bytes: no error", n*512+100)
		}
	}
}

func TestBackupAndRestore(t *testing.T) {
	old, heads := oldTree(t, 2)
	from := newRig(t)
	if _, err := from.Import(t.Context(), old, ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	write(t, from.state, map[string]string{
		"config.yaml": "language: ja\n", "secrets/a.age": "sealed", "secrets/identity": "AGE-SECRET", "jobs/x.ndjson": "{}\n",
		"volumes/dreamcore-global/.claude/skills/s/SKILL.md":       "skill",
		"homes/" + alice + "/" + projectID(0) + "/.claude/c.jsonl": "talk", "homes/" + alice + "/" + projectID(0) + ".session": projectID(5) + "\n",
	})
	unlock, err := from.volumes.TryLock(bob, dreamcore.ProjectID(projectID(1)))
	if err != nil {
		t.Fatal(err)
	}
	write(t, from.path(projectPath(bob, 1)), map[string]string{"index.html": "half-written"})
	name := filepath.Join(t.TempDir(), "b.tar.zst")
	report, err := from.Backup(t.Context(), name, BackupOptions{Secrets: true})
	wantStates(t, report, err, Copied, Copied)
	unlock()
	if !strings.Contains(fmt.Sprint(report.Projects[1].Notes), "in use") {
		t.Errorf("%+v", report.Projects[1])
	}
	c, err := Check(t.Context(), name, nil)
	if err != nil || c.Projects != 2 || !c.Secrets || c.Identity {
		t.Fatalf("%+v %v", c, err)
	}
	to := newRig(t)
	report, err = to.Restore(t.Context(), name, false)
	wantStates(t, report, err, Copied, Copied)
	wantSame(t, to.path(projectPath(alice, 0)), from.path(projectPath(alice, 0)))
	wantSame(t, to.path(projectPath(bob, 1)), filepath.Join(old, projectPath(bob, 1)))
	to.wantSound(t, alice, 0, heads[0])
	to.wantSound(t, bob, 1, heads[1])
	for _, file := range []string{"config.yaml", "secrets/a.age", "volumes/dreamcore-global/.claude/skills/s/SKILL.md", "homes/" + alice + "/" + projectID(0) + "/.claude/c.jsonl", "homes/" + alice + "/" + projectID(0) + ".session"} {
		a, err := os.ReadFile(filepath.Join(from.state, file))
		b, err2 := os.ReadFile(filepath.Join(to.state, file))
		if err != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Errorf("%s: %v %v", file, err, err2)
		}
	}
	for _, file := range []string{"secrets/identity", "jobs/x.ndjson"} {
		if _, err := os.Lstat(filepath.Join(to.state, file)); err == nil {
			t.Errorf("%s was not requested", file)
		}
	}
	if _, err := from.Restore(t.Context(), name, false); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
		t.Errorf("over existing projects: %v", err)
	}
	report, err = from.Restore(t.Context(), name, true)
	wantStates(t, report, err, Copied, Copied)
	wantSame(t, from.path(projectPath(bob, 1)), filepath.Join(old, projectPath(bob, 1)))
	from.wantSound(t, bob, 1, "")
}

func TestCheckDetectsEveryChange(t *testing.T) {
	old, _ := oldTree(t, 1)
	r := newRig(t)
	if _, err := r.Import(t.Context(), old, ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "b.tar")
	if _, err := r.Backup(t.Context(), name, BackupOptions{}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.tar")
	try := func(what string, raw []byte) {
		t.Helper()
		if err := os.WriteFile(bad, raw, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Check(t.Context(), bad, nil); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("%s: %v", what, err)
		}
		to := newRig(t)
		if _, err := to.Restore(t.Context(), bad, false); err == nil {
			t.Errorf("%s was restored", what)
		}
		if users, err := to.volumes.Users(); err != nil || len(users) != 0 {
			t.Errorf("%s left users", what)
		}
	}
	i := bytes.Index(raw, []byte("<html>0"))
	try("a changed file", append(append(slices.Clone(raw[:i]), "<evil>0"...), raw[i+7:]...))
	try("a truncated file", raw[:len(raw)/2])
	try("no manifest", raw[:bytes.LastIndex(raw, []byte("MANIFEST"))/512*512])
	try("an empty file", nil)
	if _, err := Check(t.Context(), name, nil); err != nil {
		t.Error(err)
	}
}
