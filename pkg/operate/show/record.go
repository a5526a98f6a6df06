package show

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Usage shows the cost of the model since a time, by one of usage.Groups.
func Usage(io *term.IO, by string, since time.Time, report *usage.Report) error {
	object := map[string]any{"by": by, "since": since.UTC(), "rows": orEmpty(report.Rows()), "total": report.Total}
	return Value(io, object, func(p *term.Printer) {
		rows := report.Rows()
		if len(rows) == 0 {
			p.Info("nothing was spent")
			return
		}
		t := term.Table{Columns: Columns(by, ">requests", ">input", ">cache write", ">cache read", ">output", ">USD")}
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
	})
}

// Audited shows a record of the audit log, whose texts are untrusted. raw is the
// record as it is stored.
func Audited(io *term.IO, e audit.Entry, raw []byte) error {
	if io.JSON {
		return io.WriteLine(raw)
	}
	p, tone := io.Stdout(), term.Muted
	switch e.Verdict {
	case audit.Refused:
		tone = term.Bad
	case audit.Failed:
		tone = term.Caution
	}
	usd := ""
	if e.Cost > 0 {
		usd = e.Cost.String()
	}
	words := []string{e.Time.UTC().Format("2006-01-02 15:04:05.000 UTC"), p.Style(tone, term.Pad(term.Clean(string(e.Verdict)), 7)), term.Pad(term.Clean(e.Event), 13)}
	for _, field := range [][2]string{
		{"user", e.User}, {"project", e.Project}, {"job", e.Job}, {"sandbox", e.Sandbox}, {"upstream", e.Upstream}, {"model", e.Model},
		{"request", strings.TrimSpace(e.Method + " " + e.Target)}, {"status", strconv.Itoa(e.Status)},
		{"out", strconv.FormatInt(e.BytesOut, 10)}, {"in", strconv.FormatInt(e.BytesIn, 10)}, {"tokens", strconv.FormatInt(e.Tokens.Total(), 10)},
		{"usd", usd}, {"reason", e.Reason}, {"suppressed", strconv.FormatInt(e.Suppressed, 10)},
	} {
		if name, value := field[0], field[1]; value != "" && value != "0" {
			words = append(words, name+"="+term.Clean(value))
		}
	}
	p.Println(strings.Join(words, " "))
	return nil
}
