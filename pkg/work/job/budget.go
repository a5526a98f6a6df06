package job

import (
	"errors"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
)

// meter returns the job's account in the books; nil without books. It is the
// same one for all runs: an account knows only what was spent through itself,
// so a second one would have the limits of a job once more.
func (j *job) meter() gateway.Meter {
	books := j.service.parts.Books
	if books == nil {
		return nil
	}
	if j.account == nil {
		j.account = books.Job(string(j.request.User), string(j.request.Project), j.id)
	}
	return j.account
}

// checkBudget refuses a job that could not ask the model for anything, before
// a sandbox is started for it.
func (j *job) checkBudget() error {
	if j.service.parts.Books == nil {
		return nil
	}
	err := j.service.parts.Books.Job(string(j.request.User), string(j.request.Project), j.id).Check()
	over, ok := errors.AsType[*dreamcore.OverBudget](err)
	if !ok {
		return err // the books cannot be kept, or nothing
	}
	j.service.parts.Audit.Record(audit.Entry{
		Event: audit.EventJob, Job: j.id, User: string(j.request.User), Project: string(j.request.Project),
		Verdict: audit.Refused, Reason: over.Error(),
	})
	return &failed{failure: dreamcore.Failure{Code: dreamcore.FailRateLimit, Spent: true}, err: over}
}
