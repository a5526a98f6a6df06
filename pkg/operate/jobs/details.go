package jobs

import (
	"fmt"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gameview"
	"github.com/notef-neighbor/dreamcore/pkg/operate/show"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Show prints everything about a job, and the next command for it.
func Show(io *term.IO, j dreamcore.Job, now time.Time) error {
	return show.Value(io, j, func(p *term.Printer) {
		p.Pairs(details(j, now)...)
		p.Hint("run: dreamcore jobs " + next(j) + " " + j.ID)
	})
}

// next returns the command that comes next for a job.
func next(j dreamcore.Job) string {
	switch {
	case !j.Final():
		return "logs --follow"
	case j.State != dreamcore.JobSucceeded:
		return "retry"
	}
	return "logs"
}

func details(j dreamcore.Job, now time.Time) (pairs []term.Pair) {
	add := func(key, value string, tone term.Tone) {
		if value != "" {
			pairs = append(pairs, term.Pair{Key: key, Value: value, Tone: tone})
		}
	}
	add("job", j.ID, term.Strong)
	add("state", State(j), tone(j))
	if j.Position > 0 {
		add("place", fmt.Sprintf("%d in the queue", j.Position), term.Normal)
	}
	add("user", string(j.User), term.Normal)
	add("project", string(j.Project), term.Normal)
	add("prompt", prompt(j), term.Normal)
	add("why", why(j), term.Bad)
	add("cause", j.Cause, term.Normal)
	add("attempts", attempts(j), term.Normal)
	add("created", at(j.Created, now), term.Normal)
	add("started", after(j.Started, j.Created, "waited"), term.Normal)
	add("ended", after(j.Ended, j.Started, "took"), term.Normal)
	add("cost", cost(j), term.Normal)
	if j.Input+j.Output > 0 {
		add("tokens", fmt.Sprintf("%d in, %d out", j.Input, j.Output), term.Normal)
	}
	add("version", j.Commit, term.Normal)
	if j.Acceptance != nil {
		add("game", gameview.Verdict(*j.Acceptance), gameTone(*j.Acceptance))
		for _, line := range gameview.Findings(*j.Acceptance) {
			add("finding", line, term.Normal)
		}
		add("unknown why", j.Acceptance.Reason, term.Normal)
	}
	if j.Repairs > 0 {
		add("repairs", strconv.Itoa(j.Repairs), term.Normal)
	}
	add("commit name", j.CommitMessage, term.Normal)
	add("language", string(j.Language), term.Normal)
	add("request", j.RequestID, term.Normal)
	add("options", options(j), term.Normal)
	add("events", strconv.FormatUint(j.LastEventID, 10), term.Normal)
	return pairs
}

func gameTone(a dreamcore.Acceptance) term.Tone {
	switch a.Verdict {
	case dreamcore.AcceptancePassed:
		return term.Good
	case dreamcore.AcceptanceFailed:
		return term.Bad
	}
	return term.Normal
}

func prompt(j dreamcore.Job) string {
	if j.PromptBytes > len(j.Prompt) {
		return fmt.Sprintf("%s (the beginning of %s)", j.Prompt, term.Size(int64(j.PromptBytes)))
	}
	return j.Prompt
}

// why returns the code of a failure and the exit code of the agent.
func why(j dreamcore.Job) string {
	if j.Code == "" {
		return ""
	}
	text := string(j.Code)
	if j.ExitCode != nil && *j.ExitCode != 0 {
		text += fmt.Sprintf(", exit code %d", *j.ExitCode)
	}
	return text
}

func attempts(j dreamcore.Job) string {
	if j.Attempt == 0 {
		return "none yet"
	}
	return strconv.Itoa(j.Attempt)
}

func options(j dreamcore.Job) string {
	text := ""
	if j.Detach {
		text = "runs on without listeners"
	}
	if j.HasKey {
		if text != "" {
			text += ", "
		}
		text += "has an idempotency key"
	}
	return text
}

func at(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s (%s ago)", term.Time(t), term.Duration(now.Sub(t).Truncate(time.Second)))
}

// after returns a time, and how long it is after another one.
func after(t, before time.Time, word string) string {
	switch {
	case t.IsZero():
		return ""
	case before.IsZero():
		return term.Time(t)
	}
	return fmt.Sprintf("%s (%s %s)", term.Time(t), word, term.Duration(t.Sub(before)))
}
