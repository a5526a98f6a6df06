package usage

import (
	"math"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestTheTermsOfAnAnswerChangeItsPrice(t *testing.T) {
	table := prices(t, "fast in=1 out=1 fast_times=3", "unknown-factor in=1 out=1", "dear-fast in=1 out=1 fast_times=7")
	out := func(n int64) dreamcore.Tokens { return dreamcore.Tokens{Output: n} }
	for _, tc := range []struct {
		model  string
		tokens dreamcore.Tokens
		terms  dreamcore.Terms
		want   dreamcore.Nano
	}{
		{"claude-opus-5-5", out(10), dreamcore.Terms{}, 200_000},
		{"claude-opus-5-5", out(10), dreamcore.Terms{Fast: true}, 400_000},
		{"claude-opus-4-6", out(10), dreamcore.Terms{Fast: true}, 1_500_000},
		{"fast", out(10), dreamcore.Terms{Fast: true}, 30_000},
		{"unknown-factor", out(10), dreamcore.Terms{Fast: true}, 60_000},
		{"no-price", out(10), dreamcore.Terms{Fast: true}, 5_250_000},
		{"fast", out(1), dreamcore.Terms{Regional: true}, 1100},
		{"claude-haiku-5-5", dreamcore.Tokens{CacheRead: 1}, dreamcore.Terms{Regional: true}, 11},
		{"fast", dreamcore.Tokens{}, dreamcore.Terms{Fast: true, Regional: true, Searches: 2, Executions: 1}, 70_000_000},
		{"claude-haiku-5-5", out(10), dreamcore.Terms{Models: []string{"claude-opus-5-5"}}, 200_000},
		{"claude-opus-5-5", out(10), dreamcore.Terms{Models: []string{"claude-haiku-5-5", "claude-opus-5-5"}}, 200_000},
		{"claude-opus-5-5", out(10), dreamcore.Terms{Models: []string{"claude-opus-4-6"}, Fast: true}, 1_500_000},
		{"fast", out(1), dreamcore.Terms{Searches: math.MaxInt64, Executions: math.MaxInt64}, math.MaxInt64},
		{"fast", out(math.MaxInt64), dreamcore.Terms{Fast: true, Regional: true}, math.MaxInt64},
	} {
		p, _ := table.Of(tc.model)
		if got := table.withModels(p, tc.terms.Models).costOf(tc.tokens, tc.terms); got != tc.want {
			t.Errorf("%s %+v %+v costs %d, want %d", tc.model, tc.tokens, tc.terms, got, tc.want)
		}
	}
}

// Fees that come without tokens are recorded once.
func TestFeesAreRecorded(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil, Limits{UserDayCost: 25_000_000})
	update, err := b.Job("u", "p", "j").Reserve("m", 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: 1}}, false)
	for searches := range int64(4) {
		update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: 1}, Terms: dreamcore.Terms{Searches: searches}}, searches == 3)
	}
	if got := total(t, dir); got.Requests != 1 || got.Cost != 1000+30_000_000 {
		t.Errorf("%+v", got)
	}
	wantOver(t, b.Job("u", "p", "k").Check(), "budget_user_day_usd")
}
