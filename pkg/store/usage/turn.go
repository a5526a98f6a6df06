package usage

import (
	"errors"
	"io/fs"
	"maps"
	"strings"
	"time"
)

// turn makes now's day the current one. A new day begins at nothing; after a
// clock that went back, as at the start, the month is summed up again. b.mu is
// held.
func (b *Book) turn(now time.Time) error {
	day := dayOf(now)
	if day == b.today {
		return nil
	}
	all := day < b.today || b.today == "" || b.read[day] > 0 // of a day to come only the month is counted
	b.begin(day, monthOf(now), all)
	err := b.sync()
	if err != nil {
		err = diskError("bring the books to the disk", err)
	} else {
		b.leave(now, all)
		if err = b.prune(now); err == nil {
			err = b.sumUp(now)
		}
	}
	if err != nil {
		b.today = "" // with half of the sums limits would not hold: all again at the next request
		return err
	}
	if all {
		for _, r := range b.backlog {
			b.count(r)
		}
		return nil
	}
	b.over = dayOf(now.AddDate(0, 0, -2))
	b.wake()
	return nil
}

// leave closes the files of days that are over: they are synced. b.mu is held.
func (b *Book) leave(now time.Time, all bool) {
	for name, d := range b.files {
		if all || name != b.today && name != dayOf(now.AddDate(0, 0, -1)) {
			_ = d.f.Close()
			delete(b.files, name)
		}
	}
	maps.DeleteFunc(b.read, func(day string, _ int64) bool {
		return all || b.files[day] == nil && !strings.HasPrefix(day, b.month)
	})
}

// begin sets the sums that begin anew to nothing. Reservations stay. b.mu is held.
func (b *Book) begin(day, month string, all bool) {
	newMonth := all || month != b.month
	b.today, b.month = day, month
	b.machine.begin(newMonth)
	for name, c := range b.users {
		c.begin(newMonth)
		if newMonth && c.held == (sum{}) {
			delete(b.users, name)
		}
	}
}

// sumUp reads what is not in the sums yet of the books of the month that runs:
// all at the start, else what others wrote before midnight, and since then with
// a clock that is late. b.mu is held.
func (b *Book) sumUp(now time.Time) error {
	names, err := days(b.root)
	if err != nil {
		return diskError("list the books", err)
	}
	yesterday := dayOf(now.AddDate(0, 0, -1))
	for _, name := range names {
		day := strings.TrimSuffix(name, extension)
		_, begun := b.read[day]
		switch {
		case day == b.today, day == yesterday: // others may still append to them
			err = b.catchUpWith(day)
		case !strings.HasPrefix(day, b.month):
		case day < yesterday && !begun:
			err = b.sumUpClosed(day)
		default:
			err = b.catchUpWith(day)
			if d := b.files[day]; d != nil {
				err = errors.Join(err, d.f.Close()) // nothing was written to it
				delete(b.files, day)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sumUpClosed adds the sums of a day that is over. b.mu is held.
func (b *Book) sumUpClosed(day string) error {
	s, read, kept, err := sumUpDay(b.root, day)
	if err != nil {
		return err
	}
	if kept != nil {
		b.log.Warn("the sums of a day cannot be kept: each start reads all of its books", "day", day, "error", kept)
	}
	for k, spent := range s {
		b.add(k.day, k.user, spent)
	}
	b.read[day] = read
	return nil
}

// condense writes the sums of the day that is over since the last turn.
func (b *Book) condense() {
	b.mu.Lock()
	day := b.over
	b.over = ""
	wanted := strings.HasPrefix(day, b.month)
	b.mu.Unlock()
	if day == "" || !wanted {
		return
	}
	_, _, kept, err := sumUpDay(b.root, day)
	if err = errors.Join(err, kept); err != nil {
		b.log.Warn("the sums of a day cannot be kept: each start reads all of its books", "day", day, "error", err)
	}
}

// prune removes the books that are too old, and the oldest of too many. The
// month that runs stays: limits count it. b.mu is held.
func (b *Book) prune(now time.Time) error {
	names, err := days(b.root)
	if err != nil {
		return diskError("list the books", err)
	}
	var total int64
	for i := len(names) - 1; i >= 0; i-- {
		info, err := b.root.Stat(names[i])
		if err != nil {
			continue
		}
		total += info.Size()
		day := strings.TrimSuffix(names[i], extension)
		old := day < dayOf(now.AddDate(0, 0, -b.opts.Days)) || total > maxBytes
		if !old || strings.HasPrefix(day, b.month) || b.files[day] != nil {
			continue
		}
		if err := b.root.Remove(names[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return diskError("remove old books", err)
		}
	}
	if err := pruneSums(b.root, b.month, names); err != nil {
		b.log.Warn("old sums of the books cannot be removed", "error", err) // and do no harm
	}
	return nil
}
