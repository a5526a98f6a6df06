package dreamcore

import (
	"math"
	"testing"
)

func TestNanoIsWrittenAndRead(t *testing.T) {
	for in, want := range map[string]Nano{"0": 0, "2.50": 2_500_000_000, "0.000000001": 1, "3": 3 * NanoPerDollar, "1000000000": 1e18} {
		if got, err := ParseNano(in); err != nil || got != want {
			t.Errorf("ParseNano(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", ".5", "-1", "+1", "1e3", "1_0", "0.0000000001", "9999999999999", "1.2.3", "x", "1.-5"} {
		if got, err := ParseNano(in); err == nil {
			t.Errorf("ParseNano(%q) = %d", in, got)
		}
	}
	for n, want := range map[Nano]string{0: "0.000000", 1: "0.000001", 1000: "0.000001", 1001: "0.000002", 2_500_000_000: "2.500000", -1_500_000_000: "-1.500000"} {
		if got := n.String(); got != want {
			t.Errorf("%d is written %s, want %s", int64(n), got, want)
		}
	}
	if got := Nano(math.MaxInt64 - 1).Add(5); got != math.MaxInt64 {
		t.Errorf("an overflow gives %d", got)
	}
}

func TestDebugEventReportsUsage(t *testing.T) {
	got := string(DebugEvent(Summary{Metered: true, Tokens: Tokens{Input: 1, CacheRead: 2, Output: 3}, Cost: 1_500_000}))
	want := `{"type":"debug","exit_code":0,"elapsed_seconds":0,"output_line_count":0,"sandbox_reused":false,"agent_warm":false,"files_changed":0,"cost_usd":0.001500,"input_tokens":3,"output_tokens":3}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestExhaustedBudgetHasItsOwnMessage(t *testing.T) {
	for _, lang := range []Language{English, Japanese} {
		busy, spent := Failure{Code: FailRateLimit}, Failure{Code: FailRateLimit, Spent: true}
		if busy.UserMessage(lang) == spent.UserMessage(lang) || !spent.Recoverable() {
			t.Errorf("%s: %s", lang, spent.UserMessage(lang))
		}
	}
}
