package job

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// run is one run of the agent. A job has at most two, and two for each repair.
type run struct {
	session    agent.Session
	warm       bool // the agent had been started ahead
	outcome    agent.Outcome
	requests   int64                 // that were sent to the model
	seen       dreamcore.FailureCode // failure of the model that the gateway saw; "" if none
	overBudget bool
	refused    bool // the model API refused a request because of its content
	tooLong    bool // because it was longer than the model accepts
}

// asked reports whether the run got as far as asking the model.
func (r run) asked() bool { return r.requests > 0 || r.outcome.Talked || r.seen != "" }

// retryShare is the divisor of the time limit that must be left for a second run.
const retryShare = 10

// run makes the game in the time that is left.
func (j *job) run(ctx context.Context, s site) error {
	left := j.settings.TimeLimit - j.used() // all attempts count
	var err error
	if j.warm, err = j.takeAgent(ctx, s, left); err != nil {
		return err
	}
	if j.warm == nil {
		if err := s.prepareHome(ctx, j.log); err != nil {
			return err
		}
	}
	if left <= 0 && !j.earlier.hasGame() {
		j.summary.TimeoutReached = true
		return agentError(ctx, run{outcome: agent.Outcome{ExitCode: dreamcore.ExitTimeout, TimedOut: true}})
	}
	if err := j.noteRun(); err != nil {
		return &stageError{stage: stageReserve, err: err}
	}
	deadline := time.Now().Add(left)
	return j.makeGame(ctx, s, deadline)
}

// prepareHome makes the home ready for a start of the agent. No process of the user
// may run: residue of an earlier job would take part in this one.
func (s site) prepareHome(ctx context.Context, log *slog.Logger) error {
	if err := s.home.Clean(ctx, fileToKeep(s)); err != nil {
		return err
	}
	if mended, err := agent.MendHome(s.home.Root(), s.agent.UID); err != nil {
		log.Error("mend the agent's home", "error", err)
	} else if len(mended) > 0 {
		log.Warn("parts of the agent's home were unusable and are set aside", "names", mended)
	}
	return nil
}

// runAgent runs the agent in the project's own conversation. A run that fails
// before it has changed anything is repeated once in the same job if the second
// one may well succeed: see second. prompt returns what the agent is asked.
func (j *job) runAgent(ctx context.Context, s site, deadline time.Time, prompt func(agent.Session) string) error {
	r, err := j.runOnce(ctx, s, deadline, prompt)
	if o := r.outcome; err == nil && r.warm && !o.Success() && !r.asked() && ctx.Err() == nil && !o.TimedOut && !o.OutOfMemory {
		// The agent that waited was not well, which says nothing about its home.
		j.log.Warn("the agent that was started ahead has failed; another one is started", "exit_code", o.ExitCode, "error", details(o))
		j.summary.AgentWarm = false
		if err := s.prepareHome(ctx, j.log); err != nil {
			return err
		}
		r, err = j.runOnce(ctx, s, deadline, prompt)
	}
	if err != nil {
		return err
	}
	if why, undo := j.second(ctx, s, r, deadline); why != "" {
		j.log.Warn("the agent is started once more", "reason", why, "exit_code", r.outcome.ExitCode, "error", details(r.outcome))
		j.status(why + "; it is started once more")
		if r, err = j.runOnce(ctx, s, deadline, prompt); err != nil {
			return err
		}
		if !r.outcome.Success() && !r.asked() {
			undo() // the home was not the reason
		}
	}
	if r.outcome.Success() {
		return nil
	}
	return agentError(ctx, r)
}

// runOnce runs the CLI until the deadline at most: the one that was started ahead, if
// there is one. It adds the usage of the run to the summary.
func (j *job) runOnce(ctx context.Context, s site, deadline time.Time, prompt func(agent.Session) string) (r run, err error) {
	warm := j.warm
	j.warm, r.warm = nil, warm != nil
	j.summary.AgentWarm = j.summary.AgentWarm || r.warm
	var start agent.Start
	if warm != nil {
		start = warm.start
	} else {
		start = s.start(time.Until(deadline))
	}
	if !start.Session.Resume {
		if err := s.home.SetSession(start.Session.ID); err != nil {
			j.log.Error("record the conversation", "error", err)
		}
	}
	r.session = start.Session
	grant := s.workspace.Grant(gateway.GrantOptions{
		Job: j.id, Token: start.Token, Project: string(j.request.Project), Expires: deadline.Add(cleanupLimit), Meter: j.meter(),
		Context: ctx, // a cancelled job spends nothing more
	})
	defer grant.Revoke()
	turn := agent.Turn{Prompt: prompt(r.session), Limit: time.Until(deadline), Emit: j.forward}
	if warm != nil {
		r.outcome, err = warm.Run(ctx, turn)
	} else {
		r.outcome, err = s.agent.Run(ctx, start, turn)
	}
	grant.Revoke() // the usage is final only after this
	used := grant.Usage()
	r.requests, r.seen, r.overBudget = used.Requests, grant.Failure(), grant.OverBudget()
	r.refused, r.tooLong = grant.Refused()
	j.asked = j.asked || r.asked()
	sum := &j.summary
	sum.Metered, sum.Tokens, sum.Cost = true, sum.Tokens.Plus(used.Tokens), sum.Cost+used.Cost
	sum.ExitCode, sum.OutputLines, sum.TimeoutReached = r.outcome.ExitCode, sum.OutputLines+r.outcome.Lines, r.outcome.TimedOut
	return r, err
}

// interrupted tells the agent that an attempt was cut.
const interrupted = "The service was restarted while you worked on this, so your last steps may be missing: look at the files of the project, then finish the work."

// prompt returns what the agent is asked. A conversation that was cut has the
// prompt already.
func (j *job) prompt(session agent.Session) string {
	switch {
	case !j.earlier.ran:
		return j.request.Prompt
	case j.earlier.talked && session.Resume:
		return interrupted
	}
	return interrupted + " The request was:\n\n" + j.request.Prompt
}

// second decides whether the agent runs once more after r, and returns the
// reason as a sentence, or "". If r shows that the conversation cannot be
// continued, it is forgotten first. undo restores the files that were set aside.
func (j *job) second(ctx context.Context, s site, r run, deadline time.Time) (why string, undo func()) {
	o := r.outcome
	if o.Success() || ctx.Err() != nil {
		return "", nil
	}
	unusable := r.session.Resume && r.unusable()
	if unusable {
		j.log.Warn("the conversation cannot be continued and is forgotten", "session", r.session.ID)
		j.forget(s.home)
	}
	switch {
	case o.TimedOut, o.OutOfMemory, r.overBudget, time.Until(deadline) < j.settings.TimeLimit/retryShare:
		return "", nil
	case !r.asked():
		why = "The agent could not start"
	case unusable:
		why = "The conversation cannot be continued"
	case o.Crashed():
		why = "The agent crashed"
	default:
		return "", nil
	}
	// Changes must not be made twice. Those that the project has before the model
	// has answered are an earlier attempt's.
	if j.earlier.attempts == 0 || o.Talked {
		if made, err := j.record(ctx, s.project, j.versionName()); err != nil || made.Changed {
			return "", nil
		}
	}
	undo = func() {}
	if !r.asked() {
		undo = j.renew(s.home, r.session)
	}
	if !r.session.Resume {
		j.forget(s.home) // a new conversation that crashed must not be continued
	}
	return why, undo
}

// renew gives the agent an empty home, because it ended before it asked the
// model. The returned function restores the old home, and with it a conversation
// that was resumed.
func (j *job) renew(home *volume.Home, resumed agent.Session) (undo func()) {
	restore, err := agent.RenewHome(home.Root())
	if err != nil {
		j.log.Error("set the agent's home aside", "error", err)
		return func() {}
	}
	return func() {
		err := restore()
		if resumed.Resume {
			err = errors.Join(err, home.SetSession(resumed.ID))
		}
		if err != nil {
			j.log.Error("restore the agent's home", "error", err)
		}
	}
}

// unusable reports whether a failed run shows that its conversation cannot be
// continued, which must not block the project forever: the CLI found nothing to
// resume, it broke on what it found, or the model refused all of it. A fault of
// the network or the model does not show that.
func (r run) unusable() bool {
	if r.tooLong {
		return true
	}
	if r.outcome.Talked || r.seen != "" {
		return false
	}
	return r.outcome.ExitCode == 1 || r.requests == 0
}

// fileToKeep returns the only file of the agent's home that stays from one job
// to the next: the one that the CLI needs to continue the conversation.
func fileToKeep(s site) string {
	if id := s.home.Session(); id != "" {
		return agent.SessionFile(s.dir, id)
	}
	return ""
}

// session continues the project's conversation if there is one, else it begins
// one.
func (s site) session() agent.Session {
	if s.home == nil {
		return agent.Session{ID: uuid.NewString()}
	}
	if id := s.home.Session(); id != "" && s.home.Has(agent.SessionFile(s.dir, id)) {
		return agent.Session{ID: id, Resume: true}
	}
	return agent.Session{ID: uuid.NewString()}
}

func (j *job) forget(home *volume.Home) {
	if err := home.SetSession(""); err != nil {
		j.log.Error("forget the conversation", "error", err)
	}
}
