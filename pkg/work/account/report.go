package account

import (
	"context"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
)

// Report lists the parts that a deletion has removed, and those that it keeps and why.
type Report struct {
	User      dreamcore.UserID    `json:"user_id"`
	Project   dreamcore.ProjectID `json:"project_id,omitempty"`
	Projects  int                 `json:"projects"`
	Versions  int                 `json:"versions"`
	Jobs      int                 `json:"jobs"`           // with their event logs
	Cancelled int                 `json:"cancelled_jobs"` // that were running or waiting
	Bytes     int64               `json:"bytes"`          // on disk, about
	Unblocked bool                `json:"unblocked,omitempty"`
	Kept      []Kept              `json:"kept"`
}

// Kept is what one of the logs of the operator keeps.
type Kept struct {
	Where   string            `json:"where"`
	Records int               `json:"records"`
	First   time.Time         `json:"first,omitzero"`
	Last    time.Time         `json:"last,omitzero"`
	Cost    dreamcore.Dollars `json:"cost_usd,omitempty"`
	Holds   string            `json:"holds"`
	Why     string            `json:"why"`
}

// addKept adds what the ledger and the audit log keep. Neither has a field for
// content.
func (s *Service) addKept(ctx context.Context, r *Report) error {
	ledger, err := usage.ReadTrace(ctx, s.parts.UsageDir, r.User, r.Project)
	if err != nil {
		return err
	}
	log, err := audit.ReadTrace(ctx, s.parts.AuditDir, r.User, r.Project)
	if err != nil {
		return err
	}
	r.Kept = []Kept{
		{
			Where: "ledger", Records: ledger.Records, First: ledger.First, Last: ledger.Last, Cost: dreamcore.Dollars(ledger.Cost),
			Holds: "times, ids, models, tokens and costs; no prompts, no file names, no content",
			Why:   "money that was spent stays accounted for, and the limits of the machine count it; kept for 90 days, and for the current month",
		},
		{
			Where: "audit log", Records: log.Records, First: log.First, Last: log.Last,
			Holds: "times, ids, addresses, sizes and verdicts; commands of operators as they typed them; no prompts, no files",
			Why:   "shows what reached the model and the network and what operators did, this deletion included; the oldest records are removed at audit_mib",
		},
	}
	return nil
}
