package account

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// eraseLimit bounds a deletion; what it has not removed by then, Resume does.
const eraseLimit = 5 * time.Minute

// DeleteUser removes everything of a user: files, versions, conversations, event logs
// and records of jobs, the disk, the block. It cancels the user's jobs first and
// closes the sandbox. It goes on if ctx ends. CodeNotFound: there is nothing of the
// user; CodeMoving: the user moves between cells. After any other error the user stays invisible, and Resume completes the
// deletion.
func (s *Service) DeleteUser(ctx context.Context, user dreamcore.UserID) (Report, error) {
	return s.delete(ctx, volume.Erasure{User: user})
}

// DeleteProject is DeleteUser for one project.
func (s *Service) DeleteProject(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (Report, error) {
	if project == "" { // it would be everything of the user
		return Report{}, noProject(project)
	}
	return s.delete(ctx, volume.Erasure{User: user, Project: project})
}

// Resume completes the deletions that a crash or an error has left. The error names
// those that it could not complete.
func (s *Service) Resume(ctx context.Context) error {
	all, err := s.parts.Volumes.Erasing()
	errs := []error{err}
	for _, e := range all {
		if err := s.resume(ctx, e); err != nil {
			errs = append(errs, fmt.Errorf("delete %s: %w", describe(e), err))
		}
	}
	return errors.Join(errs...)
}

func (s *Service) resume(ctx context.Context, e volume.Erasure) error {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	// It may have ended while this one waited for its turn.
	if s.parts.Volumes.CheckErasing(e.User, e.Project) == nil {
		return nil
	}
	var r Report
	if err := s.erase(ctx, e, &r); err != nil {
		return err
	}
	s.log.Info("completed a deletion", "user", string(e.User), "project", string(e.Project), "jobs", r.Jobs)
	return nil
}

func describe(e volume.Erasure) string {
	if e.Project == "" {
		return "user " + string(e.User)
	}
	return fmt.Sprintf("project %s of user %s", e.Project, e.User)
}

// begin waits for the turn of a deletion. The context that it returns outlives ctx.
func (s *Service) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	case <-s.run.Done():
		return nil, nil, errClosed
	}
	s.mu.Lock()
	if s.run.Err() != nil { // select may have preferred the turn
		s.mu.Unlock()
		<-s.turn
		return nil, nil, errClosed
	}
	s.wg.Add(1)
	s.mu.Unlock()
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(s.run, func() { cancel(errClosed) })
	ctx, release := context.WithTimeout(ctx, eraseLimit)
	return ctx, func() {
		release()
		stop()
		cancel(nil)
		<-s.turn
		s.wg.Done()
	}, nil
}

func (s *Service) delete(ctx context.Context, e volume.Erasure) (r Report, err error) {
	if s.parts.Jobs == nil {
		return r, errors.New("account: this service only reads")
	}
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return r, err
	}
	defer end()
	if s.parts.Residence != nil { // the user may have moved while this one waited for its turn
		if err := s.parts.Residence.CheckChange(e.User); err != nil {
			return r, err
		}
	}
	r = Report{User: e.User, Project: e.Project}
	if err := s.measure(ctx, e, &r); err != nil {
		return r, err
	}
	defer func() { s.audit(e.User, e.Project, "delete", err) }()
	s.reached("begin")
	if err := s.parts.Volumes.BeginErase(ctx, e); err != nil {
		return r, err
	}
	if err := s.erase(ctx, e, &r); err != nil {
		return r, err
	}
	s.log.Info("deleted "+describe(e), "jobs", r.Jobs, "cancelled", r.Cancelled, "bytes", r.Bytes)
	return r, s.addKept(ctx, &r)
}

// EraseCopy is DeleteUser for the remaining copy of a user who lives in another cell, or a
// copy that was not completed. It is no error if there is nothing.
func (s *Service) EraseCopy(ctx context.Context, user dreamcore.UserID) (err error) {
	if s.parts.Jobs == nil {
		return errors.New("account: this service only reads")
	}
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	defer func() { s.audit(user, "", "erase copy", err) }()
	e := volume.Erasure{User: user}
	if err := s.parts.Volumes.BeginErase(ctx, e); err != nil {
		return err
	}
	return s.erase(ctx, e, &Report{})
}

// erase removes everything of an erasure that has begun. Each step may be repeated.
// The order matters: what could write ends first; the locks of projects, which keep
// other processes out, go with the files; the note of the erasure goes last.
func (s *Service) erase(ctx context.Context, e volume.Erasure, r *Report) (err error) {
	s.reached("end jobs")
	if r.Cancelled, err = s.parts.Jobs.End(ctx, e.User, e.Project); err != nil {
		return err
	}
	s.reached("close sandbox")
	if err := s.endSandbox(ctx, e); err != nil {
		return err
	}
	s.reached("lock")
	unlock, err := s.parts.Volumes.LockErased(ctx, e)
	if err != nil {
		return err
	}
	defer unlock()
	s.reached("jobs")
	if r.Jobs, err = s.parts.Jobs.Erase(ctx, e.User, e.Project); err != nil {
		return err
	}
	s.forgetLogs()
	s.reached("versions")
	if err := s.parts.History.Erase(ctx, e.User, e.Project); err != nil {
		return err
	}
	s.reached("files")
	if err := s.parts.Volumes.RemoveErased(ctx, e); err != nil {
		return err
	}
	if e.Project != "" { // one that was started meanwhile has seen the files
		if err := s.endSandbox(ctx, e); err != nil {
			return err
		}
	}
	s.reached("forget")
	if s.parts.Forget != nil {
		if err := s.parts.Forget(e.User, e.Project); err != nil {
			return err
		}
	}
	s.reached("block")
	if e.Project == "" {
		if r.Unblocked, err = s.parts.Blocks.Remove(e.User); err != nil {
			return err
		}
	}
	s.reached("end")
	if err := s.parts.Volumes.EndErase(e); err != nil {
		return err
	}
	s.reached("ended")
	return nil
}

// endSandbox closes the user's sandbox. It may hold what it has seen of a project in
// memory, and processes that began there: an idle one is closed with the project, too.
// One in which a job of another project runs is closed when that job has ended: its
// agent could read all projects of its user as long as they existed.
func (s *Service) endSandbox(ctx context.Context, e volume.Erasure) error {
	if e.Project == "" {
		return s.closeSandbox(ctx, e.User)
	}
	if s.parts.Sandboxes == nil {
		return nil
	}
	return s.parts.Sandboxes.Renew(ctx, e.User)
}

// measure fills in how much will be deleted, or returns CodeNotFound.
func (s *Service) measure(ctx context.Context, e volume.Erasure, r *Report) error {
	if s.parts.Volumes.CheckErasing(e.User, e.Project) != nil {
		return nil // a deletion that was interrupted goes on
	}
	if e.Project != "" {
		p, err := s.Project(ctx, e.User, e.Project)
		if err != nil {
			return s.unlessJobs(e, err)
		}
		r.Projects, r.Versions, r.Bytes = 1, p.Versions, p.Bytes+p.VersionBytes
		return nil
	}
	s.forgetLogs() // they may be older than the user's first job
	u, err := s.User(ctx, e.User)
	if err != nil {
		return s.unlessJobs(e, err)
	}
	r.Projects, r.Versions, r.Bytes = u.Projects, u.Versions, u.DiskBytes+u.VersionBytes+u.LogBytes
	return nil
}

// unlessJobs returns the error of what cannot be found, or nil if it has jobs: they
// make no directory before they run, but their records hold prompts.
func (s *Service) unlessJobs(e volume.Erasure, notFound error) error {
	if dreamcore.CodeOf(notFound) != dreamcore.CodeNotFound {
		return notFound
	}
	jobs, err := s.parts.Jobs.List(dreamcore.JobFilter{User: e.User, Project: e.Project, Limit: 1})
	switch {
	case err != nil:
		return err
	case len(jobs.Jobs) == 0:
		return notFound
	}
	return nil
}

// notFound returns the error for an unknown user.
func notFound(user dreamcore.UserID) error {
	return &dreamcore.Error{Code: dreamcore.CodeNotFound, Reason: ReasonNoUser, Message: "User not found", Hint: "check user_id", Err: fmt.Errorf("user %s", user)}
}

// Reasons of errors.
const (
	ReasonNoUser     dreamcore.Reason = "account.no_user"
	ReasonNoProject  dreamcore.Reason = "account.no_project"
	ReasonManyOwners dreamcore.Reason = "account.many_owners" // several users have a project of this id
)
