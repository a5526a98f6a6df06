package config

import (
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
)

func TestBudgetsAreReadExactly(t *testing.T) {
	c, err := Load(Sources{Environ: []string{
		"HOME=" + t.TempDir(), "DREAMCORE_STATE=" + t.TempDir(), "DREAMCORE_BUDGET_JOB_USD=0.1", "DREAMCORE_BUDGET_USER_MONTH_TOKENS=7",
		"DREAMCORE_BUDGET_MONTH_USD=1000.001", "DREAMCORE_USER_REQUESTS=5", "DREAMCORE_PRICES=m in=1 out=2, n* in=3 out=4 read=0.5",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Limits(), (usage.Limits{JobCost: 100_000_000, UserMonthTokens: 7, MonthCost: 1_000_001_000_000, UserRequests: 5}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if len(c.Prices) != 2 || c.Prices[1] != "n* in=3 out=4 read=0.5" {
		t.Errorf("%q", c.Prices)
	}
}

func TestInvalidBudgetsAreRefused(t *testing.T) {
	for _, bad := range []string{"BUDGET_JOB_USD=-1", "BUDGET_DAY_USD=NaN", "BUDGET_DAY_USD=1e12", "BUDGET_DAY_USD=0.0000001", "BUDGET_JOB_TOKENS=-1", "USER_REQUESTS=-1", "PRICES=m in=1", "USAGE_DAYS=0", "AUDIT_MIB=0"} {
		_, err := Load(Sources{Environ: []string{"HOME=" + t.TempDir(), "DREAMCORE_STATE=" + t.TempDir(), "DREAMCORE_" + bad}})
		key, _, _ := strings.Cut(strings.ToLower(bad), "=")
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
