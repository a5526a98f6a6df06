package usage

import (
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Share is what one or several cells have spent.
type Share struct {
	Day       string         // the current one, YYYY-MM-DD (UTC)
	DayCost   dreamcore.Nano // of all users since the day began
	MonthCost dreamcore.Nano // of all users since the month of Day began
	Reserved  dreamcore.Nano // what running requests may still cost
}

// Plus returns the sum of two shares of the same day. A share of another day counts
// for its month only, and not at all in another month.
func (s Share) Plus(o Share) Share {
	if month(o.Day) == month(s.Day) {
		s.MonthCost = s.MonthCost.Add(max(o.MonthCost, 0))
	}
	if o.Day == s.Day {
		s.DayCost, s.Reserved = s.DayCost.Add(max(o.DayCost, 0)), s.Reserved.Add(max(o.Reserved, 0))
	}
	return s
}

// month returns the month of a day, YYYY-MM.
func month(day string) string { return day[:max(strings.LastIndexByte(day, '-'), 0)] }

// staleAfter is how old the knowledge of other cells may be. Beyond it a cell spends
// only its even part of the remaining limit.
const staleAfter = time.Minute

// others is what a ledger knows of other cells.
type others struct {
	counted bool      // the limits of all users together are shared with other cells
	known   time.Time // when the rest was learnt; zero if it never was
	cells   int       // the number of other cells
	theirs  Share
	own     Share // of this ledger then
}

// ShareLimits makes the limits of all users together count what other cells have
// spent. Nothing is left of these limits before the first call of SetOthers.
func (l *Ledger) ShareLimits() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.others.counted = true
}

// Share returns the spending of this cell. A month that has just begun is at zero.
func (l *Ledger) Share() (Share, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.advance(l.opts.Now()); err != nil {
		return Share{}, err
	}
	if err := l.catchUp(); err != nil {
		return Share{}, err
	}
	return l.share(), nil
}

// share is Share with mu held.
func (l *Ledger) share() Share {
	return Share{Day: l.today, DayCost: l.machine.day.cost, MonthCost: l.machine.month.cost, Reserved: l.machine.reserved.cost}
}

// SetOthers takes over what so many other cells have spent.
func (l *Ledger) SetOthers(cells int, theirs Share) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.others.known, l.others.cells, l.others.theirs, l.others.own = l.opts.Now(), cells, theirs, l.share()
}

// together returns what counts as spent of a limit of all users together, of a day or
// of a month, and what running requests may still cost. It must be called with mu held.
func (l *Ledger) together(limit dreamcore.Nano, period func(Share) dreamcore.Nano) (spent, reserved sum) {
	o, own := l.others, l.share()
	count := func(n, r dreamcore.Nano) (sum, sum) { return sum{cost: n}, sum{cost: r} }
	if !o.counted || limit <= 0 {
		return count(period(own), own.Reserved)
	}
	if o.known.IsZero() {
		return count(max(limit, period(own)), own.Reserved)
	}
	// As they count today.
	theirs, then := Share{Day: own.Day}.Plus(o.theirs), Share{Day: own.Day}.Plus(o.own)
	all := period(own).Add(period(theirs))
	if l.opts.Now().Sub(o.known) <= staleAfter {
		return count(all, own.Reserved.Add(theirs.Reserved))
	}
	left := max(limit-period(theirs)-period(then), 0)
	return count(all.Add(left-left/dreamcore.Nano(o.cells+1)), own.Reserved)
}

func costOfDay(s Share) dreamcore.Nano   { return s.DayCost }
func costOfMonth(s Share) dreamcore.Nano { return s.MonthCost }
