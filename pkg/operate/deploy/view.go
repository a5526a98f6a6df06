package deploy

import (
	"strings"

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
	if i.Content != "" {
		for line := range strings.Lines(i.Content) {
			p.Print("    " + strings.TrimRight(line, "\n"))
		}
	}
}
