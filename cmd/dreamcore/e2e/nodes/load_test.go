//go:build cluster

package nodes

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// job is a game that is made, with the stream of its events.
type job struct {
	c    *cluster
	user string
	id   string
	cell int

	mu      sync.Mutex
	seen    uint64    // the id of the last event
	cut     time.Time // when the stream ended without a terminal event
	resumed []time.Duration
	last    map[string]any
	err     error
}

// startJob begins a game of a new user of a cell, and follows it in the background to its
// terminal event, again after each cut.
func (c *cluster) startJob(i int, following *sync.WaitGroup) *job {
	j := &job{c: c, user: user(i), cell: i}
	following.Go(func() {
		if err := j.follow(); err != nil {
			j.mu.Lock()
			j.err = err
			j.mu.Unlock()
		}
	})
	return j
}

func (j *job) follow() error {
	body := fmt.Sprintf(`{"user_id":%q,"project_id":%q,"prompt":"a game"}`, j.user, project)
	for end := time.Now().Add(8 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		method, path, sent := http.MethodPost, "/generate_game", body
		if j.id != "" {
			method, path, sent = http.MethodGet, "/jobs/"+j.id+"/events", ""
		}
		resp, err := j.c.send(method, path, sent, j.seen)
		if err != nil {
			if j.id == "" {
				return err
			}
			continue // a router is gone
		}
		if resp.StatusCode != http.StatusOK {
			raw, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if j.id == "" || resp.StatusCode != http.StatusServiceUnavailable {
				return fmt.Errorf("job %s: %s %s", j.id, resp.Status, raw)
			}
			continue
		}
		j.mu.Lock()
		if !j.cut.IsZero() {
			j.resumed = append(j.resumed, time.Since(j.cut))
		}
		j.id = resp.Header.Get("X-Job-Id")
		j.mu.Unlock()
		done, err := j.read(resp.Body)
		_ = resp.Body.Close()
		if done || err != nil {
			return err
		}
		j.mu.Lock()
		j.cut = time.Now()
		j.mu.Unlock()
	}
	return fmt.Errorf("job %s has no end", j.id)
}

// read reads a stream; done reports whether its job has ended. Each event must have the
// number after the last one.
func (j *job) read(body io.Reader) (done bool, err error) {
	lines, id := bufio.NewScanner(body), uint64(0)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			if id, err = strconv.ParseUint(v, 10, 64); err != nil {
				return false, err
			}
		}
		v, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e map[string]any
		if err := json.Unmarshal([]byte(v), &e); err != nil {
			return false, err
		}
		if id == 0 { // of the router: the cell is lost
			if e["code"] != "CELL_LOST" || e["recoverable"] != true {
				return false, fmt.Errorf("job %s: %s", j.id, v)
			}
			return false, nil
		}
		if id != j.seen+1 {
			return false, fmt.Errorf("job %s: event %d follows %d", j.id, id, j.seen)
		}
		j.mu.Lock()
		j.seen, j.last = id, e
		j.mu.Unlock()
		if e["type"] == "done" || e["type"] == "error" {
			return true, nil
		}
		id = 0
	}
	return false, nil // cut
}

// working reports whether the agent's command has begun.
func (j *job) working() bool {
	raw, err := os.ReadFile(j.c.path(j.cell, j.user, "half.txt"))
	return err == nil && len(raw) > 0
}

// release lets the agent's command end.
func (j *job) release(t *testing.T) {
	t.Helper()
	file := j.c.path(j.cell, j.user, "go")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Error(err)
	}
	if err := os.Chown(file, uid, uid); err != nil {
		t.Error(err)
	}
}

// startWork starts jobs, on each cell in turn, and waits until all of their agents work.
// A few start at a time: the start of an agent takes seconds of a processor.
func (c *cluster) startWork(n int, following *sync.WaitGroup, on ...int) (all []*job) {
	c.t.Helper()
	for i := range n {
		all = append(all, c.startJob(on[i%len(on)], following))
		if i%4 == 3 || i == n-1 {
			c.waitFor(4*time.Minute, "the work of the jobs", func() bool { return !slices.ContainsFunc(all, func(j *job) bool { return !j.working() }) })
		}
	}
	return all
}

// check fails the test unless the game was made.
func (j *job) check(t *testing.T) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil || j.last["type"] != "done" {
		t.Errorf("job %s of %s: %v, the last event is %v", j.id, cell(j.cell), j.err, j.last)
		return
	}
	if raw, err := os.ReadFile(j.c.path(j.cell, j.user, "index.html")); err != nil || string(raw) != "half\n" {
		t.Errorf("job %s: the game is %q, %v", j.id, raw, err)
	}
}

// readers are clients that read a file of their users all the time.
type readers struct {
	stop    chan struct{}
	running sync.WaitGroup

	mu      sync.Mutex
	reads   int
	refused []string
	slowest time.Duration
	since   map[int]time.Time // by cell: the last answer
}

// startReaders starts n readers, whose users have a file and are spread over the cells.
func (c *cluster) startReaders(n int) *readers {
	c.t.Helper()
	r := &readers{stop: make(chan struct{}), since: map[int]time.Time{}}
	for i := range n {
		u := user(i % cells)
		c.writeFile(u)
		r.running.Go(func() {
			for {
				r.one(c, u, i%cells)
				select {
				case <-r.stop:
					return
				case <-time.After(300 * time.Millisecond):
				}
			}
		})
	}
	c.t.Cleanup(r.end)
	return r
}

// writeFile gives a user a project with a file.
func (c *cluster) writeFile(user string) {
	c.t.Helper()
	resp, err := c.send(http.MethodPost, "/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"files":[{"path":"index.html","content":"here"}]}`, user, project), 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if raw, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		c.t.Fatalf("%s %s", resp.Status, raw)
	}
}

// readFile reads the file of writeFile.
func (c *cluster) readFile(user string) error {
	resp, err := c.send(http.MethodGet, "/get_file?user_id="+user+"&project_id="+project+"&path=index.html", "", 0)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !strings.Contains(string(raw), "here")) {
		err = fmt.Errorf("%s %s", resp.Status, raw)
	}
	return err
}

func (r *readers) one(c *cluster, user string, cell int) {
	began := time.Now()
	err := c.readFile(user)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	r.slowest = max(r.slowest, time.Since(began))
	if err != nil {
		r.refused = append(r.refused, fmt.Sprintf("cell-%d after %v: %v", cell, time.Since(began).Round(time.Millisecond), err))
		return
	}
	r.since[cell] = time.Now()
}

func (r *readers) end() {
	select {
	case <-r.stop:
	default:
		close(r.stop)
	}
	r.running.Wait()
}

// check ends the readers and fails the test if one was refused.
func (r *readers) check(t *testing.T) {
	t.Helper()
	r.end()
	for i, refused := range r.refused {
		if i < 10 {
			t.Error("refused: " + refused)
		}
	}
	t.Logf("measured: %d reads, %d refused, the slowest took %v", r.reads, len(r.refused), r.slowest.Round(time.Millisecond))
}
