package deploy

import (
	"context"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gate"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// ShowResult prints one line for a step that was carried out.
func (s Step) ShowResult(p *term.Printer) {
	p.Status(s.mark(term.Done), s.Name, string(s.Status), s.Detail)
}

// ShowSummary prints one line for a step of a preview.
func (s Step) ShowSummary(p *term.Printer) {
	what := s.Item.Path
	if len(s.Item.Commands) > 0 && what == "" {
		what = strings.Join(s.Item.Commands, "; ")
	}
	p.Status(s.mark(term.Note), s.Name, what)
}

// mark returns changed, or the mark of a step without a change.
func (s Step) mark(changed term.Mark) term.Mark {
	if s.Status == Unchanged {
		return term.Skipped
	}
	return changed
}

// would returns the word for a status in a preview.
func would(s Status) string {
	switch s {
	case Created:
		return "create"
	case Changed:
		return "change"
	case Ran:
		return "run"
	}
	return "up to date"
}

// ShowItem prints a step of a preview in full.
func (s Step) ShowItem(p *term.Printer) {
	i := s.Item
	details := []string{would(s.Status), i.Kind}
	if i.Mode != "" {
		details = append(details, i.Mode+" root:root")
	}
	if i.Source != "" {
		details = append(details, "from "+i.Source)
		if i.Kind == "link" {
			details[len(details)-1] = "to " + i.Source
		}
	}
	name := s.Name
	if i.Path != "" && !strings.Contains(name, i.Path) {
		name += " " + i.Path
	}
	p.Status(s.mark(term.Note), name, append(details, i.Note)...)
	for _, c := range i.Commands {
		p.Print("    $ " + c)
	}
	for line := range strings.Lines(i.Content) {
		p.Print("    " + strings.TrimRight(line, "\n"))
	}
}

// Result is what deploy has done, or would do.
type Result struct {
	DryRun  bool         `json:"dry_run,omitempty"`
	Changed bool         `json:"changed"`
	Steps   []Step       `json:"steps"`
	Notes   []string     `json:"notes,omitempty"` // reasons why it cannot run here
	Wiring  *Wiring      `json:"wiring,omitempty"`
	Gates   *gate.Report `json:"gates,omitempty"`
}

// NewPreview returns what the steps of a preview would do.
func NewPreview(steps []Step, obstacles []error) Result {
	r := Result{DryRun: true, Changed: HasChanges(steps), Steps: steps}
	for _, o := range obstacles {
		r.Notes = append(r.Notes, o.Error())
	}
	return r
}

// ShowPreview shows every file and command. hint returns what to do about an obstacle.
func (r Result) ShowPreview(p *term.Printer, obstacles []error, hint func(error) string) {
	p.Heading("dreamcore deploy", "dry run: nothing is changed")
	for _, s := range r.Steps {
		s.ShowItem(p)
	}
	for _, o := range obstacles {
		p.Print("")
		p.Warning("It cannot run here yet: " + o.Error())
		p.Hint(hint(o))
	}
}

// Confirm shows a line for each step that would change something, and asks whether to
// continue.
func Confirm(ctx context.Context, io *term.IO, steps []Step) (bool, error) {
	p := io.Human()
	p.Heading("dreamcore deploy", "changes:")
	for _, s := range steps {
		if s.Status != Unchanged {
			s.ShowSummary(p)
		}
	}
	p.Print("")
	ok, err := io.Confirm(ctx, "Continue?", "run: dreamcore deploy --yes (or, to see everything first: dreamcore deploy --dry-run)")
	if err == nil && !ok {
		p.Info("Nothing was changed")
	}
	return ok, err
}

// ShowInstalled shows how to continue after an installation that did not start the
// service: below root, or with "" on this machine.
func ShowInstalled(p *term.Printer, root string) {
	p.Print("")
	if root != "" {
		p.Success("The files are in " + root)
		p.Hint("to complete it, run on the machine itself: dreamcore deploy --anthropic-key-file FILE")
		return
	}
	p.Success("The service is installed")
	p.Hint("run: systemctl start " + dreamcore.AppName)
}

// Show shows how to connect a front end.
func (w Wiring) Show(p *term.Printer) {
	p.Print("")
	p.Success("The service runs at " + w.Endpoint)
	p.Print("")
	p.Print("To connect a front end, set these variables in its environment:")
	p.Print("")
	for _, line := range w.Lines {
		p.Println("  " + p.Style(term.Command, line))
	}
}
