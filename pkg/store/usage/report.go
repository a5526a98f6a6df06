package usage

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Row is one line of a Report.
type Row struct {
	Key       string // of the group, such as a user or a day
	Requests  int64
	Tokens    dreamcore.Tokens
	Cost      dreamcore.Nano
	Estimated bool // a part of it is
	Last      time.Time
}

func (r *Row) add(rec Record) {
	r.Requests += rec.Requests
	r.Tokens = r.Tokens.Plus(rec.Tokens())
	r.Cost = r.Cost.Add(rec.Cost)
	r.Estimated = r.Estimated || rec.Estimated
	if rec.Time.After(r.Last) {
		r.Last = rec.Time
	}
}

// Report sums up records by one of their fields. Create one with NewReport.
type Report struct {
	Total Row

	by   string
	key  func(Record) string
	rows map[string]*Row
}

// Groups returns the fields that a report can be grouped by.
func Groups() []string { return []string{"user", "project", "day", "model", "upstream", "job"} }

// NewReport returns an empty report by one of Groups. CodeInvalid: by is not one of
// them.
func NewReport(by string) (*Report, error) {
	key, ok := map[string]func(Record) string{
		"user":     func(r Record) string { return r.User },
		"project":  func(r Record) string { return r.Project },
		"day":      func(r Record) string { return dayOf(r.Time) },
		"model":    func(r Record) string { return r.Model },
		"upstream": func(r Record) string { return r.Upstream },
		"job":      func(r Record) string { return r.Job },
	}[by]
	if !ok {
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("usage cannot be grouped by %q", by), Hint: "use --by user, project, day, model, upstream or job"}
	}
	return &Report{by: by, key: key, rows: map[string]*Row{}}, nil
}

// Add adds a record to the report. One of another cell is in the report of that cell.
func (p *Report) Add(r Record) {
	if r.Moved {
		return
	}
	k := p.key(r)
	if p.rows[k] == nil {
		p.rows[k] = &Row{Key: k}
	}
	p.rows[k].add(r)
	p.Total.add(r)
}

// Rows returns the rows: days in chronological order, jobs with the latest first,
// everything else with the most expensive first.
func (p *Report) Rows() []Row {
	var rows []Row
	for _, k := range slices.Sorted(maps.Keys(p.rows)) {
		rows = append(rows, *p.rows[k])
	}
	switch p.by {
	case "day":
	case "job":
		slices.SortStableFunc(rows, func(a, b Row) int { return b.Last.Compare(a.Last) })
	default:
		slices.SortStableFunc(rows, func(a, b Row) int { return cmp.Compare(b.Cost, a.Cost) })
	}
	return rows
}
