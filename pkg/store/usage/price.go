package usage

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Price is the price of the models whose names match Pattern, for each kind of
// token in billionths of a dollar (thousandths of a dollar per million tokens).
type Price struct {
	Pattern      string // matches the model's name; * is any text
	Input        dreamcore.Nano
	Output       dreamcore.Nano
	CacheWrite   dreamcore.Nano // for 5 minutes
	CacheWrite1h dreamcore.Nano
	CacheRead    dreamcore.Nano
	LongOver     int64 // longer prompts, in tokens, and their answers cost LongTimes as much; 0 means never
	LongTimes    int64
	FastTimes    int64 // factor of fast mode; 0 means unknown: the highest
}

// standard is the vendor's public price list as of November 2026, in dollars per
// million tokens. A later model of a listed generation has the price of that
// generation, any other one the highest price of its family. Where nothing else is
// given, cache writes cost the vendor's usual 1.25 times (5 minutes) and 2 times (1
// hour) the input, and cache reads 0.1 times.
var standard = []string{
	"*claude-fable-* in=10 out=50",
	"*claude-mythos-* in=10 out=50",
	"*claude-fable-5-1* in=10 out=50 read=0.25",
	"*claude-mythos-5-1* in=10 out=50 read=0.25",
	"*claude-fable-5-2* in=8 out=40 read=0.20 fast_times=2",
	"*claude-mythos-5-2* in=8 out=40 read=0.20 fast_times=2",
	"*claude-opus-* in=15 out=75",
	"*claude-opus-4-5* in=5 out=25",
	"*claude-opus-4-6* in=5 out=25",
	"*claude-opus-4-7* in=5 out=25",
	"*claude-opus-4-8* in=5 out=25 fast_times=2",
	"*claude-opus-5* in=5 out=25 fast_times=2",
	"*claude-opus-5-5* in=4 out=20 read=0.20 fast_times=2",
	"*claude-3-opus-* in=15 out=75",
	"*claude-sonnet-* in=3 out=15 long_over=200000 long_times=2",
	"*claude-sonnet-4-6* in=3 out=15",
	"*claude-sonnet-5* in=2 out=10",
	"*claude-sonnet-5-5* in=2 out=10 read=0.10",
	"*claude-3-*-sonnet* in=3 out=15",
	"*claude-haiku-* in=1 out=5",
	"*claude-haiku-5-5* in=0.10 out=0.50 write=0.125 write1h=0.20 read=0.01 long_over=100000 long_times=5",
	"*claude-3-5-haiku-* in=0.80 out=4",
	"*claude-3-haiku-* in=0.25 out=1.25 write=0.30 write1h=0.50 read=0.03",
}

// ParsePrice parses one price of the setting `prices`: a pattern, then in= and out=
// in dollars per million tokens. write= (1.25 times in), write1h= (twice) and read=
// (a tenth) are optional; prompts of more than long_over= tokens cost long_times=
// as much, and fast mode fast_times= as much (6 if unset).
func ParsePrice(s string) (Price, error) {
	words := strings.Fields(s)
	if len(words) == 0 || strings.Contains(words[0], "=") {
		return Price{}, fmt.Errorf("%q has no model name: write it like my-model* in=3 out=15", s)
	}
	p := Price{Pattern: words[0], CacheWrite: -1, CacheWrite1h: -1, CacheRead: -1, Input: -1, Output: -1}
	amounts := map[string]*dreamcore.Nano{"in": &p.Input, "out": &p.Output, "write": &p.CacheWrite, "write1h": &p.CacheWrite1h, "read": &p.CacheRead}
	counts := map[string]*int64{"long_over": &p.LongOver, "long_times": &p.LongTimes, "fast_times": &p.FastTimes}
	for _, w := range words[1:] {
		name, value, _ := strings.Cut(w, "=")
		var err error
		switch {
		case amounts[name] != nil:
			*amounts[name], err = perToken(value)
		case counts[name] != nil:
			*counts[name], err = strconv.ParseInt(value, 10, 64)
			if err == nil && (*counts[name] < 1 || *counts[name] > 1<<30) {
				err = fmt.Errorf("%s must be more than 0", name)
			}
		default:
			err = fmt.Errorf("unknown word %q: use in=, out=, write=, write1h=, read=, long_over=, long_times= or fast_times=", name)
		}
		if err != nil {
			return Price{}, fmt.Errorf("price of %s: %w", p.Pattern, err)
		}
	}
	if p.Input < 0 || p.Output < 0 {
		return Price{}, fmt.Errorf("price of %s: in= and out= are required", p.Pattern)
	}
	if (p.LongOver == 0) != (p.LongTimes == 0) || p.LongTimes > 1000 {
		return Price{}, fmt.Errorf("price of %s: long_over= and long_times= (at most 1000) must be set together", p.Pattern)
	}
	if p.FastTimes > 1000 {
		return Price{}, fmt.Errorf("price of %s: fast_times= must be at most 1000", p.Pattern)
	}
	for amount, usual := range map[*dreamcore.Nano]dreamcore.Nano{
		&p.CacheWrite: up(p.Input*5, 4), &p.CacheWrite1h: p.Input * 2, &p.CacheRead: up(p.Input, 10),
	} {
		if *amount < 0 {
			*amount = usual
		}
	}
	return p, nil
}

// up divides and rounds up.
func up(n, by dreamcore.Nano) dreamcore.Nano { return (n + by - 1) / by }

// maxPrice bounds the price of a token: a tenth of a dollar.
const maxPrice = dreamcore.NanoPerDollar / 10

// perToken converts dollars per million tokens to billionths of a dollar per token.
func perToken(s string) (dreamcore.Nano, error) {
	n, err := dreamcore.ParseNano(s)
	if err != nil {
		return 0, err
	}
	if n = up(n, 1_000_000); n > maxPrice {
		return 0, fmt.Errorf("%s dollars per million tokens is too high", s)
	}
	return n, nil
}

// Prices is a table of prices. The longest matching pattern applies, those of the
// operator before the built-in ones.
type Prices struct {
	operator, builtin []Price
	highest           Price
}

// ParsePrices returns the standard prices, overridden by the operator's.
func ParsePrices(own []string) (Prices, error) {
	var t Prices
	for _, list := range []struct {
		text []string
		into *[]Price
	}{{own, &t.operator}, {standard, &t.builtin}} {
		for _, s := range list.text {
			p, err := ParsePrice(s)
			if err != nil {
				return Prices{}, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "prices: " + err.Error(), Hint: "write it like: my-model* in=3 out=15 read=0.30"}
			}
			*list.into = append(*list.into, p)
			t.highest = higher(t.highest, p)
		}
	}
	return t, nil
}

// higher returns the higher price of a and b for each kind of token, b's as for a
// long prompt.
func higher(a, b Price) Price {
	times := max(b.LongTimes, 1)
	return Price{
		Pattern: "*", Input: max(a.Input, b.Input*dreamcore.Nano(times)), Output: max(a.Output, b.Output*dreamcore.Nano(times)),
		CacheWrite: max(a.CacheWrite, b.CacheWrite*dreamcore.Nano(times)), CacheWrite1h: max(a.CacheWrite1h, b.CacheWrite1h*dreamcore.Nano(times)),
		CacheRead: max(a.CacheRead, b.CacheRead*dreamcore.Nano(times)), FastTimes: max(a.FastTimes, b.FastTimes, fastTimes),
	}
}

// Of returns the price of a model. A model that matches no pattern gets the highest
// price of the table, and known is false.
func (t Prices) Of(model string) (p Price, known bool) {
	for _, list := range [][]Price{t.operator, t.builtin} {
		for _, q := range list {
			if fits(q.Pattern, model) && (!known || len(q.Pattern) > len(p.Pattern)) {
				p, known = q, true
			}
		}
		if known {
			return p, true
		}
	}
	return t.highest, false
}

// fits reports whether name matches the pattern, in which * is any text.
func fits(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	rest, ok := strings.CutPrefix(name, parts[0])
	if len(parts) == 1 || !ok {
		return ok && rest == ""
	}
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(rest, part)
		if !found {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}

// Cost returns the cost of the tokens of one request.
func (p Price) Cost(t dreamcore.Tokens) dreamcore.Nano {
	var sum dreamcore.Nano
	for _, part := range []struct {
		tokens int64
		price  dreamcore.Nano
	}{{t.Input, p.Input}, {t.Output, p.Output}, {t.CacheWrite, p.CacheWrite}, {t.CacheWrite1h, p.CacheWrite1h}, {t.CacheRead, p.CacheRead}} {
		sum = sum.Add(times(part.tokens, part.price))
	}
	if p.LongOver > 0 && t.Prompt() > p.LongOver {
		sum = times(int64(sum), dreamcore.Nano(p.LongTimes))
	}
	return sum
}

// times returns the product, or the largest amount if it overflows. Negative
// factors count as 0.
func times(n int64, price dreamcore.Nano) dreamcore.Nano {
	hi, lo := bits.Mul64(uint64(max(n, 0)), uint64(max(price, 0)))
	if hi > 0 || lo > 1<<63-1 {
		return 1<<63 - 1
	}
	return dreamcore.Nano(lo)
}
