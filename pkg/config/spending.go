package config

import (
	"math"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
)

// maxUSD bounds an amount of money in the settings.
const maxUSD = 1e9

func (c Config) checkSpending(check func(ok bool, format string, args ...any)) {
	for _, b := range []struct {
		key string
		usd float64
	}{
		{"budget_job_usd", c.BudgetJobUSD}, {"budget_user_day_usd", c.BudgetUserDayUSD}, {"budget_user_month_usd", c.BudgetUserMonthUSD},
		{"budget_day_usd", c.BudgetDayUSD}, {"budget_month_usd", c.BudgetMonthUSD},
	} {
		// The comparison is false for what is no number. Below a millionth it
		// would be rounded to 0, which is no bound.
		check(b.usd == 0 || b.usd >= 1e-6 && b.usd <= maxUSD, "%s: %v must be an amount of dollars up to 1000000000, or 0 for no bound", b.key, b.usd)
	}
	for _, b := range []struct {
		key    string
		tokens int
	}{{"budget_job_tokens", c.BudgetJobTokens}, {"budget_user_day_tokens", c.BudgetUserDayTokens}, {"budget_user_month_tokens", c.BudgetUserMonthTokens}} {
		check(b.tokens >= 0, "%s: %d must not be negative", b.key, b.tokens)
	}
	check(c.UserRequests >= 0 && c.UserRequests <= 1_000_000, "user_requests: %d must be between 0 (no bound) and 1000000", c.UserRequests)
	if _, err := usage.ParsePrices(c.Prices); err != nil {
		check(false, "%v", err)
	}
	check(c.UsageDays >= 1 && c.UsageDays <= 36500, "usage_days: %d must be between 1 and 36500", c.UsageDays)
	check(c.AuditMiB >= 1 && c.AuditMiB <= 1<<20, "audit_mib: %d must be between 1 and 1048576", c.AuditMiB)
}

// Limits are the bounds of what may be spent.
func (c Config) Limits() usage.Limits {
	return usage.Limits{
		JobCost: nano(c.BudgetJobUSD), JobTokens: int64(c.BudgetJobTokens),
		UserDayCost: nano(c.BudgetUserDayUSD), UserDayTokens: int64(c.BudgetUserDayTokens),
		UserMonthCost: nano(c.BudgetUserMonthUSD), UserMonthTokens: int64(c.BudgetUserMonthTokens),
		DayCost: nano(c.BudgetDayUSD), MonthCost: nano(c.BudgetMonthUSD),
		UserRequests: c.UserRequests,
	}
}

func nano(usd float64) dreamcore.Nano {
	return dreamcore.Nano(math.Round(usd * float64(dreamcore.NanoPerDollar)))
}
