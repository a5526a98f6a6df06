package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

// resumeScript works until it is stopped in the first conversation, and ends in the
// next one, which is only reached if the agent remembers the first.
const resumeScript = `{"conversations":[
	[{"text":"I begin.","tools":[{"name":"Bash","input":{"command":"echo half >half.txt; sleep 100","description":"work"}}]},{"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"cat half.txt >index.html","description":"finish"}}]},{"text":"done"}]
]}`

// TestARestartContinuesTheConversation stops the service, or kills it, while the
// real agent works. The next service lets it finish, in one stream.
func TestARestartContinuesTheConversation(t *testing.T) {
	for name, end := range map[string]func(*service){"stop": (*service).stop, "kill": (*service).kill} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t).unbounded()
			h.env = append(h.env, "DREAMCORE_GRACE=1s")
			script := filepath.Join(t.TempDir(), "script.json")
			if err := os.WriteFile(script, []byte(resumeScript), 0o600); err != nil {
				t.Fatal(err)
			}
			s := h.serve("--model-script", script)
			w := s.watch(http.MethodPost, "/generate_game", generateBody(alice, project, "a game"))
			waiting := s.watch(http.MethodPost, "/generate_game", generateBody(alice, project, "another"))
			half := filepath.Join(h.state, "volumes", "dreamcore-data", "users", alice, "projects", project, "half.txt")
			for deadline := time.Now().Add(4 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
				if raw, err := os.ReadFile(half); err == nil && len(raw) > 0 { // it has left the sandbox
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("the agent does not begin\n%s", s.log)
				}
			}
			end(s)
			if last := w.until(never); last["type"] == "done" || last["type"] == "error" {
				t.Errorf("the stream has ended with %v", last)
			}
			s = h.serve("--model-script", script)
			again, last := s.watch(http.MethodGet, "/jobs/"+w.job+"/events", ""), s.watch(http.MethodGet, "/jobs/"+waiting.job+"/events", "")
			if e := again.until(func(e map[string]any) bool { return strings.HasPrefix(text(e["message"]), "The service was restarted") }); e == nil {
				t.Error("the player is not told")
			}
			if e := again.until(never); e["type"] != "done" {
				t.Errorf("%v\n%s", e, s.log)
			}
			if got := s.file(alice, project, "index.html"); got != "half\n" {
				t.Errorf("the game is %q", got)
			}
			if e := last.until(never); e["type"] != "done" {
				t.Errorf("the job that waited: %v\n%s", e, s.log)
			}
		})
	}
}

// loadScript takes a second or two for each job.
const loadScript = `{"conversations":[
	[{"text":"1","tools":[{"name":"Bash","input":{"command":"echo 1 >index.html; sleep 0.5","description":"work"}}]},
	 {"text":"2","tools":[{"name":"Bash","input":{"command":"echo 2 >>index.html; sleep 0.5","description":"work"}}]},{"text":"done"}]
]}`

// TestAKilledServiceLosesNoJob kills the service at random moments, with running
// and waiting jobs. Every job has one terminal event in the end, and each client
// reads every event once, in order. DREAMCORE_TEST_KILLS and DREAMCORE_TEST_STREAMS
// set how many kills and clients there are.
func TestAKilledServiceLosesNoJob(t *testing.T) {
	kills, streams := number("DREAMCORE_TEST_KILLS", 3), number("DREAMCORE_TEST_STREAMS", 5)
	h := newHost(t).unbounded()
	h.env = append(h.env, "DREAMCORE_MAX_GENERATIONS=2", fmt.Sprintf("DREAMCORE_MAX_WAITING=%d", 10*streams))
	script := filepath.Join(t.TempDir(), "script.json")
	if err := os.WriteFile(script, []byte(loadScript), 0o600); err != nil {
		t.Fatal(err)
	}
	f := &followers{t: t, stop: make(chan struct{})}
	begin := func() *service {
		s := h.serve("--model-script", script)
		f.service.Store(s)
		return s
	}
	s := begin()
	for range streams {
		f.wg.Go(f.player)
	}
	for range kills {
		time.Sleep(time.Duration(200+rand.IntN(4000)) * time.Millisecond) // a random moment
		s.kill()
		s = begin()
	}
	close(f.stop)
	f.wg.Wait()
	if len(f.ended) < streams {
		t.Errorf("%d jobs of %d clients have ended", len(f.ended), streams)
	}
	counts := map[string]int{}
	for id, state := range f.ended {
		counts[state]++
		raw, err := os.ReadFile(filepath.Join(h.state, "jobs", id+".ndjson"))
		if err != nil {
			t.Fatal(err)
		}
		ends, attempts := 0, bytes.Count(raw, []byte("\n#{\"attempt\""))
		for line := range bytes.Lines(raw) {
			if line[0] == '{' && (bytes.HasPrefix(line, []byte(`{"type":"done"`)) || bytes.HasPrefix(line, []byte(`{"type":"error"`))) {
				ends++
			}
		}
		if ends != 1 || attempts > 2 {
			t.Errorf("job %s has %d terminal events and %d attempts:\n%s", id, ends, attempts, raw)
		}
	}
	t.Logf("%d kills, %d jobs: %v", kills, len(f.ended), counts)
}

// number returns a number from the environment, or otherwise.
func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// followers are clients that follow jobs across restarts.
type followers struct {
	t       *testing.T
	service atomic.Pointer[service]
	stop    chan struct{} // closed when no more jobs are begun
	wg      sync.WaitGroup

	mu    sync.Mutex
	ended map[string]string // last events by job; guarded by mu
}

// player makes one game after another until stop, at least one.
func (f *followers) player() {
	user := uuid.NewString()
	for {
		f.game(user)
		select {
		case <-f.stop:
			return
		default:
		}
	}
}

// game makes a game and reads its events to the end, across any number of
// connections. It ends only after the terminal event.
func (f *followers) game(user string) {
	id, seen := "", uint64(0)
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		s := f.service.Load()
		method, path, body := http.MethodPost, "/generate_game", generateBody(user, project, "a game")
		if id != "" {
			method, path, body = http.MethodGet, "/jobs/"+id+"/events", ""
		}
		req, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
		if err != nil {
			f.t.Error(err)
			return
		}
		req.Header.Set("X-Modal-Secret", s.secret)
		req.Header.Set("Last-Event-ID", strconv.FormatUint(seen, 10))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue // the service is being restarted
		}
		if resp.StatusCode != http.StatusOK {
			raw, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if id != "" {
				f.t.Errorf("job %s: %s %s", id, resp.Status, raw)
				return
			}
			continue
		}
		id = resp.Header.Get("X-Job-Id")
		last := f.read(id, resp.Body, &seen)
		_ = resp.Body.Close()
		if last != "" {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.ended == nil {
				f.ended = map[string]string{}
			}
			f.ended[id] = last
			return
		}
	}
	f.t.Errorf("job %s of %s has no end after event %d", id, user, seen)
}

// read reads a stream, and returns what its terminal event says, or "".
func (f *followers) read(id string, body io.Reader, seen *uint64) string {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			if n, err := strconv.ParseUint(text, 10, 64); err != nil || n != *seen+1 {
				f.t.Errorf("job %s: event %q after %d", id, text, *seen)
			}
			continue
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e struct{ Type, Code string }
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			continue // cut
		}
		*seen++
		if e.Type == "done" || e.Type == "error" {
			return e.Type + e.Code
		}
	}
	return ""
}
