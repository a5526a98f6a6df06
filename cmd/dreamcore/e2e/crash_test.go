package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// crashScript writes 30 files for each generation. Each file names the generation,
// so a mix is visible.
const crashScript = `{"conversations":[
	[{"tools":[{"name":"Bash","input":{"command":"n=$(date +%s%N); for i in $(seq 30); do echo $n >f$i.txt; done","description":"make"}}]},{"text":"done"}]
]}`

// crashers are the requests that run when the service is killed; each kill hits all
// of them.
var crashers = []struct{ kind, user string }{
	{"generate", alice}, {"apply", bob}, {"restore", "ca501000-0000-4000-8000-000000000003"},
}

// TestAKilledServiceTearsNothing kills the service at random moments of a
// generation, a change and a restore, DREAMCORE_TEST_CRASHES times. Afterwards
// every project can be read, no change is partial, every version is complete, and
// nothing remains of the attempt.
func TestAKilledServiceTearsNothing(t *testing.T) {
	rounds := 5
	if n, err := strconv.Atoi(os.Getenv("DREAMCORE_TEST_CRASHES")); err == nil {
		rounds = n
	}
	h := newHost(t).oneAttempt()
	script := writeScript(t, crashScript)
	s := h.serve("--model-script", script)
	var all []*crasher
	for _, who := range crashers {
		c := &crasher{t: t, h: h, kind: who.kind, user: who.user}
		if !c.apply(s) {
			t.Fatal(s.log)
		}
		c.first = gitHistory(t, h, c.user, "rev-parse", "main")[:7]
		all = append(all, c)
	}
	met := map[string]int{}
	for i := range rounds {
		var running sync.WaitGroup
		for _, c := range all {
			running.Go(func() { c.work(s) })
		}
		time.Sleep(rand.N(4 * time.Second))
		for _, c := range all {
			if c.busy.Load() {
				met[c.kind]++
			}
		}
		s.kill()
		running.Wait()
		s = h.serve("--model-script", script)
		for _, c := range all {
			c.check(s, fmt.Sprintf("round %d, %s", i, c.kind))
		}
		if t.Failed() {
			break
		}
	}
	t.Logf("%d kills, of which met a request in the middle: %v", rounds, met)
}

// crasher sends requests to a service that is killed meanwhile.
type crasher struct {
	t          *testing.T
	h          *host
	kind, user string
	first      string      // a version to go back to
	busy       atomic.Bool // a request has begun and not ended
}

// work sends requests until one is interrupted.
func (c *crasher) work(s *service) {
	for {
		c.busy.Store(true)
		var ok bool
		switch c.kind {
		case "generate":
			ok = c.request(s, "/generate_game", generateBody(c.user, project, "go on"))
		case "apply":
			ok = c.apply(s)
		case "restore":
			ok = c.apply(s) && c.request(s, "/apply_files", c.body(`"action":"git_restore","commit":"`+c.first+`"`))
		}
		if !ok {
			return
		}
		c.busy.Store(false)
	}
}

func (c *crasher) body(members string) string {
	return fmt.Sprintf(`{"user_id":%q,"project_id":%q,%s}`, c.user, project, members)
}

// apply writes one number to 40 files, half of which a restore resets.
func (c *crasher) apply(s *service) bool {
	n := rand.Int()
	var files []string
	for i := range 20 {
		files = append(files, fmt.Sprintf(`{"path":"code/c%d.js","content":"%d"},{"path":"text/t%d.txt","content":"%d"}`, i, n, i, n))
	}
	return c.request(s, "/apply_files", c.body(`"files":[`+strings.Join(files, ",")+`]`))
}

// request reports whether the answer was complete.
func (c *crasher) request(s *service, path, body string) bool {
	req, err := http.NewRequest(http.MethodPost, s.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Error(err)
		return false
	}
	req.Header.Set("X-Modal-Secret", s.secret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK && (bytes.Contains(raw, []byte(`"done"`)) || bytes.Contains(raw, []byte(`"success":true`)))
}

// check reads everything that a crash could have damaged.
func (c *crasher) check(s *service, round string) {
	c.t.Helper()
	one := func(dir, ext string) {
		seen := map[string]int{}
		for i := range 20 {
			seen[s.file(c.user, project, fmt.Sprintf("%s/%s%d.%s", dir, dir[:1], i, ext))]++
		}
		if len(seen) != 1 {
			c.t.Errorf("%s: half of a change shows in %s: %v", round, dir, seen)
		}
	}
	one("code", "js")
	one("text", "txt")
	status, o := s.object("/apply_files", c.body(`"action":"git_log"`))
	if commits, _ := o["commits"].([]any); status != http.StatusOK || len(commits) == 0 {
		c.t.Errorf("%s: the log: %d %v", round, status, o)
	}
	gitHistory(c.t, c.h, c.user, "fsck", "--full", "--strict")
	// Every version holds exactly one complete change.
	for _, version := range strings.Fields(gitHistory(c.t, c.h, c.user, "rev-list", "-5", "main")) {
		for _, dir := range []string{"code", "text"} {
			blobs := map[string]bool{}
			for line := range strings.Lines(gitHistory(c.t, c.h, c.user, "ls-tree", version+":"+dir)) {
				blobs[strings.Fields(line)[2]] = true
			}
			if len(blobs) != 1 {
				c.t.Errorf("%s: version %s mixes %d changes in %s", round, version, len(blobs), dir)
			}
		}
	}
	// The next change removes the rest of the interrupted one.
	if !c.apply(s) {
		c.t.Errorf("%s: no change can be made any more\n%s", round, s.log)
	}
	mount := filepath.Join(c.h.state, "volumes", "dreamcore-data", "users", c.user)
	if left, err := os.ReadDir(filepath.Join(mount, "staging")); err != nil || len(left) > 0 {
		c.t.Errorf("%s: left of changes: %v %v", round, left, err)
	}
	git := filepath.Join(c.h.state, "history", c.user, project+".git")
	if left, _ := filepath.Glob(filepath.Join(git, "tmp_*")); len(left) > 0 {
		c.t.Errorf("%s: left: %v", round, left)
	}
	if left, _ := filepath.Glob(filepath.Join(git, "objects", "tmp_*")); len(left) > 0 {
		c.t.Errorf("%s: left: %v", round, left)
	}
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if n := strings.Count(string(raw), " "+mount+" "); err != nil || n != 1 {
		c.t.Errorf("%s: mounted %d times, %v", round, n, err)
	}
	out, err := exec.Command("losetup", "--json", "--list", "--output", "BACK-FILE").Output()
	if err == nil && bytes.Count(out, []byte(filepath.Join(filepath.Dir(filepath.Dir(mount)), ".disks", c.user+".ext4"))) > 1 {
		c.t.Errorf("%s: loop devices: %s", round, out)
	}
	if !json.Valid(out) && len(out) > 0 {
		c.t.Errorf("losetup: %s", out)
	}
}
