package record

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// The index is in use while it is copied, and rows that are written meanwhile are kept.
func TestACompactionKeepsNobodyWaiting(t *testing.T) {
	for name, changes := range map[string]int{"a change": 1, "changes without end": 1 << 10} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Options{})
			gone, stays := row(1, 1, 1, dreamcore.JobSucceeded), row(2, 2, 2, dreamcore.JobSucceeded)
			gone.Prompt = "a prompt that must go"
			if err := errors.Join(s.Put(gone, stays), s.Remove(gone.ID)); err != nil {
				t.Fatal(err)
			}
			want := []string{stays.ID}
			s.copied = func() {
				if len(want) > changes {
					return
				}
				r := row(2+len(want), 2, 2, dreamcore.JobSucceeded)
				if err := s.Put(r); err != nil {
					t.Error(err)
				}
				want = append([]string{r.ID}, want...)
			}
			if err := s.Compact(); err != nil {
				t.Fatal(err)
			}
			if len(want) < 2 {
				t.Error("nothing was written meanwhile")
			}
			check := func() {
				t.Helper()
				got := all(t, s, dreamcore.JobFilter{Limit: 100})
				if len(got) != len(want) || got[0] != want[0] || got[len(got)-1] != stays.ID {
					t.Errorf("rows %v, want %v", got, want)
				}
			}
			check()
			if raw, err := os.ReadFile(s.path); err != nil || bytes.Contains(raw, []byte(gone.Prompt)) {
				t.Errorf("the file has a row that was removed: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open1(t, s.path, Options{})
			check()
			if left, err := filepath.Glob(s.path + ".*"); err != nil || len(left) > 0 {
				t.Errorf("other files: %v, %v", left, err)
			}
		})
	}
}

// After a failed compaction, rows are written to the file that has the name.
func TestAFailedCompactionLosesNothing(t *testing.T) {
	s := newStore(t, Options{})
	before, after := row(1, 1, 1, dreamcore.JobSucceeded), row(2, 1, 1, dreamcore.JobSucceeded)
	if err := s.Put(before); err != nil {
		t.Fatal(err)
	}
	s.copied = func() {
		if err := os.WriteFile(s.path+compactExtension, bytes.Repeat([]byte("not an index"), 4096), 0o600); err != nil {
			t.Error(err)
		}
	}
	if err := s.Compact(); err == nil {
		t.Error("a broken copy is used")
	}
	if err := errors.Join(s.Put(after), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = open1(t, s.path, Options{})
	if got := all(t, s, dreamcore.JobFilter{Limit: 100}); len(got) != 2 {
		t.Errorf("rows %v", got)
	}
	s.copied = func() {}
	if err := s.Compact(); err != nil {
		t.Error(err)
	}
}
