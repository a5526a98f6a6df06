package job

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// listener is another program that hears of the ends of jobs.
type listener struct {
	mu    sync.Mutex
	full  bool
	asked int
	heard []string
	ended []string
}

func (l *listener) parts(p *Parts) {
	p.Ended = func(j dreamcore.Job) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.ended = append(l.ended, j.ID)
	}
	p.Tell = func(j dreamcore.Job) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.asked++
		if l.full {
			return errors.New("no space left on device")
		}
		l.heard = append(l.heard, j.ID+" "+string(j.State))
		return nil
	}
}

func (l *listener) setFull(full bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full = full
}

func (l *listener) check(t *testing.T, when string, asked int, heard ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked != asked || !slices.Equal(l.heard, heard) {
		t.Errorf("%s: asked %d times, want %d; heard %q, want %q", when, l.asked, asked, l.heard, heard)
	}
}

// The outbox of webhooks may have no room when a job ends.
func TestAnEndThatCannotBeToldIsToldLater(t *testing.T) {
	l := &listener{full: true}
	r := resuming(t, options{parts: l.parts})
	id := r.submit(request(alice, "x"))
	r.events(id)
	if j := r.final(id); j.State != dreamcore.JobSucceeded {
		t.Errorf("the record: %+v", j)
	}
	l.check(t, "on a full disk", 1)
	if err := r.service.Retell(); err != nil {
		t.Fatal(err)
	}
	l.check(t, "tried on a full disk", 2)
	crash, lost := r.crashed(), r.crashed()
	l.setFull(false)
	if err := r.service.Retell(); err != nil {
		t.Fatal(err)
	}
	want := id + " succeeded"
	l.check(t, "with room", 3, want)
	if err := errors.Join(r.service.Retell(), r.service.Recover(), r.service.Reconcile(t.Context())); err != nil {
		t.Fatal(err)
	}
	l.check(t, "told already", 3, want)
	if len(l.ended) != 1 {
		t.Errorf("counted as ended: %q", l.ended)
	}

	t.Run("by the next process", func(t *testing.T) {
		l := &listener{}
		next := resuming(t, options{dir: crash, parts: l.parts})
		next.recover()
		l.check(t, "after a crash", 1, want)
		next.recover()
		l.check(t, "told already", 1, want)
	})
	t.Run("without the index", func(t *testing.T) {
		if err := os.Remove(filepath.Join(lost, "index.db")); err != nil {
			t.Fatal(err)
		}
		l := &listener{}
		next := resuming(t, options{dir: lost, parts: l.parts})
		if err := next.service.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.check(t, "from the log", 1, want)
		other := next.submit(request(alice, "y"))
		next.events(other)
		next.final(other)
		next.close()
		if err := os.Remove(filepath.Join(lost, "index.db")); err != nil {
			t.Fatal(err)
		}
		again := resuming(t, options{dir: lost, parts: l.parts})
		if err := again.service.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.check(t, "told before the index was lost", 2, want, other+" succeeded")
	})
}
