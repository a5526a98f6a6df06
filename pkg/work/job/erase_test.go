package job

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
)

const (
	jobA = "33333333-3333-4333-8333-33333333333a"
	jobB = "33333333-3333-4333-8333-33333333333b"
	jobC = "33333333-3333-4333-8333-33333333333c"
)

// left makes the log of a job that has ended.
func (r *rig) left(id string, owner dreamcore.UserID, events ...dreamcore.Event) {
	r.t.Helper()
	log := must(r.parts.Journal.Create(id))(r.t)
	log.SetOwner(owner)
	for _, e := range append(events, dreamcore.DoneEvent()) {
		must(log.Append(e))(r.t)
	}
	if err := log.Close(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) damage(id string) {
	r.t.Helper()
	files := must(filepath.Glob(filepath.Join(r.dir, "jobs", id+"*")))(r.t)
	if len(files) != 1 {
		r.t.Fatalf("%q", files)
	}
	if err := os.WriteFile(files[0], []byte(strings.Repeat("x", 2*dreamcore.MaxEventBytes)+"\n"), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func TestADamagedLogStopsNoDeletion(t *testing.T) {
	r := newRig(t, options{})
	r.left(jobA, alice)
	r.left(jobB, alice)
	r.left(jobC, "") // of an unknown user
	r.damage(jobA)
	r.damage(jobC)
	if _, err := r.service.Erase(t.Context(), alice, project); err != nil {
		t.Errorf("a project: %v", err)
	}
	if n, err := r.service.Erase(t.Context(), alice, ""); n != 2 || err != nil {
		t.Errorf("erased %d: %v", n, err)
	}
	if left := must(r.parts.Journal.Jobs())(t); len(left) != 1 || left[0] != jobC || !strings.Contains(r.log.String(), jobC) {
		t.Errorf("%q\n%s", left, r.log)
	}
}

// Earlier versions of this program noted no project.
func TestTheJobsOfAnErasedProjectAreFoundByItsDirectory(t *testing.T) {
	const another = "00000000-0000-4000-8000-000000000009"
	in := func(project string) dreamcore.Event {
		return dreamcore.Event(`{"type":"system","subtype":"init","cwd":"/data/users/` + string(alice) + `/projects/` + project + `"}`)
	}
	for name, indexed := range map[string]bool{"with rows": true, "without rows": false} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, options{})
			r.left(jobA, alice, in(string(project)), in(another))
			r.left(jobB, alice, in(another), in(string(project)))
			r.left(jobC, alice)
			for _, id := range []string{jobA, jobB, jobC} {
				if !indexed {
					break
				}
				if err := r.parts.Records.Put(record.Row{Job: dreamcore.Job{ID: id, User: alice, State: dreamcore.JobSucceeded, Created: at(0)}}); err != nil {
					t.Fatal(err)
				}
			}
			if n, err := r.service.Erase(t.Context(), alice, project); n != 1 || err != nil {
				t.Errorf("erased %d: %v", n, err)
			}
			if left := must(r.parts.Journal.Jobs())(t); len(left) != 2 || left[0] == jobA || left[1] == jobA {
				t.Errorf("%q", left)
			}
		})
	}
}

// A rebuild of the index reads logs, and writes their rows later.
func TestRowsOfErasedJobsDoNotComeBack(t *testing.T) {
	r := newRig(t, options{})
	r.left(jobA, alice, dreamcore.Event(`{"type":"system","cwd":"/data/users/`+string(alice)+`/projects/`+string(project)+`"}`))
	r.left(jobB, bob)
	var rows []record.Row
	for _, id := range []string{jobA, jobB} {
		rows = append(rows, must(r.service.read(id, time.Time{}))(t).row)
	}
	if n, err := r.service.Erase(t.Context(), alice, ""); n != 1 || err != nil {
		t.Fatalf("erased %d: %v", n, err)
	}
	if err := r.service.putRead(rows); err != nil {
		t.Fatal(err)
	}
	if _, err := r.parts.Records.Get(jobA); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("the erased job has a row again: %v", err)
	}
	if _, err := r.parts.Records.Get(jobB); err != nil {
		t.Errorf("the other job has no row: %v", err)
	}
}
