package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// jobsEnv sets the number of jobs of TestManyJobsOfOneUserStayWithinTheirBounds.
const jobsEnv = "DREAMCORE_TEST_MANY_JOBS"

// One user runs many jobs that change large files and print much: the versions and
// the event logs stay within their bounds, every version that is left is sound, and
// a service that starts again shows the last game.
func TestManyJobsOfOneUserStayWithinTheirBounds(t *testing.T) {
	const historyMiB, jobsMiB = 24, 16
	jobs := 40
	if n, err := strconv.Atoi(os.Getenv(jobsEnv)); err == nil {
		jobs = n
	}
	a := &arena{t: t, h: newHost(t)}
	a.install("./testdata/attacker")
	if r := a.h.runIn("sk-ant-"+random(), "secret", "create", "--force", "anthropic-api-key", "ANTHROPIC_API_KEY=-"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	a.h.env = append(a.h.env, fmt.Sprintf("DREAMCORE_HISTORY_MIB=%d", historyMiB), fmt.Sprintf("DREAMCORE_JOBS_MIB=%d", jobsMiB), "DREAMCORE_LOG_LEVEL=warn")
	a.s = a.h.serve()
	var starts []time.Duration
	for n := range jobs {
		begun := time.Now()
		stream, err := a.generate(t.Context(), alice, project, fmt.Sprintf("echo '<h1>game %d</h1>' >index.html; head -c 1000000 /dev/urandom >level.bin; head -c 300000 /dev/urandom | base64", n))
		if err != nil || !strings.Contains(string(stream), `"type":"done"`) {
			t.Fatalf("job %d: %v\n%.2000s\n%s", n, err, stream, a.s.log)
		}
		starts = append(starts, time.Since(begun))
		if n%20 == 19 || n == jobs-1 {
			// Logs and versions are pruned in steps: one job's worth may come on top.
			a.checkSize("history", historyMiB+4)
			a.checkSize("jobs", jobsMiB+4)
		}
	}
	tenth := max(1, jobs/10)
	first, last := slices.Clone(starts[:tenth]), slices.Clone(starts[jobs-tenth:])
	slices.Sort(first)
	slices.Sort(last)
	t.Logf("%d jobs: the first tenth took %s, the last %s; history %d MiB, jobs %d MiB", jobs, spread(first), spread(last), a.size("history")>>20, a.size("jobs")>>20)
	a.checkVersions(jobs)
	a.s.stop()
	begun := time.Now()
	a.s = a.h.serve()
	t.Logf("the service started again within %s", time.Since(begun).Round(time.Millisecond))
	if got := a.s.file(alice, project, "index.html"); !strings.Contains(got, fmt.Sprintf("game %d<", jobs-1)) {
		t.Errorf("the game after the restart: %q", got)
	}
}

// size returns the bytes of the files in a directory of the state directory.
func (a *arena) size(name string) (bytes int64) {
	a.t.Helper()
	err := filepath.WalkDir(filepath.Join(a.h.state, name), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // a file that was pruned meanwhile
		}
		if info, err := d.Info(); err == nil {
			bytes += info.Size()
		}
		return nil
	})
	if err != nil {
		a.t.Error(err)
	}
	return bytes
}

func (a *arena) checkSize(name string, mib int64) {
	a.t.Helper()
	if got := a.size(name); got > mib<<20 {
		a.t.Errorf("%s takes %d MiB, more than %d", name, got>>20, mib)
	}
}

// checkVersions reads every version that is left with git.
func (a *arena) checkVersions(made int) {
	a.t.Helper()
	dir := filepath.Join(a.h.state, "history", alice, project+".git")
	git := func(args ...string) string {
		out, err := exec.Command("git", append([]string{"--git-dir=" + dir}, args...)...).CombinedOutput()
		if err != nil {
			a.t.Errorf("git %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	git("fsck", "--full", "--strict")
	left := strings.Fields(git("rev-list", "--all"))
	if len(left) < 5 || len(left) >= made {
		a.t.Errorf("%d of %d versions are left", len(left), made)
	}
	for _, hash := range left {
		if tree := git("ls-tree", "-r", "--name-only", hash); !strings.Contains(tree, "level.bin") {
			a.t.Errorf("version %s has the files %q", hash, tree)
		}
	}
}
