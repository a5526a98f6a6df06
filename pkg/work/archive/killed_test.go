package archive

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// lasts returns how long work takes in another process.
func lasts(t *testing.T, work, state, file string) time.Duration {
	t.Helper()
	began := time.Now()
	if !killed(t, work, state, file, 10000*time.Hour) {
		t.Fatal("it was killed")
	}
	return time.Since(began)
}

// killed runs work in another process and kills it at a random time of up to
// most, unless it ends before that.
func killed(t *testing.T, work, state, file string, most time.Duration) (ended bool) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "ARCHIVE_TEST_WORK="+work, "ARCHIVE_TEST_STATE="+state, "ARCHIVE_TEST_FILE="+file)
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the process does not start: %v %s", err, &said)
	}
	timer := time.AfterFunc(time.Duration(rand.Int64N(int64(most))), func() { _ = c.Process.Kill() })
	defer timer.Stop()
	_, _ = io.Copy(io.Discard, out)
	err = c.Wait()
	if err != nil && said.Len() > 0 {
		t.Fatalf("%s: %v %s", work, err, &said)
	}
	return err == nil
}

// wantWhole checks that each project is complete or does not exist, and returns
// the number of complete projects.
func (r *rig) wantWhole(t *testing.T, old string, n int) (there int) {
	t.Helper()
	for i := range n {
		user := alice
		if i == 1 {
			user = bob
		}
		p := r.path(projectPath(user, i))
		if _, err := os.Stat(filepath.Join(p, "index.html")); err == nil {
			there++
			wantSame(t, p, filepath.Join(old, projectPath(user, i)))
		} else if entries, err := os.ReadDir(p); err == nil && len(entries) > 0 {
			t.Errorf("an incomplete project: %v", entries)
		}
		if _, err := os.Stat(filepath.Join(r.state, "history", user, projectID(i)+".git", "refs/heads/main")); err == nil {
			r.wantSound(t, user, i, "")
		}
	}
	return there
}

const rounds, inRound = 20, 4

// enough reports whether a test of kills may end after n of them. On a busy machine
// most kills come before the program works, or after it: then there are more.
func enough(n, interrupted int) bool {
	return n >= rounds && interrupted >= 3 || n >= 10*rounds
}

func TestAKilledImportCanBeContinued(t *testing.T) {
	old, heads := oldTree(t, inRound)
	most := lasts(t, "import", newRig(t).state, old)
	interrupted := 0
	for n := 0; !enough(n, interrupted); n++ {
		r := newRig(t)
		ended := killed(t, "import", r.state, old, most)
		there := r.wantWhole(t, old, inRound)
		if !ended && there < inRound {
			interrupted++
		}
		report, err := r.Import(t.Context(), old, ImportOptions{})
		if err != nil || report.Failures() != 0 || r.wantWhole(t, old, inRound) != inRound {
			t.Fatalf("%+v %v", report, err)
		}
		r.wantSound(t, alice, 0, heads[0])
	}
	if interrupted < 3 {
		t.Errorf("only %d kills interrupted an import", interrupted)
	}
	t.Logf("%d kills interrupted an import", interrupted)
}

func TestAKilledBackupOrRestoreLeavesNothingIncomplete(t *testing.T) {
	old, _ := oldTree(t, inRound)
	from := newRig(t)
	if _, err := from.Import(t.Context(), old, ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "b.tar.zst")
	most := lasts(t, "backup", from.state, name)
	interrupted := 0
	for range rounds {
		ended := killed(t, "backup", from.state, name, most)
		if _, err := os.Stat(name); err == nil {
			if _, err := Check(t.Context(), name, nil); err != nil {
				t.Fatalf("an incomplete backup: %v", err)
			}
		}
		if !ended {
			interrupted++
		}
	}
	if _, err := from.Backup(t.Context(), name, BackupOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(name), ".*")); len(left) != 0 {
		t.Errorf("residue: %v", left)
	}
	t.Logf("%d of %d kills interrupted a backup", interrupted, rounds)
	most = lasts(t, "restore", newRig(t).state, name)
	interrupted = 0
	for n := 0; !enough(n, interrupted); n++ {
		to := newRig(t)
		ended := killed(t, "restore", to.state, name, most)
		there := to.wantWhole(t, old, inRound)
		if !ended && there < inRound {
			interrupted++
		}
		report, err := to.Restore(t.Context(), name, false)
		if err != nil || report.Failures() != 0 || to.wantWhole(t, old, inRound) != inRound {
			t.Fatalf("%+v %v", report, err)
		}
	}
	if interrupted < 3 {
		t.Errorf("only %d kills interrupted a restore", interrupted)
	}
	t.Logf("%d kills interrupted a restore", interrupted)
}
