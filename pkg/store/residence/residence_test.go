package residence

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const alice = dreamcore.UserID("a11ce000-0000-4000-8000-000000000001")

func TestMarksHoldAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	slot := Subject{Slot: alice.Slot()}
	for _, tt := range []struct {
		user, slot             State
		reads, changes, listed bool
	}{
		{"", "", true, true, true},
		{Leaving, "", true, false, true},
		{Left, "", false, false, false},
		{Arriving, "", false, false, false},
		{Arrived, "", true, false, false},
		{"", Leaving, true, false, true},
		{"", Left, false, false, false},
		{Here, Left, true, true, true},
		{Arrived, Left, true, false, false},
		{Left, "", false, false, false},
	} {
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		for subject, state := range map[Subject]State{{User: alice}: tt.user, slot: tt.slot} {
			if state == "" {
				err = s.Remove(subject)
			} else {
				err = s.Set(subject, Mark{State: state, Cell: "cell-1", Since: time.Now()})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		look, err := Look(dir)
		if err != nil {
			t.Fatal(err)
		}
		if r, c, l := look.CheckRead(alice) == nil, look.CheckChange(alice) == nil, look.Lists(alice); r != tt.reads || c != tt.changes || l != tt.listed {
			t.Errorf("%+v: reads %v, changes %v, lists %v", tt, r, c, l)
		}
		if look.Admit(alice, true) == nil != (tt.changes || tt.user == Arriving) {
			t.Errorf("%+v: the stores", tt)
		}
		look.Close()
	}
}

// A mark that cannot be read must not make a second copy live, nor be erased.
func TestDamagedMarksRefuse(t *testing.T) {
	for _, text := range []string{"", "{", `{"state":"x"}`, strings.Repeat(" ", 1<<20)} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, string(alice)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if m, ok := s.Get(Subject{User: alice}); !ok || m.State != Damaged || s.CheckRead(alice) == nil || s.CheckChange(alice) == nil || s.Lists(alice) {
			t.Errorf("%.10q: %+v", text, m)
		}
		s.Close()
	}
}

// A mark that is no file that can be read must not keep the others from being read.
func TestAMarkThatCannotBeReadHoldsForItsUserOnly(t *testing.T) {
	dir := t.TempDir()
	bob := Subject{User: "b0b00000-0000-4000-8000-000000000002"}
	for _, make := range []func(path string) error{
		func(path string) error { return os.Mkdir(path, 0o700) },
		func(path string) error { return os.Symlink("nowhere", path) },
		func(path string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		path := filepath.Join(dir, string(alice))
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if m, _ := s.Get(Subject{User: alice}); m.State != Damaged || s.CheckRead(alice) == nil || s.CheckChange(bob.User) != nil {
			t.Errorf("%+v", s.All())
		}
		s.Close()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNothingIsMarkedWithoutADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "absent")
	s, err := Look(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := os.Stat(dir); err == nil || s.CheckChange(alice) != nil {
		t.Error(err)
	}
}

func FuzzParseSubject(f *testing.F) {
	for _, text := range []string{string(alice), "slot-0", "slot-1023", "slot-1024", "slot-01", "../x", strings.ToUpper(string(alice))} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSubject(text)
		if err != nil {
			return
		}
		if again, err := ParseSubject(s.String()); err != nil || again != s || strings.ContainsAny(s.String(), "/.") {
			t.Errorf("%q: %+v", text, s)
		}
	})
}

// TestOtherProcessesSeeEachMove: a command that has opened the marks before a move began
// must not change what is being copied.
func TestOtherProcessesSeeEachMove(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Own(); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func(string) (*Store, error){"a command that changes": Open, "one that looks": Look} {
		other, err := open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		for _, subject := range []Subject{{User: alice}, {Slot: alice.Slot()}} {
			if other.CheckChange(alice) != nil || other.Admit(alice, true) != nil {
				t.Errorf("%s: refused before the move", name)
			}
			if err := s.Set(subject, Mark{State: Leaving, Cell: "b"}); err != nil {
				t.Fatal(err)
			}
			if other.CheckChange(alice) == nil || other.Admit(alice, true) == nil || other.CheckRead(alice) != nil {
				t.Errorf("%s does not see that %s moves", name, subject)
			}
			if err := s.Remove(subject); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestANewOwnerReadsEverything: the service before may have moved a user while the new
// one waited for its end.
func TestANewOwnerReadsEverything(t *testing.T) {
	dir := t.TempDir()
	before, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	gone := Subject{Slot: 7}
	if err := before.Set(gone, Mark{State: Leaving, Cell: "b"}); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = errors.Join(before.Set(Subject{User: alice}, Mark{State: Left, Cell: "b"}), before.Remove(gone), s.Own())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Get(gone); ok || s.CheckChange(alice) == nil || s.Of(alice).State != Left {
		t.Errorf("the new owner knows %v", s.All())
	}
}
