package gate

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

const (
	nameColumns = len("sandbox-io")
	timeColumns = len("99m 59s")
	wordColumns = len("relaxed")
)

// View shows a run as it happens: a row for each gate that has ended, and on a
// terminal an animated line for the running gate. Start and Result are for
// OnStart and OnResult of Config; they are not safe for concurrent use.
type View struct {
	p       *term.Printer
	running *term.Progress
}

// NewView prints the heading and returns a view. The caller must call End.
func NewView(p *term.Printer, endpoint string) *View {
	p.Heading("Gates", endpoint)
	return &View{p: p}
}

// Start shows that g is running, on a terminal only.
func (v *View) Start(g Gate) {
	if v.p.Terminal() {
		v.running = v.p.Progress(fmt.Sprintf("%d %s  %s", g.Number, g.Name, g.Passes))
	}
}

// Result shows the row of a gate that has ended.
func (v *View) Result(r Result) {
	v.stop()
	took := ""
	if r.Status != Skipped {
		took = term.Duration(time.Duration(r.Seconds * float64(time.Second)))
	}
	mark := marks[r.Status]
	lead := v.p.Style(mark.Tone(), mark.Symbol())
	width := 1
	if !v.p.Terminal() {
		// In a pipe the status is a word that programs can search for.
		lead, width = term.Pad(string(r.Status), wordColumns), wordColumns
	}
	clock := strings.Repeat(" ", max(0, timeColumns-len(took))) + took
	indent := width + len(" 0 ") + nameColumns + len("  ") + timeColumns + len("  ")
	detail := []string{r.Detail}
	if room := v.p.Columns() - indent; v.p.Terminal() && room >= 20 {
		detail = term.Wrap(r.Detail, room)
	}
	tone := term.Muted
	if r.Status == Fail {
		tone = term.Normal
	}
	v.p.Println(lead, fmt.Sprintf(" %d ", r.Number), v.p.Style(term.Strong, r.Name),
		strings.Repeat(" ", max(0, nameColumns-len(r.Name))), "  ", v.p.Style(term.Muted, clock), "  ", v.p.Style(tone, detail[0]))
	for _, line := range detail[1:] {
		v.p.Println(strings.Repeat(" ", indent), v.p.Style(tone, line))
	}
}

// End prints the summary and, if a gate failed, the hint.
func (v *View) End(r Report, hint string) {
	v.stop()
	v.p.Println()
	if r.Err() != nil {
		v.p.Failure(r.summary())
		v.p.Hint(hint)
		return
	}
	v.p.Success(r.summary())
}

func (v *View) stop() {
	if v.running != nil {
		v.running.Stop()
		v.running = nil
	}
}

var marks = map[Status]term.Mark{Pass: term.Done, Relaxed: term.Warned, Skipped: term.Skipped, Fail: term.Failed}

// Show runs gates and shows them, unless their report will be printed as JSON. hint
// returns what to do about a failure.
func Show(ctx context.Context, io *term.IO, cfg Config, hint func(error) string) Report {
	if io.JSON {
		return Run(ctx, cfg)
	}
	view := NewView(io.Stdout(), cfg.Client.Endpoint().String())
	cfg.OnStart, cfg.OnResult = view.Start, view.Result
	report := Run(ctx, cfg)
	view.End(report, hint(report.Err()))
	return report
}
