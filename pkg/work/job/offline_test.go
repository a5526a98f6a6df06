package job

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
)

// Jobs with and without a row are listed together, in order, and nothing changes.
func TestJobsAreReadWithoutAService(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "jobs")
	o, err := OpenOffline(dir, "index.db")
	if err != nil {
		t.Fatal(err)
	}
	if page, err := o.List(dreamcore.JobFilter{}); err != nil || len(page.Jobs) != 0 {
		t.Errorf("without a directory: %v, %v", page, err)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	ids := []string{"11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000002", "33333333-0000-4000-8000-000000000003"}
	logs, err := journal.Open(dir, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	index, err := record.Open(filepath.Join(dir, "index.db"), record.Options{})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	for i, id := range ids {
		n := jobNote{At: began.Add(time.Duration(i) * time.Minute), User: "a11ce000-0000-4000-8000-000000000001", Project: "b0b00000-0000-4000-8000-000000000002", Prompt: "a game"}
		log, err := logs.Create(id)
		if err != nil {
			t.Fatal(err)
		}
		if err := log.Note(note{Job: &n}.encode()); err != nil {
			t.Fatal(err)
		}
		if _, err := log.Append(dreamcore.DoneEvent()); err != nil {
			t.Fatal(err)
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		if i != 1 { // a command has made this one
			row := newRow(id, n)
			row.State = dreamcore.JobSucceeded
			if err := index.Put(row); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := OpenOffline(dir, "index.db"); dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("while the index is in use: %v", err)
	}
	if err := index.Close(); err != nil {
		t.Fatal(err)
	}
	if err := logs.Close(); err != nil {
		t.Fatal(err)
	}
	if o, err = OpenOffline(dir, "index.db"); err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var listed []string
	for f := (dreamcore.JobFilter{Limit: 2, State: dreamcore.JobSucceeded}); ; {
		page, err := o.List(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range page.Jobs {
			listed = append(listed, j.ID)
		}
		if f.Cursor = page.Next; page.Next == "" {
			break
		}
	}
	if len(listed) != 3 || listed[0] != ids[2] || listed[1] != ids[1] || listed[2] != ids[0] {
		t.Errorf("listed: %v", listed)
	}
	for _, id := range ids {
		if j, err := o.Get(id); err != nil || j.ID != id {
			t.Errorf("%s: %v, %v", id, j.ID, err)
		}
	}
	if r, err := o.Reader(ids[1], 0); err != nil {
		t.Error(err)
	} else if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := o.Get("44444444-0000-4000-8000-000000000004"); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("an unknown job: %v", err)
	}
	// A service can start meanwhile: it waits for no reader.
	if index, err = record.Open(filepath.Join(dir, "index.db"), record.Options{}); err != nil {
		t.Fatalf("a reader has the index open: %v", err)
	}
	if _, err := o.List(dreamcore.JobFilter{}); dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("while a service has the index open: %v", err)
	}
	if err := index.Close(); err != nil {
		t.Fatal(err)
	}
	if page, err := o.List(dreamcore.JobFilter{}); err != nil || len(page.Jobs) != 3 {
		t.Errorf("afterwards: %+v, %v", page, err)
	}
}
