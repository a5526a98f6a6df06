package journal

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// followed returns the ids that Follow yields, and its error.
func followed(ctx context.Context, r *Reader) (ids []uint64, err error) {
	for e, err := range r.Follow(ctx) {
		if err != nil {
			return ids, err
		}
		ids = append(ids, e.ID)
	}
	return ids, nil
}

func TestFollow(t *testing.T) {
	s, _ := openStore(t, Options{})
	for job, complete := range map[string]bool{jobA: true, jobB: false} {
		l := create(t, s, job)
		appendAll(t, l, dreamcore.StatusEvent("one"))
		r := follow(t, s, job, 0)
		short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if ids, err := followed(short, r); !slices.Equal(ids, []uint64{1}) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("running job: %v, %v", ids, err)
		}
		cancel()
		if complete {
			appendAll(t, l, dreamcore.DoneEvent())
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		ids, err := followed(t.Context(), r)
		if complete && (!slices.Equal(ids, []uint64{2}) || err != nil) || !complete && dreamcore.CodeOf(err) != dreamcore.CodeInternal {
			t.Errorf("closed log, complete %t: %v, %v", complete, ids, err)
		}
		// A reader that begins after the last event has nothing to yield.
		if ids, err := followed(t.Context(), follow(t, s, job, 2)); len(ids) > 0 || (err == nil) != complete {
			t.Errorf("after the last event, complete %t: %v, %v", complete, ids, err)
		}
	}
}

// The next process takes the job up: an error would be a false end of it.
func TestALogWithoutAnEndIsSuspendedForAProcessThatDoesNotWriteIt(t *testing.T) {
	s, dir := openStore(t, Options{})
	l := create(t, s, jobA)
	appendAll(t, l, number(1))
	other := openStoreAt(t, dir, Options{})
	check := func(name string) {
		t.Helper()
		if ids, err := followed(t.Context(), follow(t, other, jobA, 0)); !slices.Equal(ids, []uint64{1}) || !errors.Is(err, ErrSuspended) {
			t.Errorf("%s: %v, %v", name, ids, err)
		}
	}
	check("another process is writing")
	if err := l.Close(); err != nil { // as the end of a process does
		t.Fatal(err)
	}
	check("its process has ended")
}
