package job

import (
	"errors"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
)

// meter returns the job's account in the ledger; nil without a ledger. All runs
// of the job share it: an account counts only its own spending, so a second one
// would allow the limits of a job once more.
func (j *job) meter() gateway.Meter {
	ledger := j.service.parts.Ledger
	if ledger == nil {
		return nil
	}
	if j.account == nil {
		j.account = ledger.Job(string(j.request.User), string(j.request.Project), j.id)
	}
	return j.account
}

// checkBudget refuses a job that could not ask the model anything, before a
// sandbox is started for it.
func (j *job) checkBudget() error {
	if j.service.parts.Ledger == nil {
		return nil
	}
	err := j.service.parts.Ledger.Job(string(j.request.User), string(j.request.Project), j.id).Check()
	over, ok := errors.AsType[*dreamcore.OverBudget](err)
	if !ok {
		return err // nil, or a ledger that cannot be written
	}
	j.service.parts.Audit.Record(audit.Entry{
		Event: audit.EventJob, Job: j.id, User: string(j.request.User), Project: string(j.request.Project),
		Verdict: audit.Refused, Reason: over.Error(),
	})
	return &stageError{stage: stageBudget, err: over}
}
