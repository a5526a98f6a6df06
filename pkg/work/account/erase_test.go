package account

import (
	"errors"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

func TestAProjectMustBeNamedToDeleteIt(t *testing.T) {
	r := newRig(t, t.TempDir(), 0)
	r.fill(t, alice, game, content)
	if _, err := r.DeleteProject(t.Context(), alice, ""); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("%v", err)
	}
	if p, err := r.Project(t.Context(), alice, game); err != nil || p.Files != 1 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestWhatHasOnlyJobsIsDeleted(t *testing.T) {
	r := newRig(t, t.TempDir(), 0)
	r.fillJob(t, alice, game, content)
	r.fillJob(t, bob, game, "of-bob")
	report, err := r.DeleteProject(t.Context(), alice, game)
	if err != nil || report.Jobs != 1 || report.Projects != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	r.wantNothing(t, string(alice), content)
	if _, err := r.DeleteProject(t.Context(), alice, game); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("again: %v", err)
	}
	if _, err := r.UserIDs(t.Context()); err != nil { // the list of logs is remembered
		t.Fatal(err)
	}
	r.fillJob(t, alice, game, content)
	if report, err = r.DeleteUser(t.Context(), alice); err != nil || report.Jobs != 1 {
		t.Errorf("%+v, %v", report, err)
	}
	r.wantNothing(t, string(alice), content)
	if u, err := r.User(t.Context(), bob); err != nil || u.Jobs != 1 {
		t.Errorf("%+v, %v", u, err)
	}
}

// A log may have no row, if the index is damaged.
func TestANewLogIsEnoughToDeleteItsUser(t *testing.T) {
	r := newRig(t, t.TempDir(), 0)
	if _, err := r.UserIDs(t.Context()); err != nil { // the list of logs is remembered
		t.Fatal(err)
	}
	r.fillJob(t, alice, game, content)
	rows, _, err := r.jobs.records.List(dreamcore.JobFilter{User: alice, Limit: 1}, nil)
	if err != nil || len(rows) != 1 {
		t.Fatal(rows, err)
	}
	if err := r.jobs.records.Remove(rows[0].ID); err != nil {
		t.Fatal(err)
	}
	var report Report
	if err := r.measure(t.Context(), volume.Erasure{User: alice}, &report); err != nil || report.Bytes == 0 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestNoDeletionBeginsAfterClose(t *testing.T) {
	r := newRig(t, t.TempDir(), 0)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for range 100 { // select chooses at random
		if _, _, err := r.begin(t.Context()); !errors.Is(err, errClosed) {
			t.Fatalf("%v", err)
		}
	}
}
