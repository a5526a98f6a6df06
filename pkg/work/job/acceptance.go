package job

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/mediatype"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// Checker plays games in a browser, inside the sandbox in which they were made, and
// says whether they work.
type Checker interface {
	// Start prepares a check: it may start the browser while the agent still works,
	// and returns at once.
	Start(ctx context.Context, g Game) Check
}

// Check is one check. Its methods are called one after another.
type Check interface {
	// Run plays the game until ctx ends at most. An error means that there is no
	// verdict: no browser, or one that did not answer. It blocks nothing.
	Run(ctx context.Context) (verdict.Report, error)
	// Close ends the browser and frees everything of the check.
	Close(ctx context.Context) error
}

// Game is a game to be checked.
type Game struct {
	Workspace *workspace.Workspace // that the caller has leased
	Dir       string               // of the project, inside
	Limit     time.Duration        // of the check
}

// Acceptance selects the end of jobs whose games do not play.
type Acceptance string

// The values of Acceptance. "" is AcceptanceOff.
const (
	AcceptanceOff  Acceptance = "off"  // no check
	AcceptanceWarn Acceptance = "warn" // the agent mends the game; if that fails, the job warns
	AcceptanceFail Acceptance = "fail" // the same, and the job fails
)

// checkSlack is how much longer than its limit a check may take: the start of the
// browser and the way of the report are not part of the limit.
const checkSlack = 20 * time.Second

// checks reports whether the job checks its game.
func (j *job) checks() bool {
	on := j.settings.Acceptance == AcceptanceWarn || j.settings.Acceptance == AcceptanceFail
	return on && j.service.parts.Checker != nil && j.settings.AcceptanceLimit > 0
}

// trial is the check of the game of one job, with its repairs.
type trial struct {
	job      *job
	site     site
	deadline time.Time // of the job
	check    Check     // of the next run; nil if it was closed

	last   dreamcore.Acceptance        // result of the last check
	found  []dreamcore.AcceptanceCheck // findings of the last check that failed; nil if none did, or one has passed since
	before []dreamcore.AcceptanceCheck // findings before the last repair
}

// newTrial returns the trial, which continues with the findings of earlier attempts.
func (j *job) newTrial(s site, deadline time.Time) *trial {
	t := &trial{job: j, site: s, deadline: deadline}
	if f := j.earlier.failed; f != nil {
		t.last, t.found = *f, f.Failed()
	}
	return t
}

// makeGame runs the agent, and then plays the game: what it finds goes back to the
// agent, which may mend it a few times.
func (j *job) makeGame(ctx context.Context, s site, deadline time.Time) error {
	if !j.checks() && j.earlier.repairs == 0 {
		if j.earlier.made { // the setting has changed since
			return nil
		}
		return j.runAgent(ctx, s, deadline, j.prompt)
	}
	t := j.newTrial(s, deadline)
	defer t.close(ctx)
	t.start(ctx)
	finished := true
	switch {
	case j.earlier.made:
	case j.earlier.repairs > 0: // so the game was made before
		var err error
		if finished, err = t.resume(ctx); err != nil {
			return t.cancelled(ctx, err)
		}
	default:
		if err := j.runAgent(ctx, s, deadline, j.prompt); err != nil {
			return err
		}
		j.note(note{Made: &madeNote{At: time.Now()}})
	}
	if !j.checks() { // the setting has changed since
		return nil
	}
	return t.run(ctx, finished)
}

// start prepares the next check.
func (t *trial) start(ctx context.Context) {
	if t.check == nil && t.job.checks() {
		t.check = t.job.service.parts.Checker.Start(ctx, Game{Workspace: t.site.workspace, Dir: t.site.dir, Limit: t.job.settings.AcceptanceLimit})
	}
}

// close ends the browser. After it no process of the check runs any more.
func (t *trial) close(ctx context.Context) {
	if t.check == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	if err := t.check.Close(ctx); err != nil {
		t.job.log.Warn("end the browser of a check", "error", err)
	}
	t.check = nil
}

// run checks and mends the game until it plays, or until it cannot go on. finished
// says that the agent has ended well.
func (t *trial) run(ctx context.Context, finished bool) (err error) {
	for {
		t.play(ctx, finished)
		if ctx.Err() != nil {
			return t.cancelled(ctx, context.Cause(ctx))
		}
		if t.found == nil {
			return nil // it plays, or nothing says that it does not
		}
		if t.last.Verdict == dreamcore.AcceptanceFailed && t.before != nil && len(t.found) >= len(t.before) {
			t.job.tell(dreamcore.NoteNotBetter)
		}
		if !finished || t.last.Verdict != dreamcore.AcceptanceFailed || !t.mayRepair(ctx) {
			return t.give()
		}
		if finished, err = t.repair(ctx); err != nil {
			return t.cancelled(ctx, err)
		}
	}
}

// play checks the game once and reports the result. If a repair was not finished, only
// a verdict replaces the one before it.
func (t *trial) play(ctx context.Context, finished bool) {
	defer t.close(ctx)
	report, shots, why := t.verdict(ctx)
	if ctx.Err() != nil || !finished && t.found != nil && report.Verdict == dreamcore.AcceptanceUnknown {
		return
	}
	j := t.job
	report.Attempt = j.summary.Repairs + 1
	report.Reason = reason(why)
	a := report.Bounded()
	j.emit(dreamcore.AcceptanceEvent(a))
	a.Reason = j.service.cause(why) // for operators only
	j.log.Info("checked the game", "verdict", a.Verdict, "attempt", a.Attempt, "findings", len(a.Failed()), "millis", a.Millis, "reason", a.Reason)
	switch a.Verdict {
	case dreamcore.AcceptancePassed:
		t.found = nil
		j.tell(dreamcore.NotePlays)
	case dreamcore.AcceptanceFailed:
		t.found = a.Failed()
	case dreamcore.AcceptanceUnknown:
		j.tell(dreamcore.NoteSkipped)
		if t.found != nil && (j.summary.Repairs == 0 || !t.changed(ctx)) {
			j.verdict = dreamcore.AcceptanceFailed // the earlier findings still hold
			return
		}
	}
	t.last = a
	j.shots, j.verdict, j.summary.Acceptance = shots, a.Verdict, a.Verdict
	brief := a.Brief()
	j.accepted = &brief
	j.note(note{Checked: &checkedNote{At: time.Now(), Acceptance: brief}})
	j.noteAcceptance()
}

// changed reports whether the game has changed since it was last saved, and saves it.
func (t *trial) changed(ctx context.Context) bool {
	t.job.verdict = dreamcore.AcceptanceUnknown
	made, err := t.job.record(ctx, t.site.project, t.job.versionName())
	if err != nil {
		t.job.log.Error("save the version after a repair", "error", err)
	}
	return err != nil || made.Changed
}

// verdict plays the game in the browser. why says why the verdict is unknown.
func (t *trial) verdict(ctx context.Context) (a dreamcore.Acceptance, shots []verdict.Shot, why error) {
	a.Verdict = dreamcore.AcceptanceUnknown
	left := time.Until(t.deadline)
	if left < t.job.settings.AcceptanceLimit {
		return a, nil, errNoTime
	}
	switch page, err := hasPage(ctx, t.site.project); {
	case err != nil:
		return a, nil, err
	case !page:
		return a, nil, errNoPage
	}
	t.job.tell(dreamcore.NoteChecking)
	t.start(ctx)
	ctx, cancel := context.WithTimeout(ctx, min(t.job.settings.AcceptanceLimit+checkSlack, left))
	defer cancel()
	report, err := t.check.Run(ctx)
	if err != nil {
		return a, nil, err
	}
	return accepted(report), report.Shots, nil
}

// The reasons for which a game is not played. Clients see them.
var (
	errNoPage = errors.New("the project has no page")
	errNoTime = errors.New("the time limit of the job leaves no time for a check")
)

// reason returns why a check has no verdict, as clients may see it: the cause is for
// operators.
func reason(err error) string {
	if err == nil {
		return ""
	}
	for _, known := range []error{errNoPage, errNoTime} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return acceptance.Sentence(err)
}

// hasPage reports whether a project has a page to be played.
func hasPage(ctx context.Context, project *volume.Project) (bool, error) {
	for f, err := range project.Files(ctx) {
		if err != nil {
			return false, err
		}
		if mediatype.IsPage(f.Path) {
			return true, nil
		}
	}
	return false, nil
}

// accepted returns a report as events and records have it. A verdict that the
// sandbox made up is unknown.
func accepted(r verdict.Report) dreamcore.Acceptance {
	a := dreamcore.Acceptance{Browser: r.Browser, Millis: max(r.Millis, 0), Verdict: dreamcore.AcceptanceUnknown}
	for _, c := range r.Checks[:min(len(r.Checks), verdict.MaxChecks)] {
		a.Checks = append(a.Checks, dreamcore.AcceptanceCheck{
			Name: string(c.Name), Screen: string(c.Screen), Status: string(c.Status),
			Message: c.Message, File: c.File, Line: max(c.Line, 0),
		})
	}
	switch {
	case len(a.Failed()) > 0:
		a.Verdict = dreamcore.AcceptanceFailed
	case r.Verdict == verdict.Passed:
		a.Verdict = dreamcore.AcceptancePassed
	}
	return a
}

// summarize returns the first findings as one text, for the log and the record.
func summarize(findings []dreamcore.AcceptanceCheck) string {
	var all []string
	for _, c := range merge(findings) {
		where := dreamcore.AcceptanceCheck{File: c.File, Line: c.Line}.Where()
		all = append(all, strings.TrimSpace(where+" "+c.Message))
	}
	return strings.Join(all, "; ")
}

// tell tells the player about the check.
func (j *job) tell(n dreamcore.AcceptanceNote) { j.status(n.Text(j.lang)) }

// note writes a note to the log. Without it, the next attempt repeats a step.
func (j *job) note(n note) {
	if err := j.journal.Note(n.encode()); err != nil {
		j.log.Error("write a note", "error", err)
	}
}
