package acceptance

import (
	"context"
	"embed"
	"fmt"
	"os"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// pages are a game that works and one that does not.
//
//go:embed pages
var pages embed.FS

// page is the game of one of the pages.
func page(name string) Source {
	return func(ctx context.Context, to *os.Root) error {
		raw, err := pages.ReadFile("pages/" + name)
		if err != nil {
			return err
		}
		return tree.PutFile(ctx, to, tree.Entry{Path: "index.html", Mode: 0o644}, strings.NewReader(string(raw)), true)
	}
}

// Prove plays a game that works and one that does not, and fails unless the
// verdicts are right. It returns the browser's product and version.
func (p Place) Prove(ctx context.Context, s Settings) (browser string, err error) {
	for _, tt := range []struct {
		page string
		want verdict.Status
	}{{"good.html", verdict.Passed}, {"broken.html", verdict.Failed}} {
		r, err := p.Check(ctx, page(tt.page), s)
		if err != nil {
			return "", err
		}
		if r.Verdict != tt.want {
			return "", unknown(ReasonOutput, fmt.Sprintf("a page that must have %s has %s: %s", tt.want, r.Verdict, findings(r)), nil)
		}
		browser = r.Browser
	}
	return browser, nil
}

// findings returns the findings of a report as one line.
func findings(r verdict.Report) string {
	var all []string
	for _, c := range r.Checks {
		if c.Status != verdict.Passed {
			all = append(all, fmt.Sprintf("%s %s: %s", c.Name, c.Screen, c.Message))
		}
	}
	return strings.Join(all, "; ")
}
