package job

import (
	"errors"
	"fmt"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
)

// meter returns the job's account in the ledger; nil without a ledger. All runs
// of the job share it: an account counts only its own spending, so a second one
// would allow the limits of a job once more.
func (j *job) meter() gateway.Meter {
	if j.service.parts.Ledger == nil {
		return nil
	}
	if j.account == nil {
		j.account = j.service.parts.Ledger.Job(string(j.request.User), string(j.request.Project), j.id)
	}
	return j.account
}

// carryOver counts what the earlier attempts have spent.
func (j *job) carryOver() (err error) {
	if j.earlier.attempts == 0 {
		return nil
	}
	sum := &j.summary
	sum.Metered = true
	j.account, sum.Tokens, sum.Cost, err = j.service.spent(j.live.user, j.request.Project, j.id, j.live.created(), j.earlier)
	return err
}

// spent returns what the attempts of a job have spent, and its account in the ledger;
// nil without one. A crash leaves no note of it in the log, so the ledger is asked;
// with an error, what the log says is returned.
func (s *Service) spent(user dreamcore.UserID, project dreamcore.ProjectID, id string, created time.Time, e earlier) (*usage.Job, dreamcore.Tokens, dreamcore.Nano, error) {
	if s.parts.Ledger == nil || e.attempts == 0 {
		return nil, e.tokens, e.cost, nil
	}
	account, tokens, cost, err := s.parts.Ledger.Resume(string(user), string(project), id, created)
	if err != nil {
		return nil, e.tokens, e.cost, fmt.Errorf("count what the earlier attempts have spent: %w", err)
	}
	return account, tokens, cost, nil
}

// checkBudget refuses a job that could not ask the model anything, before a
// sandbox is started for it.
func (j *job) checkBudget() error {
	if j.service.parts.Ledger == nil {
		return nil
	}
	j.meter()
	err := j.account.Check()
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
