package server

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

// refuseBusy makes Submit fail as the job service does when it is stopping.
func (g *fakeGenerator) refuseBusy() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = &dreamcore.Error{Code: dreamcore.CodeBusy, Message: "the service is stopping"}
}

func TestDrainRefusesNewGenerationsOnly(t *testing.T) {
	more := make(chan struct{})
	sv := start(t, options{run: func(log *journal.Log) {
		_, _ = log.Append(dreamcore.StatusEvent("ready"))
		<-more
		_, _ = log.Append(dreamcore.DoneEvent())
	}})
	res, running := sv.open()
	if _, err := running.next(); err != nil {
		t.Fatal(err)
	}
	id := res.Header.Get(JobHeader)
	sv.server.Drain()
	sv.server.Drain()
	sv.generator.refuseBusy()

	status, header, answer := sv.post("/generate_game", generateBody)
	if status != http.StatusServiceUnavailable || header.Get("Retry-After") != "5" || answer["code"] != string(codeStopping) || !strings.Contains(answer["error"].(string), "restarting") {
		t.Errorf("a new generation: %d, %v, %v", status, header, answer)
	}
	for _, e := range sv.server.endpoints() {
		if e.name == "generate_game" || e.name == "prewarm_sandbox" || strings.Contains(e.name, "{id}") {
			continue // prewarm: the fake refuses it too
		}
		if res := sv.do(sv.requestFor(e, "/"+e.name)); res.StatusCode != http.StatusOK || !res.Close {
			t.Errorf("%s: status %d, its connection stays open: %v", e.name, res.StatusCode, !res.Close)
		}
	}
	if status, _, job := sv.get("/jobs/" + id); status != http.StatusOK || job["state"] != string(dreamcore.JobRunning) {
		t.Errorf("the job: %d, %v", status, job)
	}
	events := sv.do(sv.request(http.MethodGet, "/jobs/"+id+"/events", ""))
	if !events.Close {
		t.Errorf("the connection of a stream stays open: %v", events.Header)
	}
	follower := readStream(t, events.Body)
	close(more)
	if got := follower.all(); len(got) != 2 {
		t.Errorf("who follows the job during the drain received %q", got)
	}
	if f, err := running.next(); err != nil || f.data != string(dreamcore.DoneEvent()) {
		t.Errorf("who followed it before: %v, %v", f, err)
	}
}

func TestAFullQueueIsNoDrain(t *testing.T) {
	sv := start(t, options{})
	sv.generator.refuseBusy()
	if status, _, answer := sv.post("/generate_game", generateBody); status != http.StatusTooManyRequests {
		t.Errorf("%d, %v", status, answer)
	}
}

func TestTimeOfADrainCountsForTheStop(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		grace, drained, want time.Duration
	}{
		{time.Minute, 0, time.Minute},
		{time.Minute, 20 * time.Second, 40 * time.Second},
		{time.Minute, 55 * time.Second, minStopLimit},
		{time.Minute, time.Hour, minStopLimit},
		{time.Second, time.Hour, time.Second},
	} {
		s := &Server{limits: Limits{GraceLimit: tt.grace}}
		if tt.drained > 0 {
			began := now.Add(-tt.drained)
			s.drained.Store(&began)
		}
		if got := s.stopLimit(now); got != tt.want {
			t.Errorf("grace %v after a drain of %v: %v, not %v", tt.grace, tt.drained, got, tt.want)
		}
	}
}
