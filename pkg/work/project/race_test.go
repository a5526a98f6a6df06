package project

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// writer swaps files, directories, links and FIFOs as fast as the kernel of a
// sandbox allows, all at paths that the host reads. It is written in Perl, which
// every Debian has and which needs no new process for each step. The host
// replaces the directory of the project now and then, so each process of the
// writer enters it again in every round and makes the files that are missing. It
// prints a dot after each round.
const writer = `use strict; use POSIX qw(mkfifo);
my ($top, $outside) = @ARGV;
$| = 1;
sub put { my ($name, $text) = @_; open(my $f, ">", $name) or return; print $f $text; close $f }
sub racing { my ($work) = @_; return if fork; while (1) { chdir "/"; chdir $top or next; $work->(); print "." } }
sub swap {
	my ($name, $isdir, @targets) = @_;
	racing(sub {
		(my $dir = $name) =~ s{/?[^/]*$}{};
		mkdir $dir if $dir;
		if ($isdir) { mkdir $name; put("$name/canary.txt", "fine") } else { put($name, "fine") }
		for (1 .. 50) {
			rename $name, "$name-aside";
			for my $t (@targets, "loop", "/proc/self/cwd") { symlink $t, $name; unlink $name }
			mkfifo($name, 0644); unlink $name; mkdir $name; rmdir $name;
			rename "$name-aside", $name;
		}
		unlink "$name-aside";
	});
}
swap("d", 1, $outside, "real", "../..");
swap("d/e", 1, $outside, "..");
swap("canary.txt", 0, "$outside/canary.txt", "../canary.txt");
swap("real/canary.txt", 0, "../../../canary.txt", "../growing");
swap("game", 1, "../..", $outside);
racing(sub { put("growing", "g" x 300000); put("growing", ""); link "growing", "hard"; unlink "hard" });
racing(sub { mkdir ".git"; put(".git/config", "[core]\n\tfsmonitor = touch /pwned\n"); unlink ".git/config"; rmdir ".git"; symlink $outside, ".git"; unlink ".git" });
racing(sub { my $p = "deep"; for (1 .. 100) { mkdir $p; $p .= "/x" } rename "deep/x/x/x", "deeper"; rename "deeper", "deep/x/x/x"; system("rm", "-rf", "deep") if rand() < 0.1 });
chdir $top; put("new\nline", "x"); chmod 0, "new\nline";
print "ready";
1 while wait() > 0`

// raceTime returns how long the host works against the concurrent writer: the
// value of DREAMCORE_TEST_RACE, such as 60s, or 8 s.
func raceTime(t *testing.T) time.Duration {
	if v := os.Getenv("DREAMCORE_TEST_RACE"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	return 8 * time.Second
}

// TestAConcurrentWriterCausesNoLeakOrHang lists, reads, copies, commits, changes
// and restores a project while a real sandbox changes it. Files outside of the
// project never show, nothing hangs, and the history stays intact.
func TestAConcurrentWriterCausesNoLeakOrHang(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root")
	_, err := exec.LookPath("git")
	sandboxtest.Need(t, err == nil, "git")
	const uid = 12345
	exe, state := sandboxtest.Binary(t), t.TempDir()
	token := "canary-" + string(dreamcore.NewUserID())
	volumes := must(volume.Open(filepath.Join(state, "volumes"), volume.Options{UID: uid, GID: uid}))(t)
	defer volumes.Close()
	must(volumes.Create(volume.Data))(t)
	versions := must(history.Open(filepath.Join(state, "history"), history.Options{}))(t)
	editor := New(volumes, versions)
	user, project := dreamcore.NewUserID(), dreamcore.NewProjectID()
	u := must(volumes.User(t.Context(), user))(t)
	defer u.Close()
	p := must(volumes.Project(user, project))(t)
	p.Close()
	// A path that is the same for both sides, so that a link that is followed on
	// the host leads there.
	outside := t.TempDir()
	for _, dir := range []string{outside, state, filepath.Dir(u.ProjectsPath()), u.ProjectsPath()} {
		if err := os.WriteFile(filepath.Join(dir, "canary.txt"), []byte(token), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stop := startWriter(t, exe, state, uid, u, user, project, outside)
	defer stop()

	began := time.Now()
	counts := hammer(t, volumes, editor, versions, user, project, token, raceTime(t))
	if took := time.Since(began); took > raceTime(t)+30*time.Second {
		t.Errorf("the host hung for %v", took)
	}
	stop()
	t.Logf("in %v: %v", raceTime(t), counts)
	for _, what := range []string{"list", "read", "commit", "apply", "copy"} {
		if counts[what] == 0 {
			t.Errorf("the host never succeeded in: %s", what)
		}
	}
	for _, dir := range []string{outside, state} {
		if raw, err := os.ReadFile(filepath.Join(dir, "canary.txt")); err != nil || string(raw) != token {
			t.Errorf("a canary was changed: %q %v", raw, err)
		}
	}
	// The writer may have prevented the removal of an old state. The next change
	// removes it, even if the change itself fails.
	if _, err := editor.Apply(t.Context(), user, project, []Change{{Path: "last.js", Write: Text("x")}}, "Last change"); err != nil {
		t.Logf("the last change: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(u.ProjectsPath(), "..", "staging")); err != nil || len(left) > 0 {
		t.Errorf("residue: %v %v", left, err)
	}
	git := filepath.Join(state, "history", string(user), string(project)+".git")
	if out, err := exec.Command("git", "--git-dir", git, "fsck", "--full", "--strict").CombinedOutput(); err != nil {
		t.Errorf("git fsck: %v\n%s", err, out)
	}
	all, err := exec.Command("git", "--git-dir", git, "cat-file", "--batch-all-objects", "--batch", "--buffer").Output()
	if err != nil || bytes.Contains(all, []byte(token)) {
		t.Errorf("the history contains a canary, or cannot be read: %v", err)
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func startWriter(t *testing.T, exe, state string, uid uint32, u *volume.User, user dreamcore.UserID, project dreamcore.ProjectID, outside string) (stop func()) {
	t.Helper()
	root := must(rootfs.Host(filepath.Join(state, "rootfs"), uid, uid))(t)
	ctx := context.WithoutCancel(t.Context())
	provider := must(gvisor.New(ctx, gvisor.Config{Exe: exe, Dir: filepath.Join(state, "run")}))(t)
	projects := "/data/users/" + string(user) + "/projects"
	sb := must(provider.Create(ctx, sandbox.Spec{Root: root, Mounts: []sandbox.Mount{{Source: u.ProjectsPath(), Target: projects, Writable: true}}}))(t)
	r, w := io.Pipe()
	proc := must(sb.Start(ctx, sandbox.Command{
		Args: []string{"/usr/bin/perl", "-e", writer, projects + "/" + string(project), outside}, Env: []string{"PATH=/usr/bin:/bin"},
		UID: uid, GID: uid, Stdout: w,
	}))(t)
	ready := make([]byte, 1)
	if _, err := io.ReadFull(r, ready); err != nil {
		t.Fatal(err)
	}
	drained := make(chan int64)
	go func() {
		n, _ := io.Copy(io.Discard, r)
		drained <- n
	}()
	stopped := false
	return func() {
		if stopped {
			return
		}
		stopped = true
		if err := sb.Close(ctx); err != nil {
			t.Error(err)
		}
		_, _ = proc.Wait()
		w.Close()
		if n := <-drained; n < 100 {
			t.Errorf("the writer made only %d rounds", n)
		} else {
			t.Logf("the writer made %d rounds", n)
		}
		if err := provider.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}

// hammer does everything that the service does with a project, repeatedly.
func hammer(t *testing.T, volumes *volume.Store, editor *Editor, versions *history.Store, user dreamcore.UserID, project dreamcore.ProjectID, token string, duration time.Duration) map[string]int {
	ctx, cancel := context.WithTimeout(t.Context(), duration+20*time.Second)
	defer cancel()
	counts, failures := map[string]int{}, map[string]int{}
	note := func(what string, err error) {
		if err == nil {
			counts[what]++
			return
		}
		failures[what]++
		// The writer may cause errors, but no fault of the host and no wait.
		switch code := dreamcore.CodeOf(err); {
		case ctx.Err() != nil:
			t.Errorf("%s hangs: %v", what, err)
		case code == dreamcore.CodeInternal || code == dreamcore.CodeSetup:
			t.Errorf("%s: %v", what, err)
		}
	}
	leak := func(what, text string) {
		if strings.Contains(text, token) {
			t.Errorf("%s shows a canary", what)
		}
	}
	for i, end := 0, time.Now().Add(duration); time.Now().Before(end) && !t.Failed(); i++ {
		p, err := volumes.Find(user, project)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"canary.txt", "d/canary.txt", "d/e/canary.txt", "real/canary.txt", "growing", "game/canary.txt", "game/users/canary.txt", "hard"} {
			f, info, err := p.Open(name)
			note("read", err)
			if err == nil {
				raw, err := io.ReadAll(io.NewSectionReader(f, 0, info.Size()))
				if err == nil {
					leak("read "+name, string(raw))
				}
				f.Close()
			}
		}
		for f, err := range p.Files(ctx) {
			note("list", err)
			leak("list", f.Path)
		}
		if i%5 == 0 {
			dest := filepath.Join(t.TempDir(), strconv.Itoa(i))
			_, err := CopyOut(ctx, p, dest, false)
			note("copy", err)
			out, _ := exec.Command("grep", "-rl", token, dest).Output()
			if len(out) > 0 {
				t.Errorf("CopyOut copied a canary: %s", out)
			}
		}
		_, _, err = versions.Commit(ctx, user, project, p.Root(), "moving", time.Now())
		note("commit", err)
		p.Close()
		unlock, err := editor.Lock(ctx, user, project)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"index.html", "game/index.js", "d/e/canary.txt", "canary.txt"} {
			_, err = editor.Apply(ctx, user, project, []Change{{Path: path, Write: Text(fmt.Sprint("applied ", i))}}, "applied")
			note("apply", err)
		}
		unlock()
		log, _, err := editor.Log(ctx, user, project, 3)
		note("log", err)
		if err == nil && len(log) > 0 {
			diff, err := editor.Diff(ctx, user, project, log[0].Hash)
			note("diff", err)
			leak("diff", diff)
			_, err = editor.Restore(ctx, user, project, log[len(log)-1].Hash)
			note("restore", err)
		}
	}
	for what, n := range failures {
		counts["no "+what] = n
	}
	return counts
}
