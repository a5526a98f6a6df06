package main

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
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
		return writeUsageCSV(a.io.Out, o.by, report)
	case a.io.JSON:
		rows := []usageRow{}
		for _, r := range report.Rows() {
			rows = append(rows, newUsageRow(r))
		}
		return a.io.WriteJSON(map[string]any{"by": o.by, "since": since.UTC(), "rows": rows, "total": newUsageRow(report.Total)})
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

// usageRow is the JSON form of a row.
type usageRow struct {
	Key          string      `json:"key,omitempty"`
	Requests     int64       `json:"requests"`
	Input        int64       `json:"input_tokens"`
	Output       int64       `json:"output_tokens"`
	CacheWrite   int64       `json:"cache_write_tokens"`
	CacheWrite1h int64       `json:"cache_write_1h_tokens"`
	CacheRead    int64       `json:"cache_read_tokens"`
	Cost         json.Number `json:"cost_usd"`
	Estimated    bool        `json:"estimated,omitempty"`
}

func newUsageRow(r usage.Row) usageRow {
	t := r.Tokens
	return usageRow{r.Key, r.Requests, t.Input, t.Output, t.CacheWrite, t.CacheWrite1h, t.CacheRead, json.Number(r.Cost.String()), r.Estimated}
}

func writeUsageCSV(out io.Writer, by string, report *usage.Report) error {
	w := csv.NewWriter(out)
	_ = w.Write([]string{by, "requests", "input_tokens", "output_tokens", "cache_write_tokens", "cache_write_1h_tokens", "cache_read_tokens", "cost_usd", "estimated"})
	for _, r := range report.Rows() {
		t := r.Tokens
		_ = w.Write([]string{
			plainCell(r.Key), count(r.Requests), count(t.Input), count(t.Output), count(t.CacheWrite), count(t.CacheWrite1h),
			count(t.CacheRead), r.Cost.String(), strconv.FormatBool(r.Estimated),
		})
	}
	w.Flush()
	return w.Error()
}

// plainCell escapes a name from a sandbox that a spreadsheet would evaluate as a
// formula.
func plainCell(s string) string {
	if s = term.Clean(s); s != "" && strings.ContainsRune("=+-@", rune(s[0])) {
		return "'" + s
	}
	return s
}

func count(n int64) string { return strconv.FormatInt(n, 10) }

func showUsage(p *term.Printer, by string, report *usage.Report) {
	rows := report.Rows()
	if len(rows) == 0 {
		p.Info("nothing was spent")
		return
	}
	t := term.Table{Columns: columns(by, ">requests", ">input", ">cache write", ">cache read", ">output", ">USD")}
	add := func(key string, r usage.Row, tone term.Tone) {
		cost := r.Cost.String()
		if r.Estimated {
			cost = "~" + cost
		}
		row := term.Row(key, count(r.Requests), count(r.Tokens.Input), count(r.Tokens.CacheWrite+r.Tokens.CacheWrite1h), count(r.Tokens.CacheRead), count(r.Tokens.Output), cost)
		for i := range row {
			row[i].Tone = tone
		}
		t.Rows = append(t.Rows, row)
	}
	for _, r := range rows {
		add(cmp.Or(r.Key, "-"), r, 0)
	}
	add("total", report.Total, term.Strong)
	p.Table(t)
}
