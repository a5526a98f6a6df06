package usage

import (
	"context"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Spending returns what each user has spent this month (UTC).
func (l *Ledger) Spending() (map[dreamcore.UserID]dreamcore.Nano, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.advance(l.opts.Now()); err != nil {
		return nil, err
	}
	if err := l.catchUp(); err != nil {
		return nil, err
	}
	spent := make(map[dreamcore.UserID]dreamcore.Nano, len(l.users))
	for name, u := range l.users {
		spent[dreamcore.UserID(name)] = u.month.cost
	}
	return spent, nil
}

// ReadSpending is Ledger.Spending for a directory that is not open. A missing ledger
// is empty.
func ReadSpending(dir string, now time.Time) (map[dreamcore.UserID]dreamcore.Nano, error) {
	now = now.UTC()
	spent := map[dreamcore.UserID]dreamcore.Nano{}
	err := Read(dir, time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC), func(r Record) {
		spent[dreamcore.UserID(r.User)] = spent[dreamcore.UserID(r.User)].Add(r.Cost)
	})
	return spent, err
}

// Trace is what the ledger has about a user.
type Trace struct {
	Records     int
	First, Last time.Time // zero if there are none
	Cost        dreamcore.Nano
}

// ReadTrace returns what the ledger in dir has about a user, or about one of the
// user's projects. It reads every record.
func ReadTrace(ctx context.Context, dir string, user dreamcore.UserID, project dreamcore.ProjectID) (t Trace, err error) {
	err = Read(dir, time.Time{}, func(r Record) {
		if r.User != string(user) || project != "" && r.Project != string(project) {
			return
		}
		if t.Records == 0 || r.Time.Before(t.First) {
			t.First = r.Time
		}
		if r.Time.After(t.Last) {
			t.Last = r.Time
		}
		t.Records++
		t.Cost = t.Cost.Add(r.Cost)
	})
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return t, err
}
