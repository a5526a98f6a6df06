package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is the JSON file of a run.
type report struct {
	Time    time.Time `json:"time"`
	Cores   int       `json:"cores"`
	Kernel  string    `json:"kernel"`
	Load    []string  `json:"load"` // of one minute, before and after
	Rows    []row     `json:"rows"`
	Curves  []curve   `json:"curves"`
	Skipped []string  `json:"skipped"`
}

// row is what one thing took. Ratio is the median of the ratios to the first
// row of its part, of the same round; 0 without rounds.
type row struct {
	Part   string  `json:"part"`
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Count  int     `json:"count"`
	Median float64 `json:"median"`
	P95    float64 `json:"p95"`
	P99    float64 `json:"p99"`
	Ratio  float64 `json:"ratio,omitempty"`
	Note   string  `json:"note,omitempty"`
}

// curve is a figure by the number of something.
type curve struct {
	Name   string    `json:"name"`
	Of     []int     `json:"of"`
	Millis []float64 `json:"millis"`
}

func newReport() report {
	var name unix.Utsname
	kernel := "unknown"
	if unix.Uname(&name) == nil {
		kernel = unix.ByteSliceToString(name.Release[:])
	}
	return report{Time: time.Now().UTC().Truncate(time.Second), Cores: runtime.NumCPU(), Kernel: kernel, Load: []string{load()}}
}

// load returns the load average of the last minute.
func load() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	minute, _, _ := strings.Cut(string(raw), " ")
	return minute
}

// percentile returns the smallest value that at least p percent do not exceed.
func percentile(values []float64, p float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(int(math.Ceil(p/100*float64(len(sorted)))), 1)-1]
}

func median(values []float64) float64 { return percentile(values, 50) }

// add adds a row. base are the values of the same rounds to which it compares;
// nil means none.
func (r *report) add(part, name, unit string, values, base []float64, note string) {
	out := row{
		Part: part, Name: name, Unit: unit, Count: len(values), Note: note,
		Median: median(values), P95: percentile(values, 95), P99: percentile(values, 99),
	}
	if base != nil {
		ratios := make([]float64, len(values))
		for i := range values {
			ratios[i] = values[i] / base[i]
		}
		out.Ratio = median(ratios)
	}
	r.Rows = append(r.Rows, out)
}

// write prints the report, and writes it to path.json and path.svg.
func (r *report) write(w io.Writer, path string) error {
	r.Load = append(r.Load, load())
	fmt.Fprintf(w, "%d cores, kernel %s, load %s\n", r.Cores, r.Kernel, strings.Join(r.Load, " to "))
	part := ""
	for _, row := range r.Rows {
		if row.Part != part {
			part = row.Part
			fmt.Fprintf(w, "\n%-44s %9s %9s %9s %7s\n", part, "median", "p95", "p99", "ratio")
		}
		ratio := ""
		if row.Ratio > 0 {
			ratio = fmt.Sprintf("%.2f", row.Ratio)
		}
		fmt.Fprintf(w, "%-44s %9.1f %9.1f %9.1f %7s %s (%d) %s\n", row.Name, row.Median, row.P95, row.P99, ratio, row.Unit, row.Count, row.Note)
	}
	for _, c := range r.Curves {
		fmt.Fprintf(w, "\n%s\n", c.Name)
		for i, n := range c.Of {
			fmt.Fprintf(w, "%10d %12.3f ms\n", n, c.Millis[i])
		}
	}
	for _, s := range r.Skipped {
		fmt.Fprintln(w, "skipped:", s)
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".json", append(raw, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(path+".svg", plot(r), 0o644)
}
