// Package jobs shows the jobs of a service to operators: as a table, which may be
// live, one by one, and event by event.
//
// A Source is where the jobs come from: the service of this machine, which answers
// on its control socket; any service over HTTP; or, while no service runs, the
// state directory, which is only read. source.go has the interface, and finds jobs
// by the beginning of their ids; local.go, remote.go and offline.go the sources;
// run.go submits a request, and cancels its job when it is interrupted; table.go,
// watch.go, details.go and events.go show what they return.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Reasons of errors.
const (
	ReasonUnknown   dreamcore.Reason = "jobs.unknown"   // no job has this id, or this beginning of one
	ReasonAmbiguous dreamcore.Reason = "jobs.ambiguous" // several jobs have ids that begin like this
)

// Reader reads jobs. The caller of a function that returns one must Close it.
type Reader interface {
	List(ctx context.Context, f dreamcore.JobFilter) (dreamcore.JobPage, error)
	Get(ctx context.Context, id string) (dreamcore.Job, error)
	// Events calls fn with each event of a job; with follow, until its end.
	Events(ctx context.Context, id string, follow bool, fn func(dreamcore.Event) error) error
	Close() error
}

// Source is a service that answers. Cancel returns the record of the job, which
// may not have ended yet. Retry returns the id of a new job with the same request.
type Source interface {
	Reader
	Cancel(ctx context.Context, id string) (dreamcore.Job, error)
	Retry(ctx context.Context, id string) (string, error)
}

const (
	idLength = len("123e4567-e89b-42d3-a456-426614174000")
	// minPrefix is the least that has to be typed of an id.
	minPrefix = 4
	// searchedPages bounds the search for a prefix: of the last 10,000 jobs.
	searchedPages = 10
)

// Find returns the record of the job whose id is given, or begins with prefix.
func Find(ctx context.Context, r Reader, prefix string) (dreamcore.Job, error) {
	prefix = strings.ToLower(strings.TrimSpace(prefix))
	if len(prefix) == idLength {
		id, err := dreamcore.ParseJobID(prefix)
		if err != nil {
			return dreamcore.Job{}, err
		}
		return r.Get(ctx, id)
	}
	if len(prefix) < minPrefix || len(prefix) > idLength || strings.Trim(prefix, "0123456789abcdef-") != "" {
		return dreamcore.Job{}, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Reason: ReasonUnknown, Message: fmt.Sprintf("%.64q is not the id of a job", prefix),
			Hint: fmt.Sprintf("use a whole id, or at least its first %d characters", minPrefix),
		}
	}
	found, err := begin(ctx, r, prefix)
	if err != nil {
		return dreamcore.Job{}, err
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return dreamcore.Job{}, &dreamcore.Error{Code: dreamcore.CodeNotFound, Reason: ReasonUnknown, Message: "no job has an id that begins with " + prefix}
	}
	ids := make([]string, len(found))
	for i, j := range found {
		ids[i] = j.ID
	}
	return dreamcore.Job{}, &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Reason: ReasonAmbiguous, Message: "several jobs have ids that begin with " + prefix,
		Hint: "add more of the id: " + strings.Join(ids[:min(len(ids), 5)], ", "),
	}
}

// WithJob calls do with the job whose id begins with prefix, and closes r.
func WithJob[R Reader](ctx context.Context, r R, prefix string, do func(r R, j dreamcore.Job) error) error {
	j, err := Find(ctx, r, prefix)
	if err == nil {
		err = do(r, j)
	}
	return errors.Join(err, r.Close())
}

// begin returns the recent jobs whose ids begin with prefix.
func begin(ctx context.Context, r Reader, prefix string) (found []dreamcore.Job, err error) {
	f := dreamcore.JobFilter{Limit: dreamcore.MaxPage}
	for range searchedPages {
		page, err := r.List(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, j := range page.Jobs {
			if strings.HasPrefix(j.ID, prefix) {
				found = append(found, j)
			}
		}
		if f.Cursor = page.Next; page.Next == "" {
			break
		}
	}
	return found, nil
}

// Collect returns the first limit jobs that f selects; more reports whether there
// are others.
func Collect(ctx context.Context, r Reader, f dreamcore.JobFilter, limit int) (all []dreamcore.Job, more bool, err error) {
	for f.Limit = min(limit, dreamcore.MaxPage); ; f.Limit = min(limit-len(all), dreamcore.MaxPage) {
		page, err := r.List(ctx, f)
		if err != nil {
			return nil, false, err
		}
		all = append(all, page.Jobs...)
		if f.Cursor = page.Next; page.Next == "" || len(all) >= limit {
			return all, page.Next != "", nil
		}
	}
}
