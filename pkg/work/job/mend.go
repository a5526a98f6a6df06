package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// reserve is the time of the job that a repair leaves for the check after it. The
// start of the browser and the end of the agent take time, too.
func (t *trial) reserve() time.Duration {
	s := t.job.settings
	return s.AcceptanceLimit + min(checkSlack, s.TimeLimit/retryShare)
}

// hindrance returns why the agent cannot mend the game now; "" if it can.
func (t *trial) hindrance() string {
	j := t.job
	switch {
	case time.Until(t.deadline) < j.settings.TimeLimit/retryShare+t.reserve():
		return "the time limit is near"
	case j.turnsLeft() == 0:
		return "all turns are used"
	case j.account != nil && j.account.Check() != nil:
		return "the budget is used up"
	}
	return ""
}

// mayRepair reports whether the agent may mend the game once more, and tells the
// player if only time or money keeps it from that. The game as it is before the repair
// is a version then.
func (t *trial) mayRepair(ctx context.Context) bool {
	j := t.job
	if j.summary.Repairs >= j.settings.AcceptanceRepairs {
		return false
	}
	why := t.hindrance()
	if why == "" {
		made, err := j.record(ctx, t.site.project, j.versionName())
		switch {
		case err != nil:
			j.log.Error("save the version before a repair", "error", err)
			why = "the version cannot be saved"
		case !made.Changed && j.summary.Repairs > 0:
			return false // the last repair changed nothing: another one would not either
		default:
			return true
		}
	}
	j.log.Warn("the game is not repaired", "reason", why)
	j.tell(dreamcore.NoteNoRepair)
	return false
}

// repair gives the findings to the agent, in its own conversation.
func (t *trial) repair(ctx context.Context) (finished bool, err error) {
	j := t.job
	j.summary.Repairs++
	j.note(note{Repair: &repairNote{At: time.Now(), Number: j.summary.Repairs}})
	j.noteAcceptance()
	j.tell(dreamcore.NoteRepairing)
	return t.mend(ctx, repairPrompt(t.found, j.request.Prompt))
}

// resume goes on with a repair that the end of a process has cut. The conversation may
// not have its findings.
func (t *trial) resume(ctx context.Context) (finished bool, err error) {
	if why := t.hindrance(); why != "" {
		t.job.log.Warn("a repair that was cut does not go on", "reason", why)
		return false, nil
	}
	prompt := t.job.prompt
	if t.found != nil {
		repair := repairPrompt(t.found, t.job.request.Prompt)
		prompt = func(s agent.Session) string { return interrupted + "\n\n" + repair(s) }
	}
	return t.mend(ctx, prompt)
}

// mend runs the agent on a game that is there already, so that a failure of the agent
// does not fail the job. An error means that the job was cancelled or stopped.
func (t *trial) mend(ctx context.Context, prompt func(agent.Session) string) (finished bool, err error) {
	j, s := t.job, t.site
	t.before, j.verdict = t.found, ""
	if s.agent.Turns > 0 {
		s.agent.Turns = j.turnsLeft()
	}
	t.start(ctx)
	err = j.runAgent(ctx, s, t.deadline.Add(-t.reserve()), prompt)
	switch {
	case err == nil:
		j.note(note{Made: &madeNote{At: time.Now()}})
		return true, nil
	case ctx.Err() != nil, s.stopped() != nil:
		return false, err
	}
	// The game is there, in the state in which the agent has left it.
	j.log.Warn("a repair did not end well", "error", err)
	j.summary.ExitCode, j.summary.TimeoutReached = 0, false
	return false, nil
}

// cancelled ends the trial of a job that was cancelled, with err. A project that is
// full since a repair keeps the game that it had before.
func (t *trial) cancelled(ctx context.Context, err error) error {
	j := t.job
	if j.summary.Repairs == 0 || t.found == nil || !errors.Is(context.Cause(ctx), errFull) {
		return err
	}
	j.log.Warn("a repair did not end well", "error", errors.Join(errFull, err))
	j.summary.ExitCode, j.summary.TimeoutReached = 0, false
	return t.give()
}

// give ends the job with a game that does not play, or of which that was last known.
func (t *trial) give() error {
	j := t.job
	why, text := "the game does not play", dreamcore.NoteStillFails
	if t.last.Verdict == dreamcore.AcceptanceUnknown {
		why, text = "the game did not play, and could not be checked after its repair", dreamcore.NoteUnchecked
	}
	if j.settings.Acceptance == AcceptanceFail {
		return &stageError{stage: stageBroken, err: fmt.Errorf("%s: %s", why, summarize(t.found))}
	}
	j.emit(dreamcore.WarningEvent(text.Text(j.lang)))
	return nil
}

// exhausted reports whether the game was made, and checks or repairs of it have used up
// the attempts of the job. Neither may end the service once more; the game is saved.
func (j *job) exhausted() bool {
	e := j.earlier
	return e.hasGame() && (e.crashes >= maxCrashes || e.attempts >= max(j.settings.Attempts, 1))
}

// leaveGame ends the job with the game as it is.
func (j *job) leaveGame() error {
	j.log.Warn("the game is neither checked nor mended any more: the attempts are used up", "attempts", j.earlier.attempts)
	if t := j.newTrial(site{}, time.Time{}); t.found != nil && j.checks() {
		return t.give()
	}
	j.tell(dreamcore.NoteSkipped)
	return nil
}

// turnsLeft returns how often the model may answer; -1 if there is no limit.
func (j *job) turnsLeft() int {
	if j.settings.Agent.Turns <= 0 {
		return -1
	}
	return max(j.settings.Agent.Turns-j.earlier.turns-j.output.turns, 0)
}
