package job

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// run is one run of the agent, of which a job has two at most.
type run struct {
	session    agent.Session
	outcome    agent.Outcome
	requests   int64                 // that were sent to the model
	seen       dreamcore.FailureCode // what the gateway saw of the model's failures
	overBudget bool
	refused    bool // the model API refused a request for what was in it
	tooLong    bool // because it was longer than the model takes
}

// asked reports whether the run got so far as to ask the model.
func (r run) asked() bool { return r.requests > 0 || r.outcome.Talked || r.seen != "" }

// retryShare is which part of the time limit must be left for a second run.
const retryShare = 10

// runAgent runs the agent in the project's own conversation. A run that fails
// before it has changed anything is done once more in the same job, where
// another may well go better: see second.
func (j *job) runAgent(ctx context.Context, d *desk, project *volume.Project, home *volume.Home) error {
	// Nothing of the user runs now: what an earlier job left would run in this one.
	if err := home.Clean(ctx, keptOfHome(home, j.inside())); err != nil {
		return err
	}
	deadline := time.Now().Add(j.settings.TimeLimit)
	if mended, err := agent.MendHome(home.Root(), j.settings.Agent.UID); err != nil {
		j.log.Error("mend the agent's home", "error", err)
	} else if len(mended) > 0 {
		j.log.Warn("parts of the agent's home were unusable and are set aside", "names", mended)
	}
	r, err := j.runOnce(ctx, d, home, deadline)
	if err != nil {
		return err
	}
	if why, undo := j.second(ctx, project, home, r, deadline); why != "" {
		j.log.Warn("the agent is started once more", "reason", why, "exit_code", r.outcome.ExitCode, "error", cause(r.outcome))
		j.status(why + "; it is started once more")
		if r, err = j.runOnce(ctx, d, home, deadline); err != nil {
			return err
		}
		if !r.outcome.Success() && !r.asked() {
			undo() // that was not the reason
		}
	}
	return j.judge(ctx, r)
}

// runOnce runs the CLI until the deadline at most. It adds what the run used to
// the summary.
func (j *job) runOnce(ctx context.Context, d *desk, home *volume.Home, deadline time.Time) (r run, err error) {
	inside := j.inside()
	r.session = j.session(home, inside)
	grant := d.socket.Grant(gateway.GrantOptions{
		Job: j.id, Expires: deadline.Add(cleanupLimit),
		Meter: j.meter(), User: string(j.wish.User), Project: string(j.wish.Project), Sandbox: d.ID(),
		Context: ctx, // a cancelled job spends nothing more
	})
	defer grant.Revoke()
	cfg := j.settings.Agent
	cfg.Home = path.Join(cfg.Home, string(j.wish.Project))
	r.outcome, err = cfg.Run(ctx, agent.Job{
		Sandbox: d.Sandbox, Dir: inside, Wish: j.wish.Prompt, Token: grant.Token(), Session: r.session,
		Limit: time.Until(deadline), Emit: j.forward,
	})
	grant.Revoke() // what the gateway saw is final only after it
	used := grant.Usage()
	r.requests, r.seen, r.overBudget = used.Requests, grant.Failure(), grant.OverBudget()
	if refused, ok := grant.Refused(); ok {
		r.refused, r.tooLong = true, refused.TooLong
	}
	s := &j.summary
	s.Metered, s.Tokens, s.Cost = true, s.Tokens.Plus(used.Tokens), s.Cost+used.Cost
	s.ExitCode, s.OutputLines, s.TimeoutReached = r.outcome.ExitCode, s.OutputLines+r.outcome.Lines, r.outcome.TimedOut
	return r, err
}

// second decides whether the agent is run once more after r, and returns why,
// as a sentence, or "". Before it the conversation is forgotten where r shows
// that it cannot be continued. undo puts back what was set aside.
func (j *job) second(ctx context.Context, project *volume.Project, home *volume.Home, r run, deadline time.Time) (why string, undo func()) {
	o := r.outcome
	if o.Success() || ctx.Err() != nil {
		return "", nil
	}
	unusable := r.session.Resume && r.unusable()
	if unusable {
		j.log.Warn("the conversation cannot be continued and is forgotten", "session", r.session.ID)
		j.forget(home)
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
	if made, err := j.record(ctx, project); err != nil || made.Changed {
		return "", nil // what it has done must not be done twice
	}
	undo = func() {}
	if !r.asked() {
		undo = j.renew(home, r.session)
	}
	if !r.session.Resume {
		j.forget(home) // what a crash left of it is not to be continued
	}
	return why, undo
}

// renew gives the agent a home without anything of its own, because it ended
// before it asked the model. The returned function undoes it, so that the
// conversation that was resumed is still there.
func (j *job) renew(home *volume.Home, resumed agent.Session) (undo func()) {
	back, err := agent.RenewHome(home.Root())
	if err != nil {
		j.log.Error("set the agent's home aside", "error", err)
		return func() {}
	}
	return func() {
		err := back()
		if resumed.Resume {
			err = errors.Join(err, home.SetSession(resumed.ID))
		}
		if err != nil {
			j.log.Error("put the agent's home back", "error", err)
		}
	}
}

// unusable reports whether a failed run shows that its conversation cannot be
// continued, which must not block the project for good: the CLI found nothing
// to resume, it broke on what it found, or the model refused all of it. A fault
// of the network or the model is no such sign.
func (r run) unusable() bool {
	if r.tooLong {
		return true
	}
	if r.outcome.Talked || r.seen != "" {
		return false
	}
	return r.outcome.ExitCode == 1 || r.requests == 0
}

// judge returns the error of a run that is the last one of its job.
func (j *job) judge(ctx context.Context, r run) error {
	if r.outcome.Success() {
		return nil
	}
	f := verdict(r.outcome, r.seen)
	f.Spent = f.Code == dreamcore.FailRateLimit && r.overBudget
	f.Refused = f.Code == dreamcore.FailCLIGeneral && r.refused
	if ctx.Err() != nil {
		f = dreamcore.ExitFailure(dreamcore.ExitTerminated)
	}
	return &failed{failure: f, err: fmt.Errorf("the agent ended with exit code %d%s", r.outcome.ExitCode, cause(r.outcome))}
}

// verdict prefers what the gateway saw of the model API over the CLI's exit
// code, which is 1 for everything.
func verdict(o agent.Outcome, seen dreamcore.FailureCode) dreamcore.Failure {
	if o.ExitCode == 1 && seen != "" {
		return dreamcore.Failure{Code: seen}
	}
	return dreamcore.ExitFailure(o.ExitCode)
}

func cause(o agent.Outcome) string {
	s := ""
	if o.Result != nil && o.Result.IsError {
		s += fmt.Sprintf(", result %s: %.500s", o.Result.Subtype, o.Result.Text)
	}
	if o.Stderr != "" {
		s += ", standard error: " + o.Stderr
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// inside is the directory of the project in the sandbox.
func (j *job) inside() string {
	return path.Join(fmt.Sprintf(projectsDir, j.wish.User), string(j.wish.Project))
}

// keptOfHome returns the only file that stays in the agent's home from one job
// to the next: what the CLI needs to continue the conversation.
func keptOfHome(home *volume.Home, inside string) string {
	if id := home.Session(); id != "" {
		return agent.SessionFile(inside, id)
	}
	return ""
}

// session continues the project's conversation where there is one, else it
// begins one.
func (j *job) session(home *volume.Home, inside string) agent.Session {
	id := home.Session()
	if id != "" {
		if home.Has(agent.SessionFile(inside, id)) {
			return agent.Session{ID: id, Resume: true}
		}
	}
	id = uuid.NewString()
	if err := home.SetSession(id); err != nil {
		j.log.Error("note the conversation", "error", err)
	}
	return agent.Session{ID: id}
}

func (j *job) forget(home *volume.Home) {
	if err := home.SetSession(""); err != nil {
		j.log.Error("forget the conversation", "error", err)
	}
}
