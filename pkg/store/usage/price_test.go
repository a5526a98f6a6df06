package usage

import (
	"math"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func prices(t *testing.T, own ...string) Prices {
	t.Helper()
	p, err := ParsePrices(own)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestStandardPrices(t *testing.T) {
	table := prices(t)
	// Dollars per million tokens: input, output, cache write for 5 minutes and for
	// an hour, cache read.
	for model, want := range map[string][5]float64{
		"claude-opus-5-5":                              {4, 20, 5, 8, 0.20},
		"claude-opus-5":                                {5, 25, 6.25, 10, 0.50},
		"claude-opus-4-5-20251101":                     {5, 25, 6.25, 10, 0.50},
		"claude-opus-4-1-20250805":                     {15, 75, 18.75, 30, 1.50},
		"claude-opus-4-20250514":                       {15, 75, 18.75, 30, 1.50},
		"claude-opus-9":                                {15, 75, 18.75, 30, 1.50},
		"claude-sonnet-5-5":                            {2, 10, 2.50, 4, 0.10},
		"claude-sonnet-5":                              {2, 10, 2.50, 4, 0.20},
		"us.anthropic.claude-sonnet-4-5-20250929-v1:0": {3, 15, 3.75, 6, 0.30},
		"claude-sonnet-4-5@20250929":                   {3, 15, 3.75, 6, 0.30},
		"claude-3-7-sonnet-20250219":                   {3, 15, 3.75, 6, 0.30},
		"claude-haiku-4-5-20251001":                    {1, 5, 1.25, 2, 0.10},
		"claude-haiku-5-5":                             {0.10, 0.50, 0.125, 0.20, 0.01},
		"claude-3-5-haiku-20241022":                    {0.80, 4, 1, 1.60, 0.08},
		"claude-3-haiku-20240307":                      {0.25, 1.25, 0.30, 0.50, 0.03},
		"claude-fable-5-1":                             {10, 50, 12.50, 20, 0.25},
		"claude-fable-5-2":                             {8, 40, 10, 16, 0.20},
		"claude-fable-5":                               {10, 50, 12.50, 20, 1},
	} {
		p, known := table.Of(model)
		got := [5]float64{}
		for i, n := range []dreamcore.Nano{p.Input, p.Output, p.CacheWrite, p.CacheWrite1h, p.CacheRead} {
			got[i] = float64(n) / 1000
		}
		if !known || got != want {
			t.Errorf("%s: %v (known %v), want %v", model, got, known, want)
		}
	}
	p, known := table.Of("gpt-oss")
	if known || p.Input != 15000 || p.Output != 75000 || p.CacheWrite1h != 30000 {
		t.Errorf("a model without a price: %+v, known %v", p, known)
	}
}

func TestCostOfTokens(t *testing.T) {
	table := prices(t, "local* in=0 out=0", "dear in=99 out=999.999 write=1 write1h=2 read=3")
	for _, tc := range []struct {
		model  string
		tokens dreamcore.Tokens
		want   dreamcore.Nano
	}{
		{"claude-opus-5", dreamcore.Tokens{}, 0},
		{"claude-opus-5", dreamcore.Tokens{Input: 1_000_000}, 5 * dreamcore.NanoPerDollar},
		{"claude-opus-5", dreamcore.Tokens{Input: 1, Output: 1, CacheWrite: 1, CacheWrite1h: 1, CacheRead: 1}, 5000 + 25000 + 6250 + 10000 + 500},
		{"claude-haiku-5-5", dreamcore.Tokens{Input: 100_000, Output: 10}, 100_000*100 + 10*500},
		{"claude-haiku-5-5", dreamcore.Tokens{Input: 1, CacheRead: 100_000, Output: 10}, (100 + 100_000*10 + 10*500) * 5},
		{"local-llama", dreamcore.Tokens{Input: 1 << 40, Output: 1 << 40}, 0},
		{"dear", dreamcore.Tokens{Output: 1, CacheRead: 2}, 999_999 + 6000},
		{"dear", dreamcore.Tokens{Input: math.MaxInt64, Output: math.MaxInt64}, math.MaxInt64},
		{"dear", dreamcore.Tokens{Input: -5}, 0},
	} {
		p, _ := table.Of(tc.model)
		if got := p.Cost(tc.tokens); got != tc.want {
			t.Errorf("%s %+v costs %d, want %d", tc.model, tc.tokens, got, tc.want)
		}
	}
}

func TestTheOperatorsPriceTakesPrecedence(t *testing.T) {
	table := prices(t, "* in=1 out=2", "*opus* in=7 out=8")
	for model, want := range map[string]dreamcore.Nano{"claude-opus-5-5": 7000, "claude-sonnet-5": 1000, "x": 1000} {
		if p, known := table.Of(model); !known || p.Input != want {
			t.Errorf("%s: %+v", model, p)
		}
	}
}

func TestInvalidPricesAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                                      "has no model name",
		"in=1 out=2":                            "has no model name",
		"m":                                     "in= and out= are required",
		"m in=1":                                "in= and out= are required",
		"m in=-1 out=2":                         "not an amount",
		"m in=1 out=1e9":                        "not an amount",
		"m in=1 out=200000":                     "too high",
		"m in=1 out=2 reed=3":                   "use in=",
		"m in=1 out=2 long_over=5":              "must be set together",
		"m in=1 out=2 long_over=0 long_times=2": "more than 0",
		"m in=1 out=2 fast_times=0":             "more than 0",
		"m in=1 out=2 fast_times=1001":          "at most 1000",
	} {
		if _, err := ParsePrices([]string{text}); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestPatternsMatchModelNames(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"a*", "ab", true}, {"*b", "ab", true}, {"*b", "ba", false},
		{"a*c", "abc", true}, {"a*c", "ac", true}, {"a*a", "a", false}, {"*a*b*", "xaxbx", true}, {"*a*b*", "xbxax", false}, {"*", "", true},
	} {
		if got := fits(tc.pattern, tc.name); got != tc.want {
			t.Errorf("%q fits %q: %v", tc.pattern, tc.name, got)
		}
	}
}
