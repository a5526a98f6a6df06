package usage

import "github.com/notef-neighbor/dreamcore/pkg/dreamcore"

// The factors and fees that the vendor's pricing page lists in addition to the
// prices of tokens, as of November 2026. Factors are fractions, so that amounts
// stay exact.
//
//   - Fast mode (usage.speed "fast") multiplies every price of the model: by 2
//     on Opus 4.8, Opus 5, Opus 5.5, Fable 5.2 and Mythos 5.2, by 6 on Opus 4.6
//     and 4.7. The price table has the factor of each model (fast_times=); a
//     model without one has the highest, fastTimes.
//   - Inference in one region (usage.inference_geo "us") multiplies every price by
//     1.1. A workspace can have it as its default, without a word in the request.
//     The regional endpoints of the clouds do the same from Sonnet 4.5 and Haiku
//     4.5 on; it is counted for older models too.
//   - A prompt of more than 200,000 tokens (beta context-1m) costs twice the price
//     of input and 1.5 times that of output on Sonnet 4 and 4.5. Haiku 5.5 costs
//     five times as much from 100,000 tokens on. Other newer models have one price
//     for the whole window. See long_over= in the table.
//   - Service tiers: batch costs half and is counted in full; priority is prepaid
//     by contract, at prices that `prices` may set, and has no factor here.
//   - Web search costs $10 for 1,000 searches. Web fetch costs its tokens only.
//   - Code execution costs $0.05 an hour and container. The usage does not say
//     for how long, so each request counts as an hour.
const (
	fastTimes       = 6
	regionNumerator = 11
	regionDivisor   = 10
	searchFee       = dreamcore.NanoPerDollar / 100
	executionFee    = dreamcore.NanoPerDollar / 20
)

// costOf returns the cost of a request on the terms of its answer.
func (p Price) costOf(t dreamcore.Tokens, terms dreamcore.Terms) dreamcore.Nano {
	cost := p.Cost(t)
	if terms.Fast {
		factor := p.FastTimes
		if factor == 0 {
			factor = fastTimes
		}
		cost = times(factor, cost)
	}
	if terms.Regional {
		cost = regional(cost)
	}
	return cost.Add(times(terms.Searches, searchFee)).Add(times(terms.Executions, executionFee))
}

// regional returns the cost of inference in one region, rounded up.
func regional(cost dreamcore.Nano) dreamcore.Nano {
	whole, rest := cost/regionDivisor, cost%regionDivisor
	return times(regionNumerator, whole).Add(up(rest*regionNumerator, regionDivisor))
}

// withModels returns the highest price of p and of the other models that worked on
// the answer, for each kind of token.
func (t Prices) withModels(p Price, models []string) Price {
	for _, name := range models {
		q, _ := t.Of(name)
		p = highestOf(p, q)
	}
	return p
}

// highestOf returns the higher price of a and b, for each kind of token and each
// factor.
func highestOf(a, b Price) Price {
	if a == b {
		return a
	}
	h := Price{
		Pattern: a.Pattern, Input: max(a.Input, b.Input), Output: max(a.Output, b.Output),
		CacheWrite: max(a.CacheWrite, b.CacheWrite), CacheWrite1h: max(a.CacheWrite1h, b.CacheWrite1h), CacheRead: max(a.CacheRead, b.CacheRead),
		LongOver: min(a.LongOver, b.LongOver), LongTimes: max(a.LongTimes, b.LongTimes),
	}
	if h.LongOver == 0 {
		h.LongOver = max(a.LongOver, b.LongOver) // one of the models has no price for long prompts
	}
	if a.FastTimes > 0 && b.FastTimes > 0 {
		h.FastTimes = max(a.FastTimes, b.FastTimes)
	}
	return h
}
