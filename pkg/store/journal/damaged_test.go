package journal

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestDamagedLogsAreSetAsideAndBounded(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const owner = dreamcore.UserID("a11ce000-0000-4000-8000-000000000001")
	var jobs []string
	for i := range 4 {
		job := uuid.NewString()
		jobs = append(jobs, job)
		l, err := s.Create(job)
		if err != nil {
			t.Fatal(err)
		}
		if i == 3 {
			l.SetOwner(owner)
		}
		_, err = l.Append(dreamcore.StatusEvent("x"))
		if i == 0 {
			if err := s.SetAside(job); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
				t.Errorf("a log that is being written: %v", err)
			}
		}
		if err := errors.Join(err, l.Close(), s.SetAside(job)); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, job+damagedExtension), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetAside(uuid.NewString()); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("an unknown job: %v", err)
	}
	if left, err := s.Jobs(); len(left) != 0 || err != nil {
		t.Errorf("still listed: %v, %v", left, err)
	}
	n, bytes, err := CountDamaged(dir)
	if n != 4 || bytes <= 0 || err != nil {
		t.Fatalf("%d, %d, %v", n, bytes, err)
	}
	if n, err := s.EraseDamaged(owner); n != 1 || err != nil {
		t.Errorf("of the user: %d, %v", n, err)
	}
	if gone, err := s.PruneDamaged(t.Context(), time.Now().Add(-9*time.Hour-time.Minute), bytes); err != nil || !slices.Equal(gone, jobs[:1]) {
		t.Errorf("by age: %v, %v", gone, err)
	}
	if gone, err := s.PruneDamaged(t.Context(), time.Time{}, bytes/4); err != nil || !slices.Equal(gone, jobs[1:2]) {
		t.Errorf("by size: %v, %v", gone, err)
	}
	if n, _, err := CountDamaged(filepath.Join(dir, "missing")); n != 0 || err != nil {
		t.Errorf("without a directory: %d, %v", n, err)
	}
}
