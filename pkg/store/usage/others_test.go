package usage

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// In these tests a token costs a thousand nano dollars, as open sets it.

func TestLimitsOfAllUsersCountOtherCells(t *testing.T) {
	const limit = 1_000_000
	for name, test := range map[string]struct {
		limits Limits
		own    int64 // tokens, after the others are known
		others Share
		cells  int
		later  time.Duration
		over   string
	}{
		"enough is left":                   {Limits{DayCost: limit}, 499, Share{"2026-11-10", 500_000, 500_000, 0}, 1, 0, ""},
		"all is spent":                     {Limits{DayCost: limit}, 500, Share{"2026-11-10", 500_000, 500_000, 0}, 1, 0, "budget_day_usd"},
		"yesterday's does not count today": {Limits{DayCost: limit}, 999, Share{"2026-11-09", 500_000, 500_000, 0}, 1, 0, ""},
		"yesterday's counts for the month": {Limits{MonthCost: limit}, 500, Share{"2026-11-09", 0, 500_000, 0}, 1, 0, "budget_month_usd"},
		"the last month does not count":    {Limits{DayCost: limit, MonthCost: limit}, 999, Share{"2026-10-31", 500_000, 500_000, 9}, 1, 0, ""},
		"damaged sums give nothing back":   {Limits{DayCost: limit, MonthCost: limit}, 999, Share{"2026-11-10", -limit, -limit, -limit}, 1, 0, ""},
		"sums beyond all numbers":          {Limits{DayCost: limit}, 0, Share{"2026-11-10", 1<<63 - 1, 1<<63 - 1, 1<<63 - 1}, 1, 0, "budget_day_usd"},
		// 600,000 were left for three cells.
		"an even part is left of old knowledge": {Limits{DayCost: limit}, 199, Share{"2026-11-10", 400_000, 0, 0}, 2, 2 * time.Minute, ""},
		"and no more":                           {Limits{DayCost: limit}, 200, Share{"2026-11-10", 400_000, 0, 0}, 2, 2 * time.Minute, "budget_day_usd"},
		// On the next day the whole limit is left for three cells, and two parts of
		// the month.
		"an even part of the next day":   {Limits{DayCost: limit}, 0, Share{"2026-11-10", limit, limit, 0}, 2, 24 * time.Hour, ""},
		"an even part of the same month": {Limits{MonthCost: limit}, 0, Share{"2026-11-10", limit, limit, 0}, 2, 24 * time.Hour, "budget_month_usd"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock("2026-11-10T12:00:00Z")
			b := open(t, t.TempDir(), c, test.limits)
			b.ShareLimits()
			b.SetOthers(test.cells, test.others)
			j := b.Job("u", "p", "j")
			if test.own > 0 {
				wantOver(t, spend(j, test.own), "")
			}
			c.pass(test.later)
			wantOver(t, j.Check(), test.over)
		})
	}
}

func TestNothingIsSpentBeforeOtherCellsAreKnown(t *testing.T) {
	b := open(t, t.TempDir(), nil, Limits{DayCost: 1_000_000})
	b.ShareLimits()
	wantOver(t, b.Job("u", "p", "j").Check(), "budget_day_usd")
	b.Apply(prices(t, "m in=1 out=1"), Limits{UserDayCost: 1_000_000})
	wantOver(t, b.Job("u", "p", "j").Check(), "")
}

func TestReservationsOfOtherCellsMakeARequestWait(t *testing.T) {
	b := open(t, t.TempDir(), nil, Limits{DayCost: 1_000_000})
	b.ShareLimits()
	own, err := b.Share()
	if err != nil {
		t.Fatal(err)
	}
	b.SetOthers(1, Share{Day: own.Day, Reserved: 1_000_000})
	j := b.Job("u", "p", "j")
	if _, err := j.Reserve("m", 1, 1); err == nil {
		t.Error("it was admitted")
	}
	if err := j.Check(); err != nil {
		t.Errorf("a job that can wait is refused: %v", err)
	}
}

// Cells that learn of each other at different times exceed the limit by what they can
// spend in between, and cells that do not learn anything any more do not add to it.
func TestOverrunOfManyCells(t *testing.T) {
	const (
		cells    = 20
		request  = 1000 // tokens
		limit    = dreamcore.Nano(cells * 50 * request * 1000)
		interval = 10 // rounds, in each of which a cell sends one request
	)
	for name, cutOff := range map[string]int{"all learn": 0, "none learns after a while": cells} {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			c := newClock("2026-11-10T00:00:00Z")
			ledgers := make([]*Ledger, cells)
			for i := range ledgers {
				ledgers[i] = open(t, t.TempDir(), c, Limits{DayCost: limit})
				ledgers[i].ShareLimits()
			}
			var published [cells]Share
			exchange := func(i int) {
				s, err := ledgers[i].Share()
				if err != nil {
					t.Fatal(err)
				}
				published[i] = s
				theirs := Share{Day: s.Day}
				for k, o := range published {
					if k != i {
						theirs = theirs.Plus(o)
					}
				}
				ledgers[i].SetOthers(cells-1, theirs)
			}
			refused, rounds := 0, 0
			for ; refused < cells && rounds < 1000; rounds++ {
				refused = 0
				for i, l := range ledgers {
					if cutOff == 0 || rounds < 10 {
						if rounds == 0 || (rounds+i)%interval == 0 {
							exchange(i)
						}
					}
					// Some cells are much busier than others.
					if i%4 == 0 || rng.IntN(4) == 0 {
						_ = spend(l.Job(strconv.Itoa(i), "p", "j"), request)
					}
					if l.Job("x", "p", "j").Check() != nil {
						refused++
					}
				}
				c.pass(time.Second)
			}
			var sum dreamcore.Nano
			for _, l := range ledgers {
				s, err := l.Share()
				if err != nil {
					t.Fatal(err)
				}
				sum += s.DayCost
			}
			most := limit + cells*(interval+1)*request*1000
			if refused < cells || sum > most || sum < limit*8/10 {
				t.Errorf("%d of %d cells are refused after %d rounds; spent %v of %v, at most %v", refused, cells, rounds, sum, limit, most)
			}
			t.Logf("spent %.3f of the limit", float64(sum)/float64(limit))
		})
	}
}
