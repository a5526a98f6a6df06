package journal

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestImportedLogsAreThoseOfTheirUser(t *testing.T) {
	s, err := Open(t.TempDir(), Options{MaxLogBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const owner = dreamcore.UserID("a11ce000-0000-4000-8000-000000000001")
	at := time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)
	events := `{"type":"status","message":"a"}` + "\n"
	ended, open := uuid.NewString(), uuid.NewString()
	for job, text := range map[string]string{ended: events + `{"type":"done"}` + "\n", open: events} {
		if err := s.Import(job, owner, at, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		a, err := s.Account(job, nil)
		if err != nil || !a.Info.ModTime().Equal(at) || a.Ended() != (job == ended) {
			t.Errorf("%+v, %v", a, err)
		}
		if a.Owner != "" && (a.Owner != string(owner) || a.Untold != (job == open)) {
			t.Errorf("%+v", a)
		}
		if err := s.Import(job, owner, at, strings.NewReader("x")); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
			t.Errorf("a second one: %v", err)
		}
	}
	log, err := s.Reopen(open)
	if err != nil || log.LastID() != 1 {
		t.Fatalf("%v", err)
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Import("../x", owner, at, strings.NewReader("")); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Error(err)
	}
	large := uuid.NewString()
	if err := s.Import(large, owner, at, strings.NewReader(strings.Repeat("x", 1000+terminalReserve+1))); dreamcore.CodeOf(err) != dreamcore.CodeTooLarge {
		t.Error(err)
	}
	if jobs, err := s.Jobs(); err != nil || len(jobs) != 2 {
		t.Errorf("%v, %v", jobs, err)
	}
}
