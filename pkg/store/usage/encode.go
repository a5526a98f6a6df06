package usage

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// MarshalJSON returns the JSON form of a row, which scripts read.
func (r Row) MarshalJSON() ([]byte, error) {
	t := r.Tokens
	return json.Marshal(struct {
		Key          string      `json:"key,omitempty"`
		Requests     int64       `json:"requests"`
		Input        int64       `json:"input_tokens"`
		Output       int64       `json:"output_tokens"`
		CacheWrite   int64       `json:"cache_write_tokens"`
		CacheWrite1h int64       `json:"cache_write_1h_tokens"`
		CacheRead    int64       `json:"cache_read_tokens"`
		Cost         json.Number `json:"cost_usd"`
		Estimated    bool        `json:"estimated,omitempty"`
	}{r.Key, r.Requests, t.Input, t.Output, t.CacheWrite, t.CacheWrite1h, t.CacheRead, json.Number(r.Cost.String()), r.Estimated})
}

// WriteCSV writes the rows of the report with a header. by is the title of the
// first column.
func (r *Report) WriteCSV(out io.Writer, by string) error {
	w := csv.NewWriter(out)
	_ = w.Write([]string{by, "requests", "input_tokens", "output_tokens", "cache_write_tokens", "cache_write_1h_tokens", "cache_read_tokens", "cost_usd", "estimated"})
	count := func(n int64) string { return strconv.FormatInt(n, 10) }
	for _, row := range r.Rows() {
		t := row.Tokens
		_ = w.Write([]string{
			plainCell(row.Key), count(row.Requests), count(t.Input), count(t.Output), count(t.CacheWrite), count(t.CacheWrite1h),
			count(t.CacheRead), row.Cost.String(), strconv.FormatBool(row.Estimated),
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
