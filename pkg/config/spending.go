package config

import (
	"math"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
)

// maxUSD bounds an amount of money in the settings.
const maxUSD = 1e9

// Limits returns the spending limits.
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
