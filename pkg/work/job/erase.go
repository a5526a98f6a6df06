package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// End cancels the jobs and checks of a user in a project, or all of the user's if
// project is "", and waits until they have ended. It returns the number of jobs.
func (s *Service) End(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (ended int, err error) {
	if err := s.settled(ctx, ""); err != nil {
		return 0, err
	}
	s.submitting.Lock() // a job that was admitted is in the list
	s.mu.Lock()
	var jobs []*liveJob
	for _, l := range s.jobs {
		if l.user == user && (project == "" || l.row.Project == project) {
			jobs = append(jobs, l)
		}
	}
	checks := s.checksOf(user, project)
	s.mu.Unlock()
	s.submitting.Unlock()
	for _, c := range checks {
		c.cancel(errCheckEnded)
	}
	for _, l := range jobs {
		_ = s.Cancel(l.id) // one that is left to another cell ends here too
	}
	for _, l := range jobs {
		select {
		case <-l.done:
			ended++
		case <-ctx.Done():
			return ended, fmt.Errorf("wait for the end of job %s: %w", l.id, context.Cause(ctx))
		}
	}
	for _, c := range checks {
		select {
		case <-c.done:
		case <-ctx.Done():
			return ended, fmt.Errorf("wait for the end of the check of a game: %w", context.Cause(ctx))
		}
	}
	return ended, nil
}

// maxErased is how many rows are removed at once.
const maxErased = 200

// Erase removes the logs and records of the jobs of a user in a project, or of all of
// the user's jobs if project is "", and returns their number. The jobs must have
// ended, or have been left by a process that is gone (CodeConflict), and no new one
// may begin. An erased job is unknown, not expired, and nothing of it stays in the
// file of the index. Erase may be called again after an error or a crash.
func (s *Service) Erase(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (erased int, err error) {
	ids, err := s.jobsOf(ctx, user, project)
	if err != nil {
		return 0, err
	}
	for len(ids) > 0 {
		batch := ids[:min(len(ids), maxErased)]
		ids = ids[len(batch):]
		for _, id := range batch {
			s.endRemnant(id) // not while its log is removed
		}
		n, err := s.eraseBatch(ctx, batch)
		erased += n
		if err != nil {
			return erased, err
		}
	}
	// Nothing says which project a damaged log was of, and nothing can show it again.
	if _, err := s.parts.Journal.EraseDamaged(user); err != nil {
		return erased, err
	}
	if s.parts.Records == nil {
		return erased, nil
	}
	return erased, s.parts.Records.Compact()
}

// eraseBatch removes the logs of jobs and then their rows, and returns how many logs
// it has removed.
func (s *Service) eraseBatch(ctx context.Context, ids []string) (erased int, err error) {
	s.erasing.Lock()
	defer s.erasing.Unlock()
	for _, id := range ids {
		if err := errors.Join(context.Cause(ctx), s.parts.Journal.Erase(id)); err != nil {
			return erased, err
		}
		erased++
	}
	if s.parts.Records == nil {
		return erased, nil
	}
	return erased, s.parts.Records.Remove(ids...)
}

// jobsOf returns the jobs that the index knows, and those whose logs it does not.
func (s *Service) jobsOf(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (ids []string, err error) {
	logs, err := s.parts.Journal.Jobs()
	if err != nil {
		return nil, err
	}
	if s.parts.Records != nil {
		rows, _, err := s.parts.Records.List(dreamcore.JobFilter{User: user, Limit: 1 << 30}, nil)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			if project == "" || s.isIn(r.Job, project) {
				ids = append(ids, r.ID)
			}
		}
		if logs, err = s.parts.Records.Missing(logs); err != nil {
			return nil, err
		}
	}
	for _, id := range logs {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if s.isOf(id, user, project) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// isOf reports whether a job that the index does not know is one of a user in a
// project, or anywhere if project is "". A log that cannot be read does not stop the
// deletion of the others.
func (s *Service) isOf(id string, user dreamcore.UserID, project dreamcore.ProjectID) bool {
	owner := s.parts.Journal.Owner(id)
	if owner != "" && owner != string(user) {
		return false
	}
	p, err := s.read(id, time.Time{})
	switch {
	case err == nil:
		return p.row.User == user && (project == "" || s.isIn(p.row.Job, project))
	case dreamcore.CodeOf(err) == dreamcore.CodeNotFound: // removed meanwhile
	case owner == string(user) && project == "":
		return true
	default:
		s.log.Error("a log cannot be read: it stays if it is of a user or project that is deleted", "job", id, "error", err)
	}
	return false
}

// isIn reports whether a job is one of a project. Earlier versions of this program
// did not note the project: there, the first event that names a project's directory
// decides, which is one that the agent prints before it does anything.
func (s *Service) isIn(j dreamcore.Job, project dreamcore.ProjectID) bool {
	if j.Project != "" {
		return j.Project == project
	}
	above := []byte("/users/" + string(j.User) + "/projects/")
	found, is := false, false
	_, err := s.parts.Journal.Account(j.ID, func(e dreamcore.Event) {
		if at := bytes.Index(e, above); at >= 0 && !found {
			found, is = true, bytes.HasPrefix(e[at+len(above):], []byte(project))
		}
	})
	if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		s.log.Error("a log cannot be read: it stays if it is of a user or project that is deleted", "job", j.ID, "error", err)
	}
	return is
}
