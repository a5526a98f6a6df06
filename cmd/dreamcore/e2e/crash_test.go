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

// crashScript makes what a checkpoint has work with: 30 files of one generation
// each time. Every one names it, so that a mixture shows.
const crashScript = `{"conversations":[
	[{"tools":[{"name":"Bash","input":{"command":"n=$(date +%s%N); for i in $(seq 30); do echo $n >f$i.txt; done","description":"make"}}]},{"text":"done"}]
]}`

// crashKinds are what runs when the service is killed.
var crashKinds = []string{"generate", "apply", "restore"}

// TestAKilledServiceTearsNothing kills the service at random moments of a
// generation, a change and a restore, as many times each as
// DREAMCORE_TEST_CRASHES says. Afterwards every project can be read, no change
// is half there, every version is whole, and nothing is left of the attempt.
func TestAKilledServiceTearsNothing(t *testing.T) {
	rounds := 5
	if n, err := strconv.Atoi(os.Getenv("DREAMCORE_TEST_CRASHES")); err == nil {
		rounds = n
	}
	h := newHost(t)
	script := writeScript(t, crashScript)
	s := h.serve("--model-script", script)
	c := &crasher{t: t, h: h}
	if !c.apply(s, 0) {
		t.Fatal(s.log)
	}
	first := c.head()
	met := map[string]int{}
	for i := range rounds * len(crashKinds) {
		kind := crashKinds[i%len(crashKinds)]
		var busy atomic.Bool // a request has begun and not ended
		var all sync.WaitGroup
		all.Go(func() {
			for n := 1; ; n++ {
				busy.Store(true)
				var ok bool
				switch kind {
				case "generate":
					ok = c.request(s, "/generate_game", wish(alice, project, "go on"))
				case "apply":
					ok = c.apply(s, i*1000+n)
				case "restore":
					ok = c.apply(s, i*1000+n) && c.request(s, "/apply_files", c.body(`"action":"git_restore","commit":"`+first+`"`))
				}
				if !ok {
					return
				}
				busy.Store(false)
			}
		})
		time.Sleep(rand.N(map[string]time.Duration{"generate": 4 * time.Second, "apply": 600 * time.Millisecond, "restore": 900 * time.Millisecond}[kind]))
		if busy.Load() {
			met[kind]++
		}
		s.kill()
		all.Wait()
		s = h.serve("--model-script", script)
		c.check(s, fmt.Sprintf("round %d, %s", i, kind))
		if t.Failed() {
			break
		}
	}
	t.Logf("%d kills each; in the middle of a request: %v; versions: %s", rounds, met, gitHistory(t, h, "rev-list", "--count", "main"))
}

// crasher sends requests to a service that may die meanwhile.
type crasher struct {
	t *testing.T
	h *host
}

func (c *crasher) body(members string) string {
	return fmt.Sprintf(`{"user_id":%q,"project_id":%q,%s}`, alice, project, members)
}

// apply writes one number into 40 files, of which a restore puts back half.
func (c *crasher) apply(s *service, n int) bool {
	var files []string
	for i := range 20 {
		files = append(files, fmt.Sprintf(`{"path":"code/c%d.js","content":"%d"},{"path":"text/t%d.txt","content":"%d"}`, i, n, i, n))
	}
	return c.request(s, "/apply_files", c.body(`"files":[`+strings.Join(files, ",")+`]`))
}

// request tells whether the answer came to its end.
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

func (c *crasher) head() string {
	c.t.Helper()
	return gitHistory(c.t, c.h, "rev-parse", "main")[:7]
}

// check reads everything that a crash could have torn.
func (c *crasher) check(s *service, round string) {
	c.t.Helper()
	one := func(dir, ext string) {
		seen := map[string]int{}
		for i := range 20 {
			seen[s.file(alice, project, fmt.Sprintf("%s/%s%d.%s", dir, dir[:1], i, ext))]++
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
	gitHistory(c.t, c.h, "fsck", "--full", "--strict")
	// Every version holds one change whole.
	for _, version := range strings.Fields(gitHistory(c.t, c.h, "rev-list", "-5", "main")) {
		for _, dir := range []string{"code", "text"} {
			blobs := map[string]bool{}
			for line := range strings.Lines(gitHistory(c.t, c.h, "ls-tree", version+":"+dir)) {
				blobs[strings.Fields(line)[2]] = true
			}
			if len(blobs) != 1 {
				c.t.Errorf("%s: version %s mixes %d changes in %s", round, version, len(blobs), dir)
			}
		}
	}
	// The next change leaves nothing of the one that was cut off.
	if !c.apply(s, rand.N(1_000_000)) {
		c.t.Errorf("%s: no change can be made any more\n%s", round, s.log)
	}
	mount := filepath.Join(c.h.state, "volumes", "dreamcore-data", "users", alice)
	if left, err := os.ReadDir(filepath.Join(mount, "staging")); err != nil || len(left) > 0 {
		c.t.Errorf("%s: left of changes: %v %v", round, left, err)
	}
	git := filepath.Join(c.h.state, "history", alice, project+".git")
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
	if err == nil && bytes.Count(out, []byte(c.h.state)) > 1 {
		c.t.Errorf("%s: loop devices: %s", round, out)
	}
	if !json.Valid(out) && len(out) > 0 {
		c.t.Errorf("losetup: %s", out)
	}
}
