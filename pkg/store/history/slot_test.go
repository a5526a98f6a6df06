package history

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/admission"
)

// TestWaitForASlotIsNotPartOfTheSaveLimit: another user's large
// operation may delay a first version for longer than saving it may take.
func TestWaitForASlotIsNotPartOfTheSaveLimit(t *testing.T) {
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
