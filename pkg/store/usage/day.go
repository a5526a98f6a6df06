package usage

import (
	"errors"
	"io/fs"
	"maps"
	"strings"
	"time"
)

// advance makes the day of now the current one. A new day starts at zero. At the
// start, and after a clock that went back, the whole month is summed up again. It
// must be called with mu held.
func (l *Ledger) advance(now time.Time) error {
	day := dayOf(now)
	if day == l.today {
		return nil
	}
	all := day < l.today || l.today == "" || l.hasReadAhead(day)
	l.resetSums(day, monthOf(now), all)
	err := l.sync()
	if err != nil {
		err = diskError("sync the ledger", err)
	} else {
		l.closeFiles(now, all)
		if err = l.prune(now); err == nil {
			err = l.readMonth(now)
		}
	}
	if err != nil {
		l.today = "" // partial sums would not enforce limits: the next request starts again
		return err
	}
	if all {
		for _, r := range l.backlog {
			l.count(r)
		}
		return nil
	}
	l.closedDay = dayOf(now.AddDate(0, 0, -2))
	l.wake()
	return nil
}

// hasReadAhead reports whether records of day may already be in the sums. Before
// its day, a record counts for the month only. It must be called with mu held.
func (l *Ledger) hasReadAhead(day string) bool {
	for read, size := range l.read {
		if read >= day && size > 0 {
			return true
		}
	}
	return false
}

// closeFiles closes the files of past days, which are synced. It must be called
// with mu held.
func (l *Ledger) closeFiles(now time.Time, all bool) {
	for name, d := range l.files {
		if all || name != l.today && name != dayOf(now.AddDate(0, 0, -1)) {
			_ = d.f.Close()
			delete(l.files, name)
		}
	}
	maps.DeleteFunc(l.read, func(day string, _ int64) bool {
		return all || l.files[day] == nil && !strings.HasPrefix(day, l.month)
	})
}

// resetSums sets the sums of a new day and month to zero. Reservations stay. It
// must be called with mu held.
func (l *Ledger) resetSums(day, month string, all bool) {
	newMonth := all || month != l.month
	l.today, l.month = day, month
	l.machine.reset(newMonth)
	for name, c := range l.users {
		c.reset(newMonth)
		if newMonth && c.reserved == (sum{}) {
			delete(l.users, name)
		}
	}
}

// readMonth reads the records of the current month that are not in the sums yet:
// all of them at the start; later those that other processes have written before
// midnight, or afterwards if their clocks are slow. It must be called with mu held.
func (l *Ledger) readMonth(now time.Time) error {
	names, err := days(l.root)
	if err != nil {
		return diskError("list the ledger", err)
	}
	yesterday := dayOf(now.AddDate(0, 0, -1))
	for _, name := range names {
		day := strings.TrimSuffix(name, extension)
		_, begun := l.read[day]
		switch {
		case day == l.today, day == yesterday: // other processes may still append
			err = l.catchUpWith(day)
		case !strings.HasPrefix(day, l.month):
		case day < yesterday && !begun:
			err = l.readClosedDay(day)
		default:
			err = l.catchUpWith(day)
			if d := l.files[day]; d != nil {
				err = errors.Join(err, d.f.Close()) // it was only read
				delete(l.files, day)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readClosedDay adds the sums of a closed day. It must be called with mu held.
func (l *Ledger) readClosedDay(day string) error {
	s, read, saveErr, err := closedDaySums(l.root, day)
	if err != nil {
		return err
	}
	if saveErr != nil {
		l.warnUnsaved(day, saveErr)
	}
	for k, spent := range s {
		l.add(k, spent)
	}
	l.read[day] = read
	return nil
}

// saveClosedDay saves the sums of the day that was closed last.
func (l *Ledger) saveClosedDay() {
	l.mu.Lock()
	day := l.closedDay
	l.closedDay = ""
	wanted := strings.HasPrefix(day, l.month)
	l.mu.Unlock()
	if day == "" || !wanted {
		return
	}
	_, _, saveErr, err := closedDaySums(l.root, day)
	if err = errors.Join(err, saveErr); err != nil {
		l.warnUnsaved(day, err)
	}
}

func (l *Ledger) warnUnsaved(day string, err error) {
	l.log.Warn("cannot save the sums of a day: each start reads all of its records", "day", day, "error", err)
}

// prune removes files that are too old, and the oldest ones when all are too large.
// The current month stays, because limits count it. It must be called with mu held.
func (l *Ledger) prune(now time.Time) error {
	names, err := days(l.root)
	if err != nil {
		return diskError("list the ledger", err)
	}
	var total int64
	for i := len(names) - 1; i >= 0; i-- {
		info, err := l.root.Stat(names[i])
		if err != nil {
			continue
		}
		total += info.Size()
		day := strings.TrimSuffix(names[i], extension)
		old := day < dayOf(now.AddDate(0, 0, -l.opts.Days)) || total > maxBytes
		if !old || strings.HasPrefix(day, l.month) || l.files[day] != nil {
			continue
		}
		if err := l.root.Remove(names[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return diskError("remove old files of the ledger", err)
		}
	}
	if err := pruneSums(l.root, l.month, names); err != nil {
		l.log.Warn("cannot remove old sums of the ledger", "error", err) // they do no harm
	}
	return nil
}
