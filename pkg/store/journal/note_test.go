package journal

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestNotesAreNoEvents(t *testing.T) {
	s, _ := openStore(t, Options{})
	log := must(s.Create(jobA))(t)
	var want []string
	for i := range 5 {
		if err := log.Note(fmt.Appendf(nil, `{"n":%d}`, i)); err != nil {
			t.Fatal(err)
		}
		for range i {
			e := fmt.Sprintf(`{"type":"status","message":"%d"}`, len(want))
			if id, err := log.Append(dreamcore.Event(e)); err != nil || id != uint64(len(want)+1) {
				t.Fatal(id, err)
			}
			want = append(want, e)
		}
	}
	if log.LastID() != 10 {
		t.Errorf("last id %d", log.LastID())
	}
	read := func(after uint64) (got []string) {
		t.Helper()
		r := must(s.Reader(jobA, after))(t)
		defer r.Close()
		for id := after + 1; ; id++ {
			if id > 10 && s.isLive(jobA) {
				return got
			}
			e, err := r.Next(t.Context())
			if err != nil {
				return got
			}
			if e.ID != id {
				t.Errorf("id %d, want %d", e.ID, id)
			}
			got = append(got, string(e.Event))
		}
	}
	for after := range 11 {
		if got := read(uint64(after)); !slices.Equal(got, want[after:]) {
			t.Errorf("after %d: %q", after, got)
		}
	}
	if id, err := log.End([]byte(`{"end":1}`), dreamcore.DoneEvent()); id != 11 || err != nil {
		t.Fatal(id, err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reopen(jobA); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
		t.Errorf("reopen a job that has ended: %v", err)
	}
	var events int
	a := must(s.Account(jobA, func(dreamcore.Event) { events++ }))(t)
	if len(a.Notes) != 6 || string(a.Notes[4]) != `{"n":4}` || string(a.Notes[5]) != `{"end":1}` || a.LastID != 11 || events != 11 || !a.Ended() || a.Size != a.Info.Size() {
		t.Errorf("%+v, %d events", a, events)
	}
	for _, bad := range []string{"two\nlines", "a\rline", strings.Repeat("x", MaxNoteBytes+1)} {
		if err := log.Note([]byte(bad)); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("note %.10q: %v", bad, err)
		}
	}
}

func TestASuspendedLogIsContinued(t *testing.T) {
	s, _ := openStore(t, Options{})
	log := must(s.Create(jobA))(t)
	early := must(s.Reader(jobA, 0))(t)
	defer early.Close()
	for _, err := range []error{log.Note([]byte(`{}`)), second(log.Append(dreamcore.StatusEvent("1"))), log.Note([]byte(`{}`)), log.Suspend(), log.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	late := must(s.Reader(jobA, 0))(t)
	defer late.Close()
	for name, r := range map[string]*Reader{"early": early, "late": late} {
		n := 0
		for _, err := range r.Follow(t.Context()) {
			if n++; n == 2 && !errors.Is(err, ErrSuspended) || n < 2 && err != nil {
				t.Errorf("%s reader: %d: %v", name, n, err)
			}
		}
		if n != 2 {
			t.Errorf("%s reader: %d elements", name, n)
		}
	}
	log = must(s.Reopen(jobA))(t)
	if id, err := log.Append(dreamcore.DoneEvent()); id != 2 || err != nil || log.LeftAt().IsZero() {
		t.Fatal(id, err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	r := must(s.Reader(jobA, 1))(t)
	defer r.Close()
	for e, err := range r.Follow(t.Context()) {
		if err != nil || !e.Terminal() || e.ID != 2 {
			t.Errorf("%+v, %v", e, err)
		}
	}
}

func TestNotesAreBoundedAndLeaveRoomForTheEnd(t *testing.T) {
	s, _ := openStore(t, Options{MaxLogBytes: 100 << 10})
	log := must(s.Create(jobA))(t)
	defer log.Close()
	appendAll(t, log, event(90<<10))
	if _, err := log.Append(event(20 << 10)); dreamcore.CodeOf(err) != dreamcore.CodeTooLarge {
		t.Fatal(err)
	}
	note, written := []byte(`{"a":"`+strings.Repeat("x", 1000)+`"}`), 0
	var err error
	for ; err == nil && written < 1000; written++ {
		err = log.Note(note)
	}
	if dreamcore.CodeOf(err) != dreamcore.CodeTooLarge || written < 20 {
		t.Errorf("%d notes: %v", written, err)
	}
	if _, err := log.End(note, dreamcore.DoneEvent()); err != nil {
		t.Error(err)
	}
}

func second(_ uint64, err error) error { return err }

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
