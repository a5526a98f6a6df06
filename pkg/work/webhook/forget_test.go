package webhook

import (
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const (
	alice = dreamcore.UserID("11111111-1111-4111-8111-111111111111")
	bob   = dreamcore.UserID("22222222-2222-4222-8222-222222222222")
	game  = dreamcore.ProjectID("33333333-3333-4333-8333-333333333333")
	other = dreamcore.ProjectID("44444444-4444-4444-8444-444444444444")
)

// about returns an event of a job whose record names its owner.
func about(i int, user dreamcore.UserID, project dreamcore.ProjectID) Event {
	e := event(i)
	e.User, e.Project = user, project
	return e
}

// kept returns the messages that are on the disk.
func kept(t *testing.T, dir string) (n int) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), extension) {
			n++
		}
	}
	return n
}

func TestForgottenMessagesLeaveTheDisk(t *testing.T) {
	dir := t.TempDir()
	fill := func(s *Service) {
		for i, e := range []Event{about(0, alice, game), about(1, alice, other), about(2, bob, game), about(3, alice, game)} {
			if err := s.Notify(e); err != nil {
				t.Fatal(i, err)
			}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{Dir: dir, transport: &fake{answer: status(500)}, Entries: []Entry{{URL: "https://a.example/", Secret: "a"}}})
		fill(s)
		time.Sleep(time.Minute)
		if err := s.Forget(alice, game); err != nil {
			t.Fatal(err)
		}
		if n := kept(t, dir); n != 2 || s.Backlog().Messages != 2 {
			t.Errorf("%d messages on the disk, %+v", n, s.Backlog())
		}
		if err := s.Forget(alice, ""); err != nil {
			t.Fatal(err)
		}
		if n := kept(t, dir); n != 1 {
			t.Errorf("%d messages on the disk", n)
		}
	})
	// Without a service.
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{Dir: dir, transport: &fake{answer: status(500)}, Entries: []Entry{{URL: "https://a.example/", Secret: "a"}}})
		fill(s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := Forget(dir, alice, "", slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		if n := kept(t, dir); n != 1 {
			t.Errorf("%d messages on the disk", n)
		}
	})
}

func TestAMessageThatIsForgottenWhileItIsSentDoesNotComeBack(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{Dir: dir, transport: &fake{answer: hang}, Entries: []Entry{{URL: "https://a.example/", Secret: "a"}}})
		if err := s.Notify(about(0, alice, game)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(sendLimit / 2)
		if err := s.Forget(alice, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if n := kept(t, dir); n != 0 || s.Backlog().Messages != 0 {
			t.Errorf("%d messages on the disk, %+v", n, s.Backlog())
		}
	})
}
