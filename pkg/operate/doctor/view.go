package doctor

import (
	"context"

	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Show runs checks of the state directory dir and of its machine, and shows each
// finding as it is made. hint returns what to do about an error.
func Show(ctx context.Context, io *term.IO, dir string, checks []Check, hint func(error) string) (Report, error) {
	if io.JSON {
		report := Run(ctx, checks, Hooks{Hint: hint})
		return report, io.WriteJSON(report)
	}
	p := io.Stdout()
	p.Heading("dreamcore doctor", dir)
	progress := p.Progress("Checking")
	defer progress.Stop()
	hooks := Hooks{Finish: func(f Finding) { f.show(p) }, Hint: hint}
	if p.Terminal() { // in a pipe the findings suffice
		hooks.Begin = progress.Update
	}
	report := Run(ctx, checks, hooks)
	progress.Stop()
	if ctx.Err() == nil && report.Healthy {
		p.Print("")
		p.Success("This machine is ready")
	}
	return report, nil
}

func (f Finding) show(p *term.Printer) {
	mark := map[Status]term.Mark{OK: term.Done, Warn: term.Warned, Fail: term.Failed, Skipped: term.Skipped}[f.Status]
	p.Status(mark, f.Name, f.Detail)
	if f.Fix != "" {
		p.Hint(f.Fix)
	}
}
