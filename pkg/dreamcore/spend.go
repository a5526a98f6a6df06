package dreamcore

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Nano is an amount of money in billionths of a US dollar. A price per million
// tokens with up to three decimals is a whole number of Nano per token, so sums
// of costs are exact.
type Nano int64

// NanoPerDollar is one dollar.
const NanoPerDollar Nano = 1_000_000_000

// String returns the amount in dollars with six decimals and no currency sign.
// It rounds up, so that a small positive amount never shows as zero.
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

// ParseNano parses a non-negative amount in dollars, such as 2.50, with up to
// nine decimals.
func ParseNano(s string) (Nano, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	if whole == "" || len(fraction) > 9 || strings.ContainsAny(s, "+-_") {
		return 0, fmt.Errorf("%.40q is not an amount in dollars: use the form 2.50", s)
	}
	n, err := strconv.ParseInt(whole+fraction+strings.Repeat("0", 9-len(fraction)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q is not an amount in dollars: use the form 2.50", s)
	}
	return Nano(n), nil
}

// Add returns n+m, or the largest amount if the sum overflows.
func (n Nano) Add(m Nano) Nano {
	if m > 0 && n > math.MaxInt64-m {
		return math.MaxInt64
	}
	return n + m
}

// Tokens counts the input and output tokens of a model by price category.
type Tokens struct {
	Input        int64 // without cache reads and writes
	Output       int64
	CacheWrite   int64 // cached for 5 minutes
	CacheWrite1h int64 // cached for an hour
	CacheRead    int64
}

// Plus returns t+u.
func (t Tokens) Plus(u Tokens) Tokens {
	return Tokens{t.Input + u.Input, t.Output + u.Output, t.CacheWrite + u.CacheWrite, t.CacheWrite1h + u.CacheWrite1h, t.CacheRead + u.CacheRead}
}

// Minus returns t-u.
func (t Tokens) Minus(u Tokens) Tokens {
	return Tokens{t.Input - u.Input, t.Output - u.Output, t.CacheWrite - u.CacheWrite, t.CacheWrite1h - u.CacheWrite1h, t.CacheRead - u.CacheRead}
}

// Max returns the maximum of each field.
func (t Tokens) Max(u Tokens) Tokens {
	return Tokens{max(t.Input, u.Input), max(t.Output, u.Output), max(t.CacheWrite, u.CacheWrite), max(t.CacheWrite1h, u.CacheWrite1h), max(t.CacheRead, u.CacheRead)}
}

// Prompt returns the number of input tokens, including cache reads and writes.
func (t Tokens) Prompt() int64 { return t.Input + t.CacheWrite + t.CacheWrite1h + t.CacheRead }

// Total returns the number of all tokens; token limits apply to it.
func (t Tokens) Total() int64 { return t.Prompt() + t.Output }

// Spent is the usage of one model request so far.
type Spent struct {
	Upstream  string // the one that answered; "" if none did
	Model     string // the upstream's name for the model; "" if it equals the requested one
	Tokens    Tokens
	Terms     Terms
	Estimated bool // the model did not report all of it
}

// Terms holds the parts of an answer that affect its price in addition to the
// number of tokens.
type Terms struct {
	Fast       bool     // served in fast mode
	Regional   bool     // inference was bound to one region
	Searches   int64    // web searches by the API
	Executions int64    // code executions by the API
	Models     []string // models that contributed, other than the requested one
}

// OverBudget is the error that refuses a model request, or a whole job, because
// a budget is used up.
type OverBudget struct {
	Limit string        // the setting that defines the limit
	After time.Duration // when to retry; 0 if not soon
}

func (o *OverBudget) Error() string { return "over the limit " + o.Limit }
