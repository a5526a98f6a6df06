package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for _, tt := range []struct {
		values []float64
		p      float64
		want   float64
	}{
		{[]float64{7}, 50, 7}, {[]float64{7}, 99, 7}, {[]float64{3, 1, 2}, 50, 2}, {[]float64{4, 1, 3, 2}, 50, 2},
		{hundred, 50, 50}, {hundred, 95, 95}, {hundred, 99, 99}, {hundred, 0, 1}, {hundred, 100, 100},
	} {
		if got := percentile(tt.values, tt.p); got != tt.want {
			t.Errorf("percentile %g of %d values is %g, want %g", tt.p, len(tt.values), got, tt.want)
		}
	}
}

// A slow round slows both of a pair, so the ratio is that of rounds, not of medians.
func TestRatioIsThatOfTheSameRound(t *testing.T) {
	var r report
	r.add("part", "name", "ms", []float64{20, 2, 200}, []float64{10, 1, 100}, "")
	if r.Rows[0].Ratio != 2 || r.Rows[0].Median != 20 {
		t.Errorf("got %+v", r.Rows[0])
	}
}

func TestReportIsWritten(t *testing.T) {
	r := newReport()
	r.Time = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r.add("<part>", "a & b", "ms", []float64{0, 1, 2000}, []float64{1, 1, 1}, "")
	r.add("memory", "of each", "MiB", []float64{15}, nil, "100 users")
	r.Curves = []curve{{"answers", []int{10, 100}, []float64{0, 5}}, {"one", []int{10}, []float64{5}}}
	r.Skipped = []string{"crun: refused"}
	path := filepath.Join(t.TempDir(), "bench")
	var out bytes.Buffer
	if err := r.write(&out, path); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a & b", "2000.0", "of each", "skipped: crun: refused", "answers"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %s", want, out.String())
		}
	}
	raw, err := os.ReadFile(path + ".json")
	var again report
	if err == nil {
		err = json.Unmarshal(raw, &again)
	}
	if err != nil || len(again.Rows) != 2 || again.Rows[0].P99 != 2000 {
		t.Errorf("got %+v, %v", again, err)
	}
	picture, err := os.ReadFile(path + ".svg")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(picture, []byte("NaN")) || bytes.Contains(picture, []byte("Inf")) {
		t.Errorf("the picture has no place for a value: %s", picture)
	}
	for d := xml.NewDecoder(bytes.NewReader(picture)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestFollowTimesTheLinesOfTheAgent(t *testing.T) {
	begin := time.Now().Add(-time.Hour)
	events := "data: {\"type\":\"status\"}\n\ndata: {\"type\":\"system\"}\n\ndata: {\"type\":\"assistant\"}\n\ndata: {\"type\":\"done\",\"exit_code\":0}\n\n"
	l, last, err := follow(strings.NewReader(events), begin)
	if err != nil || string(last) != `{"type":"done","exit_code":0}` || l.first <= 0 || l.said < l.first || l.whole < l.said {
		t.Errorf("got %+v, %s, %v", l, last, err)
	}
	if _, _, err := follow(strings.NewReader("{\"type\":\"result\"}\n"), begin); err == nil {
		t.Error("a run that says nothing counts")
	}
}
