// Package account is what an operator does with users and projects as a whole: list
// them, find the user of a project, block a user, and delete users and projects.
//
// A deletion is complete and survives a crash: it is noted on the disk first
// (volume.BeginErase), from then on nothing of the user or project can be opened or
// made, and Resume completes it. What the ledger and the audit log keep is in the
// Report.
//
// The files: account.go admits and blocks users, user.go and project.go list, erase.go
// deletes, report.go reports the deletion.
package account

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/block"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// Jobs lists, ends and erases jobs; *job.Service implements it and documents the
// errors. project may be "", for all of the user's jobs.
type Jobs interface {
	List(f dreamcore.JobFilter) (dreamcore.JobPage, error)
	End(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (ended int, err error)
	Erase(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (erased int, err error)
}

// Sandboxes are the sandboxes of users; *workspace.Pool implements it.
type Sandboxes interface {
	List() []workspace.Info
	Stop(ctx context.Context, name string) error // CodeNotFound for an unknown name
	// Renew closes the user's idle sandbox, or the one in use as soon as its job ends.
	Renew(ctx context.Context, user dreamcore.UserID) error
}

// Parts are the components that a Service uses. The caller closes them after the
// Service.
type Parts struct {
	Volumes   *volume.Store
	History   *history.Store
	Blocks    *block.Store
	Logs      *journal.Store // of jobs; nil if the Service only reads and there were none
	Jobs      Jobs           // nil if the Service only reads
	Sandboxes Sandboxes      // nil if none run
	// Spending returns what each user has spent this month.
	Spending func() (map[dreamcore.UserID]dreamcore.Nano, error)

	Residence *residence.Store // which users live in other cells; nil: none

	// Forget removes what other components keep of a project, or of a user if project
	// is "": the status of imports, and webhook messages that wait. It may be nil.
	Forget func(user dreamcore.UserID, project dreamcore.ProjectID) error

	UsageDir, AuditDir string     // of the ledger and the audit log, for reports
	Audit              *audit.Log // may be nil
	Logger             *slog.Logger
}

// Service is safe for concurrent use.
type Service struct {
	parts Parts
	log   *slog.Logger

	run    context.Context // parent of deletions
	cancel context.CancelFunc
	wg     sync.WaitGroup
	turn   chan struct{} // a mutex with a deadline: deletions take turns

	mu   sync.Mutex
	logs logUsage // guarded by mu

	reached func(step string) // called before each step of a deletion; for tests
}

// New returns a Service. The caller must Close it.
func New(parts Parts) *Service {
	if parts.Logger == nil {
		parts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{parts: parts, log: parts.Logger, turn: make(chan struct{}, 1), reached: func(string) {}}
	s.run, s.cancel = context.WithCancel(context.Background())
	return s
}

// Close ends the running deletions, which the next Resume completes. It may be called
// more than once.
func (s *Service) Close() error {
	s.mu.Lock() // no deletion begins between cancel and Wait
	s.cancel()
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// Admit returns why nothing new may be made for a user, or in one of the user's
// projects, at the moment: CodeBlocked, CodeConflict during a deletion, or CodeMoving
// if the user moves between cells. project may be "".
func (s *Service) Admit(user dreamcore.UserID, project dreamcore.ProjectID) error {
	if s.parts.Residence != nil {
		if err := s.parts.Residence.CheckChange(user); err != nil {
			return err
		}
	}
	if err := s.parts.Blocks.Check(user); err != nil {
		return err
	}
	return s.parts.Volumes.CheckErasing(user, project)
}

// Blocked is the result of Block and Unblock.
type Blocked struct {
	User      dreamcore.UserID `json:"user_id"`
	Blocked   bool             `json:"blocked"`
	Since     time.Time        `json:"since,omitzero"`
	Reason    string           `json:"reason,omitempty"`
	Cancelled int              `json:"cancelled_jobs"` // by this call
}

// Block blocks a user, who need not exist, at once: nothing new is made for the user,
// also after a restart. It cancels the user's jobs, waits for their end, and closes
// the sandbox. The user's games stay and can be played. Errors of block.Store.Set; any
// other error means that the user is blocked, but jobs may still be ending.
func (s *Service) Block(ctx context.Context, user dreamcore.UserID, reason string) (b Blocked, err error) {
	defer func() { s.audit(user, "", "block", err) }()
	set, err := s.parts.Blocks.Set(user, reason, time.Now())
	if err != nil {
		return b, err
	}
	b = Blocked{User: user, Blocked: true, Since: set.Since, Reason: set.Reason}
	if s.parts.Jobs == nil {
		return b, nil
	}
	if b.Cancelled, err = s.parts.Jobs.End(ctx, user, ""); err != nil {
		return b, err
	}
	return b, s.closeSandbox(ctx, user)
}

// Unblock removes the block of a user. A user who is not blocked is no error.
func (s *Service) Unblock(user dreamcore.UserID) (b Blocked, err error) {
	_, err = s.parts.Blocks.Remove(user)
	s.audit(user, "", "unblock", err)
	return Blocked{User: user}, err
}

func (s *Service) closeSandbox(ctx context.Context, user dreamcore.UserID) error {
	if s.parts.Sandboxes == nil {
		return nil
	}
	err := s.parts.Sandboxes.Stop(ctx, workspace.Name(user))
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return nil
	}
	return err
}

// audit records what an operator has done. The reasons of errors may name files.
func (s *Service) audit(user dreamcore.UserID, project dreamcore.ProjectID, action string, err error) {
	e := audit.Entry{Event: audit.EventOperator, User: string(user), Project: string(project), Target: action, Verdict: audit.Allowed}
	if err != nil {
		e.Verdict, e.Reason = audit.Failed, string(dreamcore.CodeOf(err))
	}
	s.parts.Audit.Record(e)
}

// errClosed is the cause of a deletion that Close has ended.
var errClosed = &dreamcore.Error{
	Code: dreamcore.CodeBusy, Message: "the service is stopping",
	Hint: "a deletion that has begun is completed when the service has started again",
}
