package gate

import (
	"fmt"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

const (
	nameColumns = len("sandbox-io")
	timeColumns = len("99m 59s")
	wordColumns = len("relaxed")
)

// View shows a run as it happens: a row for each gate that has ended, and on a
// terminal a line that moves for the one that runs. Its methods fit OnStart
// and OnResult of Config; they are not safe for concurrent use.
type View struct {
	p       *term.Printer
	running *term.Progress
}

// NewView opens a view with its heading. End closes it.
func NewView(p *term.Printer, endpoint string) *View {
	p.Heading("Gates", endpoint)
	return &View{p: p}
}

// Start shows that g runs. In a pipe its result alone will do.
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
	mark := r.Status.mark()
	lead := v.p.Style(mark.Tone(), mark.Symbol())
	width := 1
	if !v.p.Terminal() {
		// A pipe is read by searching for words.
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

// End writes the summary and, where a gate failed, what to do next.
func (v *View) End(r Report) {
	v.stop()
	v.p.Println()
	if err := r.Err(); err != nil {
		v.p.Failure(r.summary())
		v.p.Hint(dreamcore.HintOf(err))
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

func (s Status) mark() term.Mark {
	switch s {
	case Pass:
		return term.Done
	case Relaxed:
		return term.Warned
	case Skipped:
		return term.Skipped
	}
	return term.Failed
}
