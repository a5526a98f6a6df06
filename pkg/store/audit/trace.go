package audit

import (
	"context"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Trace is what the audit log has about a user.
type Trace struct {
	Records     int
	First, Last time.Time // zero if there are none
}

// ReadTrace returns what the audit log in dir has about a user, or about one of the
// user's projects. It reads every record.
func ReadTrace(ctx context.Context, dir string, user dreamcore.UserID, project dreamcore.ProjectID) (t Trace, err error) {
	err = Read(ctx, dir, Filter{User: string(user)}, false, func(e Entry, _ []byte) error {
		if project != "" && e.Project != string(project) {
			return nil
		}
		if t.Records == 0 || e.Time.Before(t.First) {
			t.First = e.Time
		}
		if e.Time.After(t.Last) {
			t.Last = e.Time
		}
		t.Records++
		return ctx.Err()
	})
	return t, err
}
