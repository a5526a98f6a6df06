package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// drops is how often each reader of TestReadersThatDropTheirConnectionMissNothing
// drops its connection.
const drops = 10

// TestReadersThatDropTheirConnectionMissNothing reads the streams of several games
// with many clients, each of which drops its connection at random moments. Each
// client ends with every event once, in order. Half of them have links.
// DREAMCORE_TEST_READERS and DREAMCORE_TEST_GAMES set how many clients and games
// there are; 300 and 20 are what the service is meant for.
func TestReadersThatDropTheirConnectionMissNothing(t *testing.T) {
	readers, games := number("DREAMCORE_TEST_READERS", 20), number("DREAMCORE_TEST_GAMES", 3)
	h := newHost(t).unbounded()
	h.env = append(h.env, "DREAMCORE_MAX_GENERATIONS=3", fmt.Sprintf("DREAMCORE_MAX_WAITING=%d", games))
	s := h.serve("--model-script", writeScript(t, chattyScript()))
	var jobs []string
	for range games {
		w := s.watch(http.MethodPost, "/generate_game", strings.TrimSuffix(generateBody(uuid.NewString(), project, "a game"), "}")+`,"detach":true}`)
		w.leave()
		jobs = append(jobs, w.job)
	}
	got := make([][]string, readers)
	var all sync.WaitGroup
	for i := range readers {
		d := &dropper{t: t, s: s, job: jobs[i%games]}
		if i/games%2 == 0 {
			d.path = s.link(d.job)
		}
		all.Go(func() { got[i] = d.run() })
	}
	all.Wait()
	if strings.Contains(s.log.String(), "token=") {
		t.Errorf("a link is in the log\n%s", s.log)
	}
	for n, job := range jobs {
		d := &dropper{t: t, s: s, job: job, dropped: drops}
		want := d.run()
		if len(want) < 2*drops || !strings.Contains(want[len(want)-1], `"done"`) {
			t.Fatalf("job %s has %d events, the last one is %q\n%s", job, len(want), want[len(want)-1], s.log)
		}
		for i := n; i < readers; i += games {
			if !slices.Equal(got[i], want) {
				t.Errorf("client %d of job %s has %d events, want %d:\n%s", i, job, len(got[i]), len(want), strings.Join(got[i], "\n"))
			}
		}
	}
}

// chattyScript makes a game in many steps, so that there are many events.
func chattyScript() string {
	var steps []string
	for i := range 2 * drops {
		steps = append(steps, fmt.Sprintf(`{"text":"step %d","tools":[{"name":"Bash","input":{"command":"echo %d >>index.html","description":"work"}}]}`, i, i))
	}
	return `{"conversations":[[` + strings.Join(steps, ",") + `,{"text":"done"}]]}`
}

// link returns the path of a link to the events of a job.
func (s *service) link(job string) string {
	s.h.t.Helper()
	status, answer := s.object("/jobs/"+job+"/link", "")
	if status != http.StatusOK {
		s.h.t.Fatalf("link: %d %v", status, answer)
	}
	return text(answer["path"])
}

// dropper is a client that drops its connection until it has done so often enough.
type dropper struct {
	t       *testing.T
	s       *service
	job     string
	path    string // of a link; "" to use the secret
	dropped int
	events  []string
}

// run returns the events of the job.
func (d *dropper) run() []string {
	for deadline := time.Now().Add(10 * time.Minute); time.Now().Before(deadline); {
		ended, err := d.connect()
		if err != nil {
			d.t.Errorf("job %s: %v", d.job, err)
			return d.events
		}
		if ended {
			return d.events
		}
	}
	d.t.Errorf("job %s has no end", d.job)
	return d.events
}

// connect reads from the last event on, until it drops the connection or the job
// has ended.
func (d *dropper) connect() (ended bool, err error) {
	ctx, drop := context.WithCancel(context.Background())
	defer drop()
	path := d.path
	if path == "" {
		path = "/jobs/" + d.job + "/events"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.s.url+path, nil)
	if err != nil {
		return false, err
	}
	if d.path == "" {
		req.Header.Set("X-Modal-Secret", d.s.secret)
	}
	req.Header.Set("Last-Event-ID", strconv.Itoa(len(d.events)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		raw, _ := io.ReadAll(resp.Body)
		return false, fmt.Errorf("%s: %s", resp.Status, raw)
	}
	left := -1
	if d.dropped < drops {
		d.dropped++
		left = rand.IntN(3)
	}
	lines := bufio.NewReader(resp.Body)
	for ; left != 0; left-- {
		data, err := d.next(lines)
		if err != nil {
			return false, err
		}
		var e struct{ Type string }
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return false, err
		}
		if e.Type == "done" || e.Type == "error" {
			return true, nil
		}
	}
	// It drops the connection in the middle of an event.
	if _, err = io.CopyN(io.Discard, lines, int64(rand.IntN(50))); errors.Is(err, io.EOF) {
		err = nil // the last event was that short
	}
	return false, err
}

// next returns the data of the next event, whose id must be the next one.
func (d *dropper) next(lines *bufio.Reader) (data string, err error) {
	id := ""
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("after event %d: %w", len(d.events), err)
		}
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "" && data != "":
			if want := strconv.Itoa(len(d.events) + 1); id != want {
				return "", fmt.Errorf("event %s in place of %s", id, want)
			}
			d.events = append(d.events, data)
			return data, nil
		case strings.HasPrefix(line, "id: "):
			id = line[len("id: "):]
		case strings.HasPrefix(line, "data: "):
			data = line[len("data: "):]
		}
	}
}
