package job

import (
	"cmp"
	"context"
	"errors"
	"os"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

const (
	// playPatience is how long a check outside of a job waits for its turn and for
	// the project.
	playPatience = 30 * time.Second
	// playSpare is how long a check outside of a job may take in all, beside the time
	// for playing: twice playPatience, the copy of the game and the start of a sandbox.
	playSpare = 100 * time.Second
	// beforeCheck names the version of a project that had changes without one.
	beforeCheck = "Before a check"
)

// Played is the result of a check outside of a job.
type Played struct {
	dreamcore.Acceptance
	Commit string `json:"commit,omitempty"` // the version that was checked, 40 digits; "" without one
}

// CheckGame plays the game of a project as it is, without a job and in a sandbox of
// its own, and keeps the pictures beside the version, which it makes if needed
// of this state. It counts as one of the user's generations while it lasts, so that
// checks take no more of the machine than those. It checks also where acceptance is
// off.
//
// It takes at most playSpare and the limit of one check.
//
// CodeNotFound: there is no such project; CodeSetup: there is no browser; CodeBusy: no
// turn came in time, the disk is full, or the service is stopping; CodeConflict: the
// project or the user is being deleted or blocked. A game without a verdict is no
// error, and has a reason.
func (s *Service) CheckGame(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (played Played, err error) {
	ctx, end, err := s.beginPlay(ctx, user, project)
	if err != nil {
		return played, err
	}
	defer end()
	ctx, cancel := context.WithTimeoutCause(ctx, playSpare+s.settings.Load().AcceptanceLimit, errPlayLimit)
	defer cancel()
	// Before anything is taken: an unknown project costs nothing.
	if p, err := s.parts.Volumes.Find(user, project); err != nil {
		return played, err
	} else if err := p.Close(); err != nil {
		return played, err
	}
	slot, err := s.admission.enter(user)
	if err != nil {
		return played, err
	}
	defer slot.leave()
	turn, stop := context.WithTimeoutCause(ctx, playPatience, errPatience)
	defer stop()
	if err := slot.wait(turn, func(int) {}); err != nil {
		return played, patience(err)
	}
	g := &copied{service: s, user: user, project: project}
	report, err := s.parts.Play(ctx, g.copy)
	late := context.Cause(ctx) == errPlayLimit
	switch {
	case ctx.Err() != nil && !late:
		return played, errors.Join(context.Cause(ctx), g.err)
	case g.err != nil && late:
		return played, patience(errors.Join(errPlayLimit, g.err))
	case g.err != nil:
		return played, noSpace(g.err)
	}
	played.Commit, played.Attempt = g.hash, 1
	switch {
	case err != nil && late:
		played.Verdict, played.Reason = dreamcore.AcceptanceUnknown, errPlayLimit.Error()
		return played, nil
	case dreamcore.CodeOf(err) == dreamcore.CodeSetup && err != nil:
		return played, err
	case errors.Is(err, errNoPage):
		played.Verdict, played.Reason = dreamcore.AcceptanceUnknown, errNoPage.Error()
		return played, nil
	case err != nil:
		s.log.Warn("a check has no verdict", "user", string(user), "project", string(project), "error", err)
		played.Verdict, played.Reason = dreamcore.AcceptanceUnknown, reason(err)
		return played, nil
	}
	played.Acceptance = Accepted(report)
	played.Attempt = 1
	s.keepShots(ctx, user, project, g.hash, report.Shots)
	return played, nil
}

// Accepted returns a report of a check as events and records have it, within their
// bounds.
func Accepted(r verdict.Report) dreamcore.Acceptance { return accepted(r).Bounded() }

// copied is the copy of a project that is played.
type copied struct {
	service *Service
	user    dreamcore.UserID
	project dreamcore.ProjectID

	hash string // of the version with this state; "" without one
	err  error  // why the project could not be copied
}

// copy implements acceptance.Source. It locks the project only while it copies, so
// that a check does not keep others from changing the game.
func (g *copied) copy(ctx context.Context, to *os.Root) (err error) {
	defer func() {
		if g.err = err; errors.Is(err, errNoPage) {
			g.err = nil // a result
		}
	}()
	room, err := g.service.reserve(ctx, g.user)
	if err != nil {
		return err
	}
	defer room.Close()
	turn, stop := context.WithTimeoutCause(ctx, playPatience, errPatience)
	defer stop()
	volumes := g.service.parts.Volumes
	unlock, err := volumes.Lock(turn, g.user, g.project)
	if err != nil {
		return patience(err)
	}
	defer unlock()
	p, err := volumes.Find(g.user, g.project)
	if err != nil {
		return err
	}
	defer p.Close()
	if page, err := hasPage(ctx, p); err != nil || !page {
		return cmp.Or(err, errNoPage)
	}
	room.FreeForHost()
	made, err := g.service.parts.History.Record(ctx, g.user, g.project, p.Root(), beforeCheck, time.Now())
	if err != nil {
		g.service.log.Warn("make a version of what is checked", "error", err) // the verdict does not need it
	}
	g.hash = made.Hash
	var size int64
	for e, err := range p.Files(ctx) {
		if err != nil {
			return err
		}
		size += e.Size
	}
	if err := volumes.CheckFreeFor(min(size, acceptance.MaxGame)); err != nil {
		return err
	}
	return acceptance.Project(p)(ctx, to)
}

var (
	errPatience  = errors.New("the turn of the check did not come in time")
	errPlayLimit = errors.New("the check took too long")
	// errCheckEnded ends the checks of a user or project that is deleted or blocked.
	errCheckEnded = &dreamcore.Error{
		Code: dreamcore.CodeConflict, Message: "the project or its user is being deleted or blocked", Hint: "check the game again if it is still there",
	}
)

// noSpace returns the client's error for a machine whose disk has no room for a check.
// The cause is for the log.
func noSpace(err error) error {
	if dreamcore.CodeOf(err) != dreamcore.CodeSetup && !statefile.IsFull(err) {
		return err
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeBusy, Reason: dreamcore.ReasonOf(err), Message: "the service has no storage left at the moment, so the game could not be checked",
		Hint: cmp.Or(dreamcore.HintOf(err), "try again later"), Err: err,
	}
}

// patience returns the client's error for a wait that was too long.
func patience(err error) error {
	if !errors.Is(err, errPatience) && !errors.Is(err, errPlayLimit) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeBusy, Message: "the project or the machine is busy", Err: err,
		Hint: "wait until the running generation has ended, and check again",
	}
}

// liveCheck is a check outside of a job.
type liveCheck struct {
	user    dreamcore.UserID
	project dreamcore.ProjectID
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed when nothing of it is left
}

// beginPlay counts a check among the work that Close and End wait for. The context
// ends with the service, and by End.
func (s *Service) beginPlay(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (_ context.Context, end func(), err error) {
	if s.parts.Play == nil {
		return nil, nil, &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "games cannot be checked here", Hint: "install the browser for sandboxes"}
	}
	s.submitting.Lock() // a check that was admitted is in the list
	defer s.submitting.Unlock()
	if s.isClosed() {
		return nil, nil, &dreamcore.Error{Code: dreamcore.CodeBusy, Reason: ReasonStopping, Message: "the service is stopping", Hint: "try again in a moment"}
	}
	if s.parts.Admit != nil {
		if err := s.parts.Admit(user, project); err != nil {
			return nil, nil, err
		}
	}
	s.wg.Add(1)
	c := &liveCheck{user: user, project: project, done: make(chan struct{})}
	ctx, c.cancel = context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.run, func() { c.cancel(context.Cause(s.run)) })
	s.mu.Lock()
	s.checks[c] = true
	s.mu.Unlock()
	return ctx, func() {
		stop()
		c.cancel(nil)
		s.mu.Lock()
		delete(s.checks, c)
		s.mu.Unlock()
		close(c.done)
		s.wg.Done()
	}, nil
}

// checksOf returns the checks of a user in a project, or all of the user's if project
// is "". It must be called with mu held.
func (s *Service) checksOf(user dreamcore.UserID, project dreamcore.ProjectID) (found []*liveCheck) {
	for c := range s.checks {
		if c.user == user && (project == "" || c.project == project) {
			found = append(found, c)
		}
	}
	return found
}

// keepShots keeps pictures beside the version that they show. What fails is logged:
// the verdict is worth more.
func (s *Service) keepShots(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, hash string, shots []verdict.Shot) {
	if hash == "" {
		return
	}
	for _, shot := range shots {
		if err := s.parts.History.SaveShot(ctx, user, project, hash, string(shot.Screen), shot.PNG); err != nil {
			s.log.Warn("keep a picture of the game", "user", string(user), "project", string(project), "screen", string(shot.Screen), "error", err)
		}
	}
}

// Shot returns a picture of a version; see history.Store.Shot. CodeConflict: the
// project is being deleted.
func (s *Service) Shot(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, hash, screen string) (picture []byte, version string, err error) {
	if err := s.parts.Volumes.CheckErasing(user, project); err != nil {
		return nil, "", err
	}
	return s.parts.History.Shot(ctx, user, project, hash, screen)
}
