package cells

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation"
)

// Mover moves users and slots. A move passes these steps:
//
//	begin    the map says that the subject moves: routers hold its changes
//	hold     the source refuses changes, and its jobs end
//	copy     each user from the source to the target
//	flip     the map names the target: from now on the move only goes forward
//	release  the source answers nothing any more
//	accept   the target takes changes, and jobs that were cut go on
//	end      the map no longer says that the subject moves
//
// Each step looks at the map and the cells, not at what an earlier process has done. So
// a move that was killed is finished by repeating it.
type Mover struct {
	Maps Maps
	Cell func(ctx context.Context, name string) (Cell, error)
	Wait time.Duration // for jobs that run; then the move is undone
	Cut  bool          // jobs that run are cut at once, and go on in the target
	// Settle is how long routers may take to see the map.
	Settle time.Duration
	// Progress is called with each step; may be nil.
	Progress func(Progress)

	reached func(step string) error // called after each step; for tests
}

// Progress is where a move is.
type Progress struct {
	Subject residence.Subject
	Step    string // as above
	Running int    // jobs that hold waits for
	Copied  int    // users
	Users   int
	Bytes   int64 // of the archive that is being copied
}

// Result is a move that has ended.
type Result struct {
	Subject string        `json:"subject"`
	From    string        `json:"from,omitempty"` // "" if it was there already
	To      string        `json:"to"`
	Users   int           `json:"users"` // that were copied
	Bytes   int64         `json:"bytes"` // of their archives
	Took    time.Duration `json:"-"`
	Seconds float64       `json:"seconds"`
	// LeftOut are files that this call did not copy, at most maxLeftOut, and LeftOutMore is
	// the number of further notes.
	LeftOut     []LeftOut `json:"left_out,omitempty"`
	LeftOutMore int       `json:"left_out_more,omitempty"`
}

// maxLeftOut bounds the notes of a move: players choose how many there are.
const maxLeftOut = 200

// LeftOut is a note about a file that was not copied: it exceeds limits, or may not be
// read. It stays for a day in the cell that the user has left.
type LeftOut struct {
	User dreamcore.UserID `json:"user"`
	Note string           `json:"note"`
}

const (
	// DefaultWait is longer than a job takes.
	DefaultWait = 10 * time.Minute
	// DefaultSettle is longer than routers take to see a change of the map.
	DefaultSettle = 200 * time.Millisecond

	swapPause = 50 * time.Millisecond
	holdSlice = 5 * time.Second // of one request
	undoLimit = 5 * time.Minute
	maxTries  = 50 // of a compare-and-swap
)

// move is one move.
type move struct {
	*Mover
	subject  residence.Subject
	from, to string
	began    bool   // by this process
	id       string // of the move, in both cells; "" until the source has told it
	progress Progress
	result   Result
	status   relocation.Status // of the source
}

// Move moves a user or a slot to a cell. Before the map names the target, an error undoes
// a move that this call has begun; a move that another process has begun goes on at its
// next step. CodeConflict: the subject is being moved elsewhere, or an error of a cell.
func (v *Mover) Move(ctx context.Context, subject residence.Subject, to string) (Result, error) {
	began := time.Now()
	m := &move{Mover: v, subject: subject, to: to, progress: Progress{Subject: subject}, result: Result{Subject: subject.String(), To: to}}
	err := m.run(ctx)
	m.result.From, m.result.Took = m.from, time.Since(began)
	m.result.Seconds = m.result.Took.Seconds()
	return m.result, err
}

func (m *move) run(ctx context.Context) error {
	flipped, err := m.begin(ctx)
	if err != nil { // the map may say that the subject moves all the same
		return m.failed(ctx, err)
	}
	if m.from == "" {
		return nil
	}
	if !flipped {
		err = m.leadToFlip(ctx)
	}
	if err != nil {
		return m.failed(ctx, err)
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"release", m.release}, {"accept", m.accept}, {"end", m.end}} {
		if err := m.step(ctx, step.name, step.do); err != nil {
			return fmt.Errorf("%s lives in %s now, but the move has not ended; run the command again: %w", m.subject, m.to, err)
		}
	}
	return nil
}

func (m *move) leadToFlip(ctx context.Context) error {
	if err := pause(ctx, m.Settle); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"hold", m.hold}, {"copy", m.copy}, {"flip", m.flip}} {
		if err := m.step(ctx, step.name, step.do); err != nil {
			return err
		}
	}
	return nil
}

func (m *move) step(ctx context.Context, name string, do func(context.Context) error) error {
	m.show(func(p *Progress) { p.Step = name })
	err := do(ctx)
	if err == nil && m.reached != nil {
		err = m.reached(name)
	}
	return err
}

func (m *move) show(change func(*Progress)) {
	change(&m.progress)
	if m.Progress != nil {
		m.Progress(m.progress)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// errKilled makes a test leave a move as a killed process does.
var errKilled = errors.New("killed")
