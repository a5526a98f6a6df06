package job

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
)

// TestManyJobsWithoutAnEndHoldNobodyUp recovers a service with old logs, the telling of
// whose first end hangs.
func TestManyJobsWithoutAnEndHoldNobodyUp(t *testing.T) {
	const logs = 40
	old := map[string]bool{}
	id := func(n int) string { return fmt.Sprintf("11111111-1111-4111-8111-%012d", n) }
	for n := range logs {
		old[id(n)] = true
	}
	hangs, goesOn := make(chan struct{}), make(chan struct{})
	hang := sync.OnceFunc(func() {
		close(hangs)
		<-goesOn
	})
	var mu sync.Mutex
	told := map[string]int{}
	r := newRig(t, options{play: makesGame, parts: func(p *Parts) { // its index is lost
		p.Resume = true
		p.Tell = func(j dreamcore.Job) error {
			if j.ID == id(0) {
				hang()
			}
			mu.Lock()
			defer mu.Unlock()
			told[j.ID]++
			return nil
		}
	}})
	for job := range old {
		if err := os.WriteFile(filepath.Join(r.dir, "jobs", job+".ndjson"), []byte(`{"type":"status","message":"x"}`+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ended := func() (n int) {
		for job := range old {
			raw := must(os.ReadFile(filepath.Join(r.dir, "jobs", job+".ndjson")))(t)
			n += strings.Count(string(raw), `"type":"error"`)
		}
		return n
	}

	run := r.service.Recovery()
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := r.service.Submit(gone, request(alice, "x"), dreamcore.English); !errors.Is(err, context.Canceled) {
		t.Errorf("a new job before those of the earlier process: %v", err)
	}
	if n := ended(); n != 0 {
		t.Fatalf("%d jobs were ended before run", n)
	}
	finished := make(chan error)
	go func() { finished <- run() }()
	<-hangs

	last := id(logs - 1)
	r.service.Attach(t.Context(), last)
	if n := ended(); n != 2 { // the one that hangs has its event
		t.Errorf("%d jobs have ended", n)
	}
	if events := r.events(last); len(events) != 2 || events[1].Type != "error" {
		t.Errorf("a client that asks gets %+v", events)
	}
	made := must(r.service.Submit(t.Context(), stays(request(alice, "x")), dreamcore.English))(t)
	if last, _ := r.ends(r.events(made)); last.Type != "done" {
		t.Errorf("a new job ends with %+v", last)
	}
	close(goesOn)
	if err := <-finished; err != nil {
		t.Fatal(err)
	}
	if n := ended(); n != logs {
		t.Errorf("%d jobs have an end", n)
	}
	mu.Lock()
	defer mu.Unlock()
	delete(told, made)
	for job, n := range maps.All(told) {
		if n != 1 || !old[job] {
			t.Errorf("the end of %s was told %d times", job, n)
		}
	}
	if len(told) != logs {
		t.Errorf("%d ends were told", len(told))
	}
}

// Jobs of an earlier process that cannot be taken up yet keep their place: no new job
// gets ahead of them.
func TestNewJobsWaitForARecoveryThatFailed(t *testing.T) {
	r := newRig(t, options{play: makesGame})
	good := r.service.parts.Records
	if err := good.Complete(); err != nil { // so that it is asked
		t.Fatal(err)
	}
	broken := must(record.Open(filepath.Join(t.TempDir(), "index.db"), record.Options{}))(t)
	if err := errors.Join(broken.Complete(), broken.Close()); err != nil {
		t.Fatal(err)
	}
	r.service.parts.Records = broken
	failed := r.service.Recover()
	r.service.parts.Records = good
	if failed == nil {
		t.Fatal("it does not fail")
	}
	if _, err := r.service.Submit(t.Context(), request(alice, "x"), dreamcore.English); !errors.Is(err, failed) {
		t.Errorf("a new job: %v, want %v", err, failed)
	}
	if err := r.service.Recover(); err != nil {
		t.Fatal(err)
	}
	made := must(r.service.Submit(t.Context(), stays(request(alice, "x")), dreamcore.English))(t)
	if last, _ := r.ends(r.events(made)); last.Type != "done" {
		t.Errorf("afterwards a new job ends with %+v", last)
	}
}
