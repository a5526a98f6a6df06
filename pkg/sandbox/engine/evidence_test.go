package engine

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestEvidenceKeepsTheReason(t *testing.T) {
	const (
		info    = "I1123 23:08:23.365420       1 cli.go:275] **** gVisor ****\n"
		debug   = "D1123 23:08:23.365420       1 cli.go:275] information\n"
		warning = "W1123 23:08:23.406694       1 filter.go:43] less restrictive\n"
		failure = "E1123 23:08:23.406694       1 boot.go:1] no such mount\n"
		timing  = "[23:08:23.365084]\t +4 919µs ├─ Go code running\n---- End of timing ----\n"
	)
	tests := map[string]struct{ in, want string }{
		"nothing":                  {"", ""},
		"information":              {info + debug + timing, ""},
		"warnings alone":           {info + warning, strings.TrimSpace(warning)},
		"errors before warnings":   {warning + failure + warning, strings.TrimSpace(failure)},
		"JSON becomes its message": {`{"msg":"mounting: no such file","level":"error","time":"x"}` + "\n", "mounting: no such file"},
		"JSON without a newline": {
			`{"msg":"no such file","level":"error"}` + warning + `{"msg":"a\nb","level":"error"}{"msg":"c"}PID 1: broken` + "\n",
			"no such file\na\nb\nc\nPID 1: broken",
		},
		"a cause is kept once":   {"no such file\n" + `{"msg":"no such file"}` + failure + "no such file\n" + failure, "no such file\n" + strings.TrimSpace(failure)},
		"JSON without a message": {`{"a":1} x` + "\n", `{"a":1} x`},
		"a line of PID 1":        {info + "PID 1: broken\n" + warning, "PID 1: broken"},
		"no last newline":        {"PID 1: broken", "PID 1: broken"},
		"a crash, not its stacks": {
			"panic: boom\n\ngoroutine 1 [running]:\na\nb\nc\nd\ne\nf\ng\n" + failure,
			"panic: boom\ngoroutine 1 [running]:\na\nb\nc\nd",
		},
		"last errors":    {manyLines(100), strings.TrimSpace(manyLines(100)[len(manyLines(92)):])},
		"a long line":    {strings.Repeat("x", 1<<20) + "\nPID 1: end\n", strings.Repeat("x", evidenceLine) + "…\nPID 1: end"},
		"hostile bytes":  {"\xff\xfe\n", "?"},
		"almost a level": {"W11a3 x\n", "W11a3 x"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var e evidence
			_ = e.read(strings.NewReader(test.in))
			if got := e.String(); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

func manyLines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "error number %03d\n", i)
	}
	return b.String()
}

func TestEvidenceReadsTheRestOfThePipeAtItsDeadline(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close() // still open, as when a process of the engine lives on
	if _, err := w.WriteString("PID 1: last words\n"); err != nil {
		t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	var e evidence
	e.follow(r)
	if got := e.String(); got != "PID 1: last words" {
		t.Errorf("read %q", got)
	}
}

func FuzzEvidence(f *testing.F) {
	f.Add([]byte("I1123 x\nW1123 y\npanic: z\n"))
	f.Add([]byte(`{"msg":"a"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e evidence
		_ = e.read(strings.NewReader(string(b)))
		if n := len(e.String()); n > (evidenceLines+crashLines)*(evidenceLine+8) {
			t.Errorf("%d bytes of evidence", n)
		}
	})
}
