package daemon

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/block"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/work/account"
	"github.com/notef-neighbor/dreamcore/pkg/work/archive"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
	"github.com/notef-neighbor/dreamcore/pkg/work/webhook"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// openAccounts opens what manages users and projects. It comes after the jobs.
func (m *Machine) openAccounts() {
	m.accounts = account.New(account.Parts{
		Volumes: m.state.Volumes, History: m.history, Blocks: m.blocks, Logs: m.Journal, Jobs: m.Jobs,
		Sandboxes: m.workspaces, Spending: m.ledger.Spending, Forget: m.forget, Residence: m.state.residence,
		UsageDir: m.state.Path(UsageDir), AuditDir: m.state.Path(AuditDir), Audit: m.audit, Logger: m.log,
	})
}

// forget removes what other components keep of a user or a project that is deleted.
func (m *Machine) forget(user dreamcore.UserID, project dreamcore.ProjectID) error {
	err := m.state.forgetImports(user, project)
	if m.webhooks != nil {
		return errors.Join(err, m.webhooks.Forget(user, project))
	}
	return errors.Join(err, webhook.Forget(m.state.Path(webhooksDir), user, project, m.log))
}

func (s *State) forgetImports(user dreamcore.UserID, project dreamcore.ProjectID) error {
	return archive.Forget(s.Config.State, user, project)
}

// admit returns why a user must not have a job in a project now, or nil.
func (m *Machine) admit(user dreamcore.UserID, project dreamcore.ProjectID) error {
	if err := m.state.residence.CheckChange(user); err != nil {
		return err
	}
	if err := m.blocks.Check(user); err != nil {
		return err
	}
	return m.state.Volumes.CheckErasing(user, project)
}

// eraseInterval is how often deletions are tried again that have failed.
const eraseInterval = time.Minute

// eraseAgain completes deletions that an earlier process has left or that have failed,
// until ctx ends. Nothing that is being deleted is served or run meanwhile.
func (m *Machine) eraseAgain(ctx context.Context) {
	tick := time.NewTicker(eraseInterval)
	defer tick.Stop()
	for {
		if err := m.accounts.Resume(ctx); err != nil && ctx.Err() == nil {
			m.log.Error("a user or project is not deleted completely; it is tried again", "error", err)
		}
		m.eraseLeft(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Accounts manages the users and projects of a state directory whose service does not
// run.
type Accounts struct {
	*account.Service
	undo teardown
}

// OpenAccounts opens the users and projects. With write, they can be changed: then
// it fails with CodeConflict if a service runs on the state directory, and keeps one
// from starting. sandboxes may be nil. The caller must Close it before the state.
func (s *State) OpenAccounts(write bool, sandboxes account.Sandboxes, log *slog.Logger) (_ *Accounts, err error) {
	a := &Accounts{}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if write {
		if err = new(Service).lock(s); err != nil {
			return nil, err
		}
		a.undo.addClose(func() error { s.release(); return nil })
	}
	parts := account.Parts{
		Volumes: s.Volumes, Sandboxes: sandboxes, Residence: s.residence, Forget: func(user dreamcore.UserID, project dreamcore.ProjectID) error {
			return errors.Join(s.forgetImports(user, project), webhook.Forget(s.Path(webhooksDir), user, project, log))
		}, UsageDir: s.Path(UsageDir), AuditDir: s.Path(AuditDir), Logger: log,
		Spending: func() (map[dreamcore.UserID]dreamcore.Nano, error) {
			return usage.ReadSpending(s.Path(UsageDir), time.Now())
		},
	}
	if parts.History, err = s.OpenHistory(log); err != nil {
		return nil, err
	}
	openBlocks := block.Open
	if !write {
		openBlocks = block.Look
	}
	if parts.Blocks, err = openBlocks(s.Path(blocksDir)); err != nil {
		return nil, err
	}
	a.undo.addClose(parts.Blocks.Close)
	if _, err := os.Stat(s.Path(JobsDir)); write || !errors.Is(err, fs.ErrNotExist) { // to read, there are no logs without it
		if parts.Logs, err = journal.Open(s.Path(JobsDir), journal.Options{}); err != nil {
			return nil, err
		}
		a.undo.addClose(parts.Logs.Close)
	}
	if write {
		if err = a.openJobs(s, &parts, log); err != nil {
			return nil, err
		}
	}
	a.Service = account.New(parts)
	a.undo.addClose(a.Service.Close)
	return a, nil
}

// openJobs opens what a deletion needs besides: the index of jobs and the audit log.
func (a *Accounts) openJobs(s *State, parts *account.Parts, log *slog.Logger) (err error) {
	var trail *audit.Log
	if trail, err = s.OpenAudit(log); err != nil {
		return err
	}
	a.undo.addClose(trail.Close)
	records, err := record.Open(filepath.Join(s.Path(JobsDir), IndexFile), record.Options{})
	if err != nil {
		return err
	}
	a.undo.addClose(records.Close)
	jobs := job.New(job.Parts{Volumes: s.Volumes, History: parts.History, Journal: parts.Logs, Records: records, Logger: log}, job.Settings{})
	a.undo.addClose(func() error { jobs.Close(context.Background()); return nil })
	parts.Audit, parts.Jobs = trail, jobs
	return nil
}

// Close closes the accounts. It may be called more than once.
func (a *Accounts) Close() error { return a.undo.run(context.Background()) }

// ListedSandboxes are sandboxes of another process, which are only listed.
type ListedSandboxes []workspace.Info

// List implements account.Sandboxes.
func (l ListedSandboxes) List() []workspace.Info { return l }

// Renew implements account.Sandboxes. A sandbox of another process is left: a service
// that runs deletes by itself.
func (l ListedSandboxes) Renew(context.Context, dreamcore.UserID) error { return nil }

// Stop implements account.Sandboxes.
func (l ListedSandboxes) Stop(context.Context, string) error {
	return &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the sandbox belongs to the running service", Hint: "ask the service to stop it"}
}
