package jobs

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/show"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// shortID is how much of an id a table on a terminal shows.
const shortID = 8

// wideTable is the width of a terminal that has room for whole ids.
const wideTable = 200

// List prints the jobs that were found; more says that limit has left some out.
func List(io *term.IO, all []dreamcore.Job, more bool, limit int, now time.Time) error {
	object := map[string]any{"jobs": append([]dreamcore.Job{}, all...), "more": more}
	return show.Value(io, object, func(p *term.Printer) {
		if len(all) == 0 {
			p.Info("There are no such jobs")
			return
		}
		p.Table(Table(p, all, now))
		if more {
			p.Hint(fmt.Sprintf("there are more; show them with --limit %d", 10*limit))
		}
	})
}

// NoteOffline says why jobs that have not ended do not move, if no service runs.
func NoteOffline(io *term.IO, r Reader, all ...dreamcore.Job) {
	if IsOffline(r) && slices.ContainsFunc(all, func(j dreamcore.Job) bool { return !j.Final() }) {
		io.Stderr().Info("No service is running: jobs that have not ended go on when it starts")
	}
}

// Table returns jobs as a table for p. In a pipe, ids and prompts are whole; on a
// terminal every job takes one line.
func Table(p *term.Printer, all []dreamcore.Job, now time.Time) term.Table {
	t := term.Table{Columns: []term.Column{
		{Title: "JOB"}, {Title: "STATE"}, {Title: "USER"}, {Title: "PROJECT"}, {Title: "AGE", Right: true}, {Title: "PLACE", Right: true}, {Title: "COST", Right: true}, {Title: "PROMPT", Cut: true},
	}}
	short := func(id string) string {
		if p.Terminal() && p.Columns() < wideTable {
			return id[:min(len(id), shortID)]
		}
		return id
	}
	for _, j := range all {
		place := ""
		if j.Position > 0 {
			place = strconv.Itoa(j.Position)
		}
		row := term.Row(short(j.ID), State(j), short(string(j.User)), short(string(j.Project)), show.Age(now.Sub(j.Created)), place, cost(j), j.Prompt)
		row[1].Tone = tone(j)
		row[7].Tone = term.Muted
		t.Rows = append(t.Rows, row)
	}
	return t
}

// State returns the state of a job for people.
func State(j dreamcore.Job) string {
	if j.CancelRequested && !j.Final() {
		return "cancelling"
	}
	return string(j.State)
}

func tone(j dreamcore.Job) term.Tone {
	switch j.State {
	case dreamcore.JobSucceeded:
		return term.Good
	case dreamcore.JobFailed:
		return term.Bad
	case dreamcore.JobRunning:
		return term.Accent
	case dreamcore.JobQueued:
		return term.Caution
	}
	return term.Muted
}

func cost(j dreamcore.Job) string {
	if j.Cost == 0 && !j.Final() {
		return ""
	}
	return term.Dollars(dollars(j.Cost))
}

func dollars(d dreamcore.Dollars) float64 { return float64(d) / float64(dreamcore.NanoPerDollar) }
