package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"runtime/debug"
	"slices"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// AgentStart is how a job got its agent.
type AgentStart string

// The values of AgentStart.
const (
	AgentWarm    AgentStart = "warm"    // it waited for the job
	AgentCold    AgentStart = "cold"    // none waited
	AgentChanged AgentStart = "changed" // one waited, for another project or with other settings
	AgentEnded   AgentStart = "ended"   // one waited, but has ended
)

// warmAgent is an agent that waits for a job.
type warmAgent struct {
	*agent.Started
	start  agent.Start
	origin agent.Origin
}

// parkedDir is the directory in which agents are started that wait for any user and any
// project without a conversation. It is nobody's.
const parkedDir = "/"

// Bounds of the starts ahead of jobs. A start holds the project and its sandbox.
const (
	warmLimit = 20 * time.Second
	maxWarmUp = 2 // at once
)

// endAgentLimit bounds the end of an agent that a job does not take.
const endAgentLimit = 10 * time.Second

// site returns where the agent works on a project, without the files. The settings
// are those of a first attempt.
func (s *Service) site(w *workspace.Workspace, user dreamcore.UserID, project dreamcore.ProjectID, settings Settings) site {
	cfg, env := settings.Agent, w.EgressEnv()
	cfg.Home = path.Join(cfg.Home, string(project))
	cfg.Env = slices.Concat(cfg.Env, env)
	if len(env) == 0 {
		cfg.Hosts = nil
	}
	if len(s.skills()) > 0 {
		cfg.Skills = path.Join(dreamcore.GlobalDir, skillsDir)
	}
	return site{workspace: w, agent: cfg, dir: workspace.ProjectDir(user, project)}
}

// parked returns the site of an agent that is to work there and is started before the user
// and the project are known.
func (s site) parked() site {
	s.agent.Home, s.dir, s.project, s.home = s.workspace.LateHome(), parkedDir, nil, nil
	return s
}

// start returns the start of an agent that has so much time. Its token is worth
// nothing yet.
func (s site) start(left time.Duration) agent.Start {
	return agent.Start{
		Sandbox: s.workspace, Dir: s.dir, Token: gateway.NewToken(), Session: s.session(),
		Limit: max(left.Round(time.Second), time.Second), Parked: s.home == nil,
	}
}

func (s *Service) origin(at site, start agent.Start) (agent.Origin, error) {
	var from agent.Sources
	if at.project != nil {
		from.Project, from.Home = at.project.Root(), at.home.Root()
	}
	if at.agent.Skills != "" {
		from.Skills = s.skillsPath()
	}
	return at.agent.Origin(start, from, time.Now())
}

// takeAgent returns the agent that waits in the workspace if it is what the job would
// start, or nil. It ends another one.
func (j *job) takeAgent(ctx context.Context, s site, left time.Duration) (*warmAgent, error) {
	waiting := s.workspace.TakeAgent()
	if waiting == nil {
		j.service.agentStarted(AgentCold)
		return nil, nil
	}
	a, fits := waiting.(*warmAgent)
	fits = fits && j.earlier.attempts == 0 && j.service.fits(a, s, left)
	how := AgentWarm
	var fault error
	switch {
	case !fits:
		how = AgentChanged
	case a.start.Parked:
		var claimed bool
		if claimed, fault = j.claim(ctx, s, a); !claimed {
			how = AgentEnded
		}
	default:
		select { // the lease has just asked whether it answers
		case <-a.Done():
			how = AgentEnded
		default:
		}
	}
	if ctx.Err() == nil {
		j.service.agentStarted(how)
	}
	switch {
	case how == AgentWarm:
		return a, nil
	case fault != nil:
		return nil, fault // the sandbox is closed, or the job ends
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endAgentLimit)
	defer cancel()
	if err := waiting.End(ending); err != nil {
		return nil, &stageError{stage: stageSandbox, err: fmt.Errorf("end the agent that was started ahead: %w", err)}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, nil
}

// fits reports whether an agent that waits is what a job that has so much time would start.
func (s *Service) fits(a *warmAgent, at site, left time.Duration) bool {
	if a.start.Parked {
		if at.session().Resume || s.parts.Workspaces.ParkingPaused() {
			return false
		}
		at = at.parked()
	}
	origin, err := s.origin(at, at.start(left))
	return err == nil && origin == a.origin
}

// claim gives the project to an agent that waits for any, and reports whether it took it.
// No other process of the user runs. An error is not one of the agent: the sandbox is
// closed, or the home cannot be prepared.
func (j *job) claim(ctx context.Context, s site, a *warmAgent) (bool, error) {
	if err := s.prepareHome(ctx, j.log); err != nil {
		return false, err
	}
	if err := s.workspace.MountHome(ctx, j.request.Project); err != nil {
		if !errors.Is(err, sandbox.ErrLost) && ctx.Err() == nil {
			j.service.parts.Workspaces.PauseParking(err)
		}
		return false, &stageError{stage: stageSandbox, err: fmt.Errorf("mount the agent's home: %w", err)}
	}
	err := a.Claim(ctx, s.dir)
	if err == nil {
		return true, nil
	}
	if ctx.Err() == nil {
		j.log.Warn("an agent that was started ahead cannot be used; another one is started", "error", err)
	}
	if errors.Is(err, agent.ErrNoClaim) {
		j.service.parts.Workspaces.PauseParking(err)
	}
	return false, nil
}

// parking starts the agents that wait in standby sandboxes.
type parking struct{ *Service }

// Park implements workspace.Parking.
func (p parking) Park(ctx context.Context, w *workspace.Workspace) (workspace.Agent, error) {
	settings := *p.settings.Load()
	at := p.site(w, "", "", settings).parked()
	a := &warmAgent{start: at.start(settings.TimeLimit)}
	var err error
	if a.origin, err = p.origin(at, a.start); err != nil { // before the start, as in warm
		return nil, err
	}
	await, err := a.begin(ctx, at)
	if err == nil {
		err = await(ctx)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Fits implements workspace.Parking. What cannot be read now may be readable when a job
// comes.
func (p parking) Fits(w *workspace.Workspace, waiting workspace.Agent) bool {
	a, ok := waiting.(*warmAgent)
	settings := *p.settings.Load()
	at := p.site(w, "", "", settings).parked()
	origin, err := p.origin(at, at.start(settings.TimeLimit))
	return ok && (err != nil || origin == a.origin)
}

// begin starts the agent, which then waits; see agent.Started.Rehearse.
func (a *warmAgent) begin(ctx context.Context, at site) (await func(context.Context) error, err error) {
	at.workspace.Await(a.start.Token)
	if a.Started, err = at.agent.Start(ctx, a.start); err != nil {
		return nil, err
	}
	return a.Rehearse(), nil
}

func (s *Service) agentStarted(how AgentStart) {
	if s.parts.AgentStarted != nil {
		s.parts.AgentStarted(how)
	}
}

// Warm starts the agent ahead of the user's next job in a project, if the user's
// sandbox is idle and the machine could run another job. It makes the project if
// there is none. No request depends on it, so errors are only logged.
func (s *Service) Warm(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) {
	s.warmUp(ctx, user, project, true)
}

// Hint is Warm in the background, for requests that only look at a project, however
// many. It creates neither a project nor a sandbox.
func (s *Service) Hint(user dreamcore.UserID, project dreamcore.ProjectID) {
	if !s.parts.Workspaces.WantsAgent(user) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.wg.Go(func() { s.warmUp(s.run, user, project, false) })
	}
}

func (s *Service) warmUp(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, create bool) {
	// The start takes a second of a processor, which jobs need more.
	if load := s.Load(); s.isClosed() || load.Queued > 0 || load.Running >= load.MaxRunning {
		return
	}
	if !s.warming.TryAcquire(1) {
		return
	}
	defer s.warming.Release(1)
	defer func() { // no job and no request depends on it
		if fault := recover(); fault != nil {
			s.log.Error("the start of an agent ahead of a job panicked", "user", string(user), "fault", fault, "stack", string(debug.Stack()))
		}
	}()
	ctx, stop := context.WithTimeout(ctx, warmLimit)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.run, func() { cancel(context.Cause(s.run)) })()
	err := s.warm(ctx, user, project, create)
	switch {
	case err == nil || ctx.Err() != nil || errors.Is(err, fs.ErrNotExist):
	case dreamcore.CodeOf(err) == dreamcore.CodeConflict, dreamcore.CodeOf(err) == dreamcore.CodeBusy, dreamcore.CodeOf(err) == dreamcore.CodeNotFound:
		s.log.Debug("no agent is started ahead", "user", string(user), "project", string(project), "error", err)
	default:
		s.log.Warn("start the agent ahead of a job", "user", string(user), "project", string(project), "error", err)
	}
}

// warm locks the project and then holds the workspace, like a job, but waits for
// neither.
func (s *Service) warm(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, create bool) error {
	if s.parts.Admit != nil {
		if err := s.parts.Admit(user, project); err != nil {
			return err
		}
	}
	volumes := s.parts.Volumes
	unlock, err := volumes.TryLock(user, project)
	if err != nil {
		return err
	}
	defer unlock()
	open := volumes.Find
	if create {
		open = volumes.Project
	}
	p, err := open(user, project)
	if err != nil {
		return err
	}
	defer p.Close()
	home, err := volumes.FindHome(ctx, user, project)
	if create && errors.Is(err, fs.ErrNotExist) {
		home, err = volumes.Home(user, project)
	}
	if err != nil {
		return err
	}
	defer home.Close()
	return s.parts.Workspaces.Warm(ctx, user, func(ctx context.Context, w *workspace.Workspace, waiting workspace.Agent) (workspace.Agent, error) {
		settings := *s.settings.Load()
		at := s.site(w, user, project, settings)
		at.project, at.home = p, home
		if a, ok := waiting.(*warmAgent); ok && s.fits(a, at, settings.TimeLimit) {
			return a, nil
		}
		if err := w.EndAgent(ctx); err != nil {
			return nil, err
		}
		if err := at.prepareHome(ctx, s.log); err != nil {
			return nil, err
		}
		a := &warmAgent{start: at.start(settings.TimeLimit)}
		// Before the start: what changes during it differs later.
		if a.origin, err = s.origin(at, a.start); err != nil {
			return nil, err
		}
		if _, err := a.begin(ctx, at); err != nil {
			return nil, err
		}
		return a, nil
	})
}
