package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

type usageOptions struct {
	by, since, user string
	csv             bool
}

func newUsageCmd(a *app) *cobra.Command {
	var o usageOptions
	c := &cobra.Command{
		Use: "usage", Short: "Show what was spent on the model",
		Long: "Sums up the ledger of this state directory, by default by day for the current month\n" +
			"(UTC). A ~ marks a sum that contains an estimate, because an answer ended before the\n" +
			"model had reported its use.",
		Example: "  dreamcore usage --by user --since 2026-11-01\n  dreamcore usage --by job --since 24h --json",
		Args:    usageArgs(cobra.NoArgs),
		RunE:    func(*cobra.Command, []string) error { return runUsage(a, o, time.Now()) },
	}
	f := c.Flags()
	f.StringVar(&o.by, "by", "day", "group by: "+strings.Join(usage.Groups(), ", "))
	f.StringVar(&o.since, "since", "", "only since a date like 2026-11-01, a time, or a time ago, like 24h (default: this month)")
	f.StringVar(&o.user, "user", "", "only of this user, a UUID")
	f.BoolVar(&o.csv, "csv", false, "print CSV")
	return c
}

func runUsage(a *app, o usageOptions, now time.Time) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	u := now.UTC()
	since, err := parseSince(o.since, now, time.Date(u.Year(), u.Month(), 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		return err
	}
	if o.user, err = userFlag(o.user); err != nil {
		return err
	}
	report, err := usage.NewReport(o.by)
	if err != nil {
		return err
	}
	if err := usage.Read(filepath.Join(cfg.State, daemon.UsageDir), since, func(r usage.Record) {
		if o.user == "" || o.user == r.User {
			report.Add(r)
		}
	}); err != nil {
		return err
	}
	switch {
	case o.csv:
		return report.WriteCSV(a.io.Out, o.by)
	case a.io.JSON:
		return a.io.WriteJSON(map[string]any{"by": o.by, "since": since.UTC(), "rows": append([]usage.Row{}, report.Rows()...), "total": report.Total})
	}
	showUsage(a.io.Stdout(), o.by, report)
	return nil
}

// userFlag checks the id of a user. s may be "".
func userFlag(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	id, err := dreamcore.ParseUserID(s)
	return string(id), err
}

// parseSince parses a date (UTC), a time, or a duration before now.
func parseSince(s string, now, otherwise time.Time) (time.Time, error) {
	if s == "" {
		return otherwise, nil
	}
	for _, form := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(form, s); err == nil {
			return t, nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("invalid time %q in --since", s),
		Hint: "use a date like 2026-11-01, a time like 2026-11-01T12:00:00Z, or a time ago, like 24h",
	}
}

func showUsage(p *term.Printer, by string, report *usage.Report) {
	rows := report.Rows()
	if len(rows) == 0 {
		p.Info("nothing was spent")
		return
	}
	t := term.Table{Columns: columns(by, ">requests", ">input", ">cache write", ">cache read", ">output", ">USD")}
	total := report.Total
	total.Key = "total"
	for _, r := range append(rows, total) {
		cost := r.Cost.String()
		if r.Estimated {
			cost = "~" + cost
		}
		t.Rows = append(t.Rows, term.Row(cmp.Or(r.Key, "-"), fmt.Sprint(r.Requests), fmt.Sprint(r.Tokens.Input),
			fmt.Sprint(r.Tokens.CacheWrite+r.Tokens.CacheWrite1h), fmt.Sprint(r.Tokens.CacheRead), fmt.Sprint(r.Tokens.Output), cost))
	}
	last := t.Rows[len(rows)]
	for i := range last {
		last[i].Tone = term.Strong
	}
	p.Table(t)
}
