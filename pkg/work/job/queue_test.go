package job

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
)

// generation is a generation of a queue that is restored.
type generation struct {
	slot *slot
	row  record.Row
}

// queue is an admission with a clock that moves with every step.
type queue struct {
	t    *testing.T
	adm  *admission
	rows *record.Store
	now  time.Time
	all  []*generation // that have not ended, in the order of their creation
}

func (q *queue) tick() time.Time {
	q.now = q.now.Add(time.Second)
	return q.now
}

// admitted notes who has been admitted meanwhile, and returns their names.
func (q *queue) admitted() (names []string) {
	q.t.Helper()
	for _, g := range q.all {
		if isIn(g.slot) && g.row.Started.IsZero() {
			g.row.Started = q.tick()
			names = append(names, g.row.Prompt)
		}
	}
	return names
}

// enter adds a generation; one that is refused changes nothing.
func (q *queue) enter(n int) {
	q.t.Helper()
	s, err := q.adm.enter(user(n))
	if err != nil {
		return
	}
	at := q.tick()
	q.all = append(q.all, &generation{s, record.Row{Job: dreamcore.Job{
		ID: uuid.NewString(), User: user(n), Project: project, Prompt: fmt.Sprintf("%d at %v", n, at.Unix()), Created: at,
	}}})
	q.admitted()
}

// end ends the generation that has run for longest, and returns who follows.
func (q *queue) end() []string {
	q.t.Helper()
	var first *generation
	for _, g := range q.all {
		if !g.row.Started.IsZero() && (first == nil || g.row.Started.Before(first.row.Started)) {
			first = g
		}
	}
	if first == nil {
		return nil
	}
	q.all = without(q.all, first)
	first.row.State = dreamcore.JobSucceeded
	if err := q.rows.Put(first.row); err != nil {
		q.t.Fatal(err)
	}
	first.slot.leave()
	return q.admitted()
}

// restored returns the queue of the next process.
func (q *queue) restored() *queue {
	q.t.Helper()
	next := &queue{t: q.t, adm: newAdmission(q.adm.limits), rows: q.rows, now: q.now}
	var back []comeback
	for _, g := range q.all {
		p := &past{row: g.row}
		if !g.row.Started.IsZero() {
			p.earlier.attempts = 1
		}
		back = append(back, comeback{past: p})
	}
	s := &Service{parts: Parts{Records: q.rows}}
	ran, waited, err := s.inOrder(back)
	if err != nil {
		q.t.Fatal(err)
	}
	slots := next.adm.restore(users(ran), users(waited))
	for i, c := range slices.Concat(ran, waited) {
		next.all = append(next.all, &generation{slots[i], c.row})
	}
	slices.SortFunc(next.all, func(a, b *generation) int { return a.row.Created.Compare(b.row.Created) })
	return next
}

// However the queue has come about, the next process admits in the order in which
// this one would have.
func TestARestoredQueueHasTheSameOrder(t *testing.T) {
	for round := range 30 {
		rows := must(record.Open(filepath.Join(t.TempDir(), "index.db"), record.Options{}))(t)
		q := &queue{t: t, adm: queueOf(1+rand.IntN(3), 12, 5), rows: rows, now: at(0)}
		for range 5 + rand.IntN(30) {
			if rand.IntN(3) > 0 {
				q.enter(rand.IntN(4))
			} else {
				q.end()
			}
		}
		next := q.restored()
		if got := next.admitted(); len(got) > 0 {
			t.Errorf("round %d: %v are admitted by the restart", round, got)
		}
		for i, g := range q.all {
			if got := positionOf(next.all[i].slot); got != positionOf(g.slot) {
				t.Errorf("round %d: %s has place %d, before %d", round, g.row.Prompt, got, positionOf(g.slot))
			}
		}
		for len(q.all) > 0 {
			want := q.end()
			if got := next.end(); !slices.Equal(got, want) {
				t.Fatalf("round %d: %v follow, want %v", round, got, want)
			}
		}
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
