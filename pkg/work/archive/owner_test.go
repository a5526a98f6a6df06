package archive

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

// trap is the configuration of a repository that runs a command when git reads the
// state of the repository.
const trap = "[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tworktree = .\n\tfsmonitor = \"touch OWNED; false\"\n"

// repository returns the files of a repository in dir.
func repository(dir, mark string) map[string]string {
	return map[string]string{
		dir + "/HEAD": "ref: refs/heads/main\n", dir + "/objects/x": "", dir + "/refs/x": "",
		dir + "/config": strings.ReplaceAll(trap, "OWNED", mark),
	}
}

// trapped makes a project that contains such repositories under several names.
func trapped(t *testing.T, r *rig) (mark string) {
	t.Helper()
	mark = filepath.Join(t.TempDir(), "owned")
	dir := r.path(projectPath(alice, 1))
	write(t, dir, map[string]string{"index.html": "x", "lib/a.js": "x", "run.sh": "x"})
	for _, at := range []string{"lib/.git", "deep/er/.GIT", "mac/.g\u200cit", "dos/git~1", "bare", "lib/.Git "} {
		write(t, dir, repository(at, mark))
	}
	write(t, dir, map[string]string{"sub/.git": "gitdir: ../bare\n"})
	for name, mode := range map[string]fs.FileMode{"run.sh": 0o777 | fs.ModeSetuid | fs.ModeSetgid, "lib": 0o777 | fs.ModeSticky, "lib/a.js": 0o666} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	return mark
}

func TestAnExportContainsNoRepositoryOfTheGame(t *testing.T) {
	git, err := exec.LookPath("git")
	sandboxtest.Need(t, err == nil, "git")
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to give files away")
	r := newRig(t)
	r.opts.Owner = &Owner{UID: 4321, GID: 8765}
	mark := trapped(t, r)
	// The attack works on the project itself; otherwise the test proves nothing.
	askGit(git, filepath.Join(r.path(projectPath(alice, 1)), "lib"))
	if _, err := os.Stat(mark); err != nil {
		t.Fatalf("git does not run the command: %v", err)
	}
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}

	dest := filepath.Join(t.TempDir(), "out")
	report, err := r.Export(t.Context(), Scope{}, dest, false)
	if err != nil || len(report.Projects) != 1 || len(report.Projects[0].Notes) < 6 {
		t.Fatalf("%+v, %v", report, err)
	}
	err = filepath.WalkDir(dest, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != 4321 || st.Gid != 8765 {
			t.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
		}
		if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 || info.Mode().Perm()&0o022 != 0 {
			t.Errorf("%s has the mode %v", path, info.Mode())
		}
		if d.IsDir() {
			askGit(git, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("git ran a command of the project")
	}
	for _, name := range []string{"index.html", "lib/a.js", "run.sh"} {
		if _, err := os.Stat(filepath.Join(dest, projectPath(alice, 1), name)); err != nil {
			t.Errorf("%s is missing: %v", name, err)
		}
	}
}

// askGit runs git status in a directory, as its owner would.
func askGit(git, dir string) {
	cmd := exec.Command(git, "-c", "safe.directory=*", "status")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*", "GIT_CEILING_DIRECTORIES="+filepath.Dir(filepath.Dir(dir)))
	_ = cmd.Run() // fails without a repository
}

func TestATarContainsNoRepositoryOfTheGame(t *testing.T) {
	r := newRig(t)
	r.opts.Owner = &Owner{UID: os.Geteuid(), GID: os.Getegid()}
	trapped(t, r)
	dest := filepath.Join(t.TempDir(), "out.tar")
	if _, err := r.Export(t.Context(), Scope{}, dest, false); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := 0
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		found++
		name := strings.TrimSuffix(strings.TrimPrefix(h.Name, projectPath(alice, 1)+"/"), "/")
		if _, out := project.LeftOut(name); out && name != ".git" && !strings.HasPrefix(name, ".git/") {
			t.Errorf("the tar contains %s", h.Name)
		}
		if h.Mode&0o7022 != 0 || h.Uid != os.Geteuid() || h.Gid != os.Getegid() {
			t.Errorf("%s: mode %o, owner %d:%d", h.Name, h.Mode, h.Uid, h.Gid)
		}
	}
	if found < 4 {
		t.Errorf("%d entries", found)
	}
}
