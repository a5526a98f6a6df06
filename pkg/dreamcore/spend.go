package dreamcore

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Nano is an amount of money in billionths of a US dollar. A price per million
// tokens with up to three decimals is a whole number of them for each token, so
// that sums of costs are exact.
type Nano int64

// NanoPerDollar is one dollar.
const NanoPerDollar Nano = 1_000_000_000

// String is the amount in dollars without a sign of currency, with six
// decimals: what is below a millionth is rounded up, so that nothing is free.
func (n Nano) String() string {
	micro := int64(n) / 1000
	if int64(n)%1000 > 0 {
		micro++
	}
	sign := ""
	if micro < 0 {
		sign, micro = "-", -micro
	}
	return fmt.Sprintf("%s%d.%06d", sign, micro/1_000_000, micro%1_000_000)
}

// ParseNano reads dollars as people write them, such as 2.50, with up to nine
// decimals and nothing below zero.
func ParseNano(s string) (Nano, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	if whole == "" || len(fraction) > 9 || strings.ContainsAny(s, "+-_") {
		return 0, fmt.Errorf("%.40q is no amount of dollars: write it like 2.50", s)
	}
	n, err := strconv.ParseInt(whole+fraction+strings.Repeat("0", 9-len(fraction)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q is no amount of dollars: write it like 2.50", s)
	}
	return Nano(n), nil
}

// Add is n+m, and the largest amount instead of an overflow.
func (n Nano) Add(m Nano) Nano {
	if m > 0 && n > math.MaxInt64-m {
		return math.MaxInt64
	}
	return n + m
}

// Tokens are what a model took and gave, told apart as they are paid for.
type Tokens struct {
	Input        int64 // without those from and to the cache
	Output       int64
	CacheWrite   int64 // kept for 5 minutes
	CacheWrite1h int64 // kept for an hour
	CacheRead    int64
}

// Plus is the sum of both.
func (t Tokens) Plus(u Tokens) Tokens {
	return Tokens{t.Input + u.Input, t.Output + u.Output, t.CacheWrite + u.CacheWrite, t.CacheWrite1h + u.CacheWrite1h, t.CacheRead + u.CacheRead}
}

// Minus is what t has more than u.
func (t Tokens) Minus(u Tokens) Tokens {
	return Tokens{t.Input - u.Input, t.Output - u.Output, t.CacheWrite - u.CacheWrite, t.CacheWrite1h - u.CacheWrite1h, t.CacheRead - u.CacheRead}
}

// Max is the larger number of each kind.
func (t Tokens) Max(u Tokens) Tokens {
	return Tokens{max(t.Input, u.Input), max(t.Output, u.Output), max(t.CacheWrite, u.CacheWrite), max(t.CacheWrite1h, u.CacheWrite1h), max(t.CacheRead, u.CacheRead)}
}

// Prompt is the tokens that went in, from and to the cache too.
func (t Tokens) Prompt() int64 { return t.Input + t.CacheWrite + t.CacheWrite1h + t.CacheRead }

// Total is all of them: limits of tokens count this.
func (t Tokens) Total() int64 { return t.Prompt() + t.Output }

// Spent is what one request for the model has used up to now.
type Spent struct {
	Upstream  string // that answered; "" where none did
	Model     string // its name for the model; "" where that is the one that was asked for
	Tokens    Tokens
	Terms     Terms
	Estimated bool // the model did not say all of it
}

// Terms are what an answer says that changes its price beside the number of its
// tokens.
type Terms struct {
	Fast       bool     // served in fast mode
	Regional   bool     // inference was bound to one region
	Searches   int64    // of the web, by the API
	Executions int64    // of code, by the API
	Models     []string // that worked on it beside the one that was asked for
}

// OverBudget refuses a request for the model, or a whole job.
type OverBudget struct {
	Limit string        // the setting that refuses it
	After time.Duration // when another try makes sense; 0: not soon
}

func (o *OverBudget) Error() string { return "over the limit " + o.Limit }
