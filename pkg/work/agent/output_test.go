package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// split writes text in pieces of the sizes that next returns, and returns the
// events and the output.
func split(t testing.TB, text []byte, next func(left int) int) ([]string, *output) {
	t.Helper()
	var events []string
	o := attached(t, func(e dreamcore.Event) error {
		events = append(events, string(e))
		return nil
	})
	for len(text) > 0 {
		n := min(max(next(len(text)), 1), len(text))
		piece := bytes.Clone(text[:n])
		if got, err := o.Write(piece); got != n || err != nil {
			t.Fatalf("Write of %d bytes: %d, %v", n, got, err)
		}
		for i := range piece {
			piece[i] = 'x' // events must not share the writer's buffer
		}
		text = text[n:]
	}
	if err := o.flush(); err != nil {
		t.Fatal(err)
	}
	return events, o
}

func atOnce(left int) int { return left }

func TestOutputBecomesEvents(t *testing.T) {
	long := `{"type":"user","content":"` + strings.Repeat("x", 5<<20) + `"}`
	for _, tt := range []struct {
		name, in string
		want     []string
	}{
		{"nothing", "", nil},
		{"blank lines", "\n  \n\t\r\n\n", nil},
		{"an object is unchanged", `{ "type" : "user", "n":1.0,"x":"<&>" }` + "\n", []string{`{ "type" : "user", "n":1.0,"x":"<&>" }`}},
		{"surrounding white space is removed", "  {\"a\":1}\t\n", []string{`{"a":1}`}},
		{"\\r\\n", "{\"a\":1}\r\nplain\r\n", []string{`{"a":1}`, `{"type":"log","content":"plain"}`}},
		{"\\r within a line", "{\"a\":\r1}\n", []string{`{"type":"log","content":"{\"a\":\r1}"}`}},
		{"no final newline", `{"a":1}`, []string{`{"a":1}`}},
		{"not JSON", "Error: \"boom\"\n", []string{`{"type":"log","content":"Error: \"boom\""}`}},
		{"an array", "[1]\n", []string{`{"type":"log","content":"[1]"}`}},
		{"truncated JSON", `{"a":`, []string{`{"type":"log","content":"{\"a\":"}`}},
		{"NUL", "a\x00b\n", []string{`{"type":"log","content":"a\u0000b"}`}},
		{"not UTF-8", "a\xffb\n", []string{`{"type":"log","content":"a` + "\\ufffd" + `b"}`}},
		{"forged last events of the service", `{"type":"done","exit_code":0}` + "\n", []string{`{"type":"log","content":"{\"type\":\"done\",\"exit_code\":0}"}`}},
		{"5 MB without a newline", long, []string{long}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, o := split(t, []byte(tt.in), atOnce)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("events (-want +got):\n%.2000s", diff)
			}
			if o.lines != len(tt.want) {
				t.Errorf("%d lines, want %d", o.lines, len(tt.want))
			}
		})
	}
}

func TestALongLineIsReplacedByAWarning(t *testing.T) {
	const bound = dreamcore.MaxEventBytes
	object := func(size int) string { return `{"x":"` + strings.Repeat("y", size-8) + `"}` }
	for _, tt := range []struct {
		name, line string
		kept       bool
	}{
		{"an object of just the bound", object(bound), true},
		{"an object of one more", object(bound + 1), false},
		{"text of the bound, which grows when it is quoted", strings.Repeat(`"`, bound), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			events, o := split(t, []byte(tt.line+"\n{\"after\":1}\n"), func(int) int { return 1 << 20 })
			if len(events) != 2 || events[1] != `{"after":1}` || o.lines != 2 {
				t.Fatalf("%d events, %d lines", len(events), o.lines)
			}
			leftOut := fmt.Sprintf(`{"type":"log","content":"a line of %d bytes was left out","level":"warning"}`, len(tt.line))
			if (events[0] == leftOut) == tt.kept {
				t.Errorf("%.200s", events[0])
			}
			if len(events[0]) > bound {
				t.Errorf("an event of %d bytes", len(events[0]))
			}
			if cap(o.line) > 2<<20 {
				t.Errorf("%d bytes are kept after the line", cap(o.line))
			}
		})
	}
}

func TestAnyChunkingGivesTheSameEvents(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	pieces := []string{
		`{"type":"assistant","message":{"model":"m"}}`, `{"type":"result","is_error":false}`, "plain", "", " ",
		"\r", "\x00", "\xff\xfe", `{"cut":`, `{"type":"done"}`, "日本語", strings.Repeat("x", 70_000),
	}
	for range 100 {
		var text []byte
		for range rng.IntN(12) {
			text = append(text, pieces[rng.IntN(len(pieces))]...)
			if rng.IntN(3) > 0 {
				text = append(text, '\n')
			}
		}
		want, whole := split(t, text, atOnce)
		got, parts := split(t, text, func(int) int { return 1 + rng.IntN(1+rng.IntN(5000)) })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q (-whole +parts):\n%.2000s", text, diff)
		}
		if diff := cmp.Diff(whole.result, parts.result); diff != "" || whole.talked != parts.talked || whole.lines != parts.lines {
			t.Fatalf("%q: remembered %+v, in parts %+v", text, whole, parts)
		}
	}
}

func TestResultLine(t *testing.T) {
	full := `{"type":"result","subtype":"success","is_error":false,"api_error_status":429,"duration_ms":1234.5,"num_turns":3,"result":"Done.","session_id":"s","total_cost_usd":0.25,"usage":{},"permission_denials":[]}`
	for _, tt := range []struct {
		name, in string
		want     *Result
	}{
		{"none", `{"type":"assistant"}`, nil},
		{"all fields", full, &Result{Subtype: "success", Text: "Done."}},
		{"without is_error", `{"type":"result","subtype":"success"}`, &Result{Subtype: "success", IsError: true}},
		{"is_error is null", `{"type":"result","is_error":null}`, &Result{IsError: true}},
		{"a field of the wrong type", `{"type":"result","is_error":false,"subtype":1}`, &Result{IsError: true}},
		{"is_error of another type", `{"type":"result","is_error":"false"}`, &Result{IsError: true}},
		{"the last one counts", full + "\n" + `{"type":"result","subtype":"error_max_turns","is_error":true}`, &Result{Subtype: "error_max_turns", IsError: true}},
		{"a broken one after a good one counts", full + "\n" + `{"type":"result","is_error":false,"result":1}`, &Result{IsError: true}},
		{"another spelling is no result", `{"Type":"result","is_error":false}`, nil},
		{"in a log line", `x {"type":"result","is_error":false}`, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, o := split(t, []byte(tt.in), atOnce)
			if diff := cmp.Diff(tt.want, o.result); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOnlyMessagesOfTheModelCountAsAnAnswer(t *testing.T) {
	for in, want := range map[string]bool{
		`{"type":"system","subtype":"init"}`:                                                                             false,
		`{"type":"assistant","message":{"model":"claude-x"}}`:                                                            true,
		`{"type":"assistant","message":{"model":"<synthetic>"}}`:                                                         false,
		`{"type":"assistant","message":{"model":"m"}}` + "\n" + `{"type":"result"}`:                                      true,
		`{"type":"assistant","message":{"model":"m"}}` + "\n" + `{"type":"assistant","message":{"model":"<synthetic>"}}`: true,
	} {
		if _, o := split(t, []byte(in), atOnce); o.talked != want {
			t.Errorf("%s: %v", in, o.talked)
		}
	}
}

func TestOutputStopsAtTheFirstErrorOfEmit(t *testing.T) {
	full := errors.New("disk full")
	calls := 0
	o := attached(t, func(dreamcore.Event) error {
		if calls++; calls == 2 {
			return full
		}
		return nil
	})
	if _, err := o.Write([]byte("a\nb\nc\n")); !errors.Is(err, full) || calls != 2 {
		t.Errorf("%v after %d events", err, calls)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var whole []byte
	tl := &tail{}
	for i := range 3000 {
		line := fmt.Sprintf("line %d\n", i)
		whole = append(whole, line...)
		if n, err := tl.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := tl.String(); got != string(bytes.TrimSpace(whole[len(whole)-tailBytes:])) {
		t.Errorf("%d bytes: %.60q…", len(got), got)
	}
	big := bytes.Repeat([]byte("y"), 3*tailBytes)
	if n, err := tl.Write(big); n != len(big) || err != nil || len(tl.String()) != tailBytes {
		t.Errorf("%d, %v, %d kept", n, err, len(tl.String()))
	}
}

func FuzzOutput(f *testing.F) {
	for _, s := range []string{
		"", "\n", "{}\n", "{\"type\":\"result\",\"is_error\":false}", "a\x00\r\nb", "{\"type\":\"done\"}\n",
		"{\"a\":\"\xff\"}\n", "{\"type\":\"assistant\",\"message\":null}\n[1,2", "\r\n{\"a\":\r1}\r\n",
	} {
		f.Add([]byte(s), uint64(7))
	}
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		want, whole := split(t, text, atOnce)
		rng := rand.New(rand.NewPCG(seed, 0))
		got, parts := split(t, text, func(int) int { return 1 + rng.IntN(9) })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("(-whole +parts):\n%s", diff)
		}
		if cmp.Diff(whole.result, parts.result) != "" || whole.talked != parts.talked {
			t.Fatalf("remembered %+v, in parts %+v", whole, parts)
		}
		for _, e := range want {
			// As the journal and old clients require.
			if !json.Valid([]byte(e)) || e[0] != '{' || strings.ContainsAny(e, "\r\n") {
				t.Fatalf("event %q", e)
			}
			switch dreamcore.EventType([]byte(e)) {
			case "done", "error", "debug":
				t.Fatalf("an event of ours was forged: %s", e)
			}
		}
		if lines := bytes.Count(text, []byte("\n")) + 1; len(want) > lines {
			t.Fatalf("%d events of %d lines", len(want), lines)
		}
	})
}

// attached returns an output whose events emit receives.
func attached(t testing.TB, emit func(dreamcore.Event) error) *output {
	t.Helper()
	o := newOutput()
	if err := o.attach(emit); err != nil {
		t.Fatal(err)
	}
	return o
}
