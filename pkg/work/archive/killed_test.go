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

// killed runs work in a process of its own and kills it after a while, unless
// it has ended.
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
		t.Fatalf("it does not begin: %v %s", err, &said)
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

// wantWhole checks that each project is there whole or not at all.
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
			t.Errorf("half a project: %v", entries)
		}
		if _, err := os.Stat(filepath.Join(r.state, "history", user, projectID(i)+".git", "refs/heads/main")); err == nil {
			r.wantSound(t, user, i, "")
		}
	}
	return there
}

const rounds, inRound = 20, 4

func TestAKilledImportGoesOn(t *testing.T) {
	old, heads := oldTree(t, inRound)
	killsThatMet := 0
	for range rounds {
		r := newRig(t)
		ended := killed(t, "import", r.state, old, 700*time.Millisecond)
		there := r.wantWhole(t, old, inRound)
		if !ended && there < inRound {
			killsThatMet++
		}
		report, err := r.Import(t.Context(), old, ImportOptions{})
		if err != nil || report.Failures() != 0 || r.wantWhole(t, old, inRound) != inRound {
			t.Fatalf("%+v %v", report, err)
		}
		r.wantSound(t, alice, 0, heads[0])
	}
	if killsThatMet < 3 {
		t.Errorf("only %d kills met an import", killsThatMet)
	}
	t.Logf("%d of %d kills met an import", killsThatMet, rounds)
}

func TestAKilledBackupOrRestoreLeavesNothingHalf(t *testing.T) {
	old, _ := oldTree(t, inRound)
	from := newRig(t)
	if _, err := from.Import(t.Context(), old, ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "b.tar.zst")
	met := 0
	for range rounds {
		ended := killed(t, "backup", from.state, name, 500*time.Millisecond)
		if _, err := os.Stat(name); err == nil {
			if _, err := Check(t.Context(), name); err != nil {
				t.Fatalf("half a backup: %v", err)
			}
		}
		if !ended {
			met++
		}
	}
	if _, err := from.Backup(t.Context(), name, BackupOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(name), ".*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	t.Logf("%d of %d kills met a backup", met, rounds)
	met = 0
	for range rounds {
		to := newRig(t)
		ended := killed(t, "restore", to.state, name, 700*time.Millisecond)
		there := to.wantWhole(t, old, inRound)
		if !ended && there < inRound {
			met++
		}
		report, err := to.Restore(t.Context(), name, false)
		if err != nil || report.Failures() != 0 || to.wantWhole(t, old, inRound) != inRound {
			t.Fatalf("%+v %v", report, err)
		}
	}
	if met < 3 {
		t.Errorf("only %d kills met a restore", met)
	}
	t.Logf("%d of %d kills met a restore", met, rounds)
}
