package history

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/admission"
)

// TestWaitingForASlotDoesNotCountAgainstTheTimeOfASave: another user's large
// operation may delay a first version for longer than saving it may take.
func TestWaitingForASlotDoesNotCountAgainstTheTimeOfASave(t *testing.T) {
	for name, tt := range map[string]struct {
		busy  time.Duration // how long the slot of the machine is taken
		saved bool
	}{
		"free":                        {0, true},
		"busy for longer than a save": {3 * saveLimit, true},
		"busy for longer than a wait": {slotPatience + time.Second, false},
	} {
		f := newFixture(t)
		f.write(t, map[string]string{"index.html": "x"})
		synctest.Test(t, func(t *testing.T) {
			f.store.heavy = admission.New(admission.Limits{Running: 1})
			leave, err := f.store.heavy.Enter(t.Context(), "another")
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(tt.busy, leave)
			began := time.Now()
			made, err := f.store.Record(t.Context(), user, project, f.root, "first", when)
			switch waited := time.Since(began); {
			case tt.saved && (err != nil || !made.Changed || waited < tt.busy):
				t.Errorf("%s: %+v, %v after %v", name, made, err, waited)
			case !tt.saved && (dreamcore.CodeOf(err) != dreamcore.CodeBusy || dreamcore.HintOf(err) == "" || waited != slotPatience):
				t.Errorf("%s: %v after %v", name, err, waited)
			}
			time.Sleep(time.Second) // the slot is free at the end of the bubble
		})
	}
}

// TestPruneRemovesWhatOnlyAnotherBranchLeadsTo: the branches and tags that an
// operator adds to the repository do not keep old versions.
func TestPruneRemovesWhatOnlyAnotherBranchLeadsTo(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"large.bin": random(300 << 10)})
	first, _ := f.commit(t, "first")
	f.command(t, "branch", "operator", first)
	for range 3 {
		f.write(t, map[string]string{"large.bin": random(300 << 10)})
		f.commit(t, "later")
	}
	f.prune(t, Bounds{ProjectBytes: 500 << 10})
	if size := onDiskBytes(t, f.git); size > 500<<10 {
		t.Errorf("%d bytes: the bound is exceeded because of another branch", size)
	}
	if n, err := f.store.Count(t.Context(), user, project); n != 1 || err != nil {
		t.Error(n, err)
	}
	f.command(t, "log", "main")
}
