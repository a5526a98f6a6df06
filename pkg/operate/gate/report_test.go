package gate

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", name, diff)
	}
}

// samples are reports of each kind.
func samples() map[string]Report {
	unreachable := &dreamcore.Error{Code: dreamcore.CodeUnreachable, Message: "nothing listens at host:8080", Hint: "check the port"}
	return map[string]Report{
		"passed": {Endpoint: "http://host:8080", Passed: true, Gates: []Result{
			{0, "health", Pass, "dreamcore 1.0.0", 0.012, nil, nil},
			{1, "sandbox-io", Pass, `"hello" went in and came out`, 0.412, nil, nil},
			{2, "isolation", Relaxed, `allowed by ALLOW_NON_GVISOR; no gVisor: /proc/version is "Linux version 6.1.0"`, 0.391, nil, nil},
			{3, "streaming", Pass, "5 chunks, 0.99 to 1.01 s apart", 4.523, nil, nil},
			{4, "volume", Pass, "what was written is read back, twice", 1.204, nil, nil},
			{5, "auth", Pass, "401 without, with a wrong and an empty secret; 200 with the right one", 0.021, nil, nil},
		}},
		"failed": {Endpoint: "https://acme--dreamcore", Gates: []Result{
			{1, "sandbox-io", Fail, "the server reports: <no> \"sandbox\" & 日本語 \ufffd]]>", 60, nil, errors.New("x")},
			{4, "volume", Pass, "what was written is read back, twice", 1.2, nil, nil},
		}},
		"unreachable": {Endpoint: "http://host:8080", Gates: []Result{
			{0, "health", Fail, "nothing listens at host:8080: connect: connection refused", 0.001, nil, unreachable},
			{1, "sandbox-io", Skipped, "the server cannot be reached", 0, nil, nil},
		}},
	}
}

func TestReportsMatchTheGoldenFiles(t *testing.T) {
	for name, report := range samples() {
		t.Run(name, func(t *testing.T) {
			tio, out, _ := term.Buffers("")
			show(tio, report)
			golden(t, name+".txt", out.String())

			tio, out, _ = term.Buffers("")
			tio.OutTerminal, tio.Color, tio.Width = true, true, 72
			show(tio, report)
			golden(t, name+".terminal.txt", strings.ReplaceAll(out.String(), "\x1b", "␛"))

			out.Reset()
			if err := report.WriteJSON(out); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json", out.String())

			out.Reset()
			if err := report.WriteJUnit(out); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".xml", out.String())
		})
	}
}

func show(tio *term.IO, r Report) {
	view := NewView(tio.Stdout(), r.Endpoint)
	for _, g := range r.Gates {
		view.Result(g)
	}
	view.End(r, dreamcore.HintOf(r.Err()))
}

func TestTheRunningGateIsShownOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tio, out, _ := term.Buffers("")
		tio.OutTerminal, tio.Rewrite, tio.Width = true, true, 100
		view := NewView(tio.Stdout(), "http://server")
		report := Run(t.Context(), Config{
			Client:   overPipe(t, testSecret, server{}),
			Gates:    standard(t),
			OnStart:  view.Start,
			OnResult: view.Result,
		})
		view.End(report, "")
		shown := out.String()
		contains(t, "output", shown, "3 streaming  5 or more chunks arrive, 0.5 to 2 s apart  3 s\r\x1b[2K")
		contains(t, "output", shown, "\r\x1b[2K✓ 3 streaming       4 s  5 chunks, 1.00 to 1.00 s apart\n")
		if !strings.HasSuffix(shown, "\n\n✓ 6 of 6 gates passed\n") {
			t.Errorf("ends with %q", shown[max(0, len(shown)-60):])
		}
	})
}

func TestThereIsNoAnimationInAPipe(t *testing.T) {
	tio, out, _ := term.Buffers("")
	view := NewView(tio.Stdout(), "x")
	view.Start(All()[0])
	view.Result(Result{Name: "health", Status: Pass, Seconds: (12 * time.Millisecond).Seconds()})
	if got := out.String(); strings.Count(got, "health") != 1 {
		t.Errorf("output: %q", got)
	}
}

func TestJUnitIsValidXMLForAnyDetail(t *testing.T) {
	hostile := "\x00\x01\x1b[31m]]><&\"'\ufffe\uffff\xff\u2028日本"
	report := Report{Endpoint: hostile, Gates: []Result{
		{1, hostile, Fail, hostile, 1, nil, nil}, {2, "b", Skipped, hostile, 0, nil, nil}, {3, "c", Pass, hostile, 0.5, nil, nil},
	}}
	var b bytes.Buffer
	if err := report.WriteJUnit(&b); err != nil {
		t.Fatal(err)
	}
	var back junitSuites
	if err := xml.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatalf("%v in:\n%s", err, b.String())
	}
	want := junitCounts{Tests: 3, Failures: 1, Skipped: 1, Time: "1.500"}
	if back.Suite.junitCounts != want || len(back.Suite.Cases) != 3 || back.Suite.Cases[0].Failure == nil || back.Suite.Cases[1].Skipped == nil {
		t.Errorf("read back: %+v", back)
	}
	if strings.ContainsAny(b.String(), "\x00\x01\x1b\ufffe\uffff") {
		t.Errorf("invalid characters are left: %q", b.String())
	}
	if err := report.WriteJUnit(full{}); err == nil {
		t.Error("a full disk was not reported")
	}
	if err := report.WriteJSON(full{}); err == nil {
		t.Error("a full disk was not reported")
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }
