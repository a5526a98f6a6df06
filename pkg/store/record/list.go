package record

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	bolt "go.etcd.io/bbolt"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Position is a place in the order of rows.
type Position struct {
	Created time.Time
	ID      string
}

// Before reports whether p is older than q.
func (p Position) Before(q Position) bool { return bytes.Compare(p.Order(), q.Order()) < 0 }

// Order returns bytes that sort as positions do, the oldest first.
func (p Position) Order() []byte { return order(p.Created, uuid.UUID(idBytes(p.ID))) }

// Cursor returns the cursor of the page after the row at p.
func (p Position) Cursor() string { return base64.RawURLEncoding.EncodeToString(p.Order()) }

// ParseCursor returns the position that a cursor stands for.
func ParseCursor(s string) (Position, error) {
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(raw) != orderBytes || binary.BigEndian.Uint64(raw) > 1<<63-1 {
		return Position{}, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "Invalid cursor", Hint: "pass the next of the page before, unchanged", Err: err,
		}
	}
	return Position{time.Unix(0, int64(binary.BigEndian.Uint64(raw))), uuid.UUID(raw[8:]).String()}, nil
}

// PositionOf returns the place of a record.
func PositionOf(j dreamcore.Job) Position { return Position{j.Created, j.ID} }

// List returns the rows that f selects, the newest first, up to f.Limit, which must
// be positive, without those for which skip returns true. more reports whether there
// are others. CodeInvalid: f.Cursor is not a cursor.
func (s *Store) List(f dreamcore.JobFilter, skip func(Row) bool) (rows []Row, more bool, err error) {
	first, last, err := bounds(f)
	if err != nil {
		return nil, false, err
	}
	err = s.view(func(tx *bolt.Tx) error {
		rows, more = nil, false
		return descend(tx, f, first, last, func(id uuid.UUID) (bool, error) {
			r, ok, err := rowOf(tx, id)
			if err == nil && !ok {
				err = errors.Join(errDamaged, errUnknown(id.String()))
			}
			if err != nil {
				return false, err
			}
			if skip != nil && skip(r) {
				return true, nil
			}
			if len(rows) == f.Limit {
				more = true
				return false, nil
			}
			rows = append(rows, r)
			return true, nil
		})
	})
	return rows, more, err
}

// bounds returns the order of the oldest row that f selects, and that of the first
// one that is too new.
func bounds(f dreamcore.JobFilter) (first, last []byte, err error) {
	first, last = make([]byte, orderBytes), bytes.Repeat([]byte{0xff}, orderBytes)
	if !f.Since.IsZero() {
		first = order(f.Since, uuid.Nil)
	}
	if !f.Until.IsZero() {
		last = order(f.Until, uuid.Nil)
	}
	if f.Cursor != "" {
		at, err := ParseCursor(f.Cursor)
		if err != nil {
			return nil, nil, err
		}
		if bytes.Compare(at.Order(), last) < 0 {
			last = at.Order()
		}
	}
	return first, last, nil
}

// descend calls fn with the ids of the rows from first to before last, the newest
// first, until it returns false. The rows of the states are merged.
func descend(tx *bolt.Tx, f dreamcore.JobFilter, first, last []byte, fn func(uuid.UUID) (bool, error)) error {
	wanted := states
	if f.State != "" {
		wanted = []dreamcore.JobState{f.State}
	}
	var all []*walk
	for _, state := range wanted {
		w := &walk{c: tx.Bucket(bucketIndex).Cursor(), prefix: prefix(f.User, f.Project, state)}
		if w.seek(last) {
			all = append(all, w)
		}
	}
	for len(all) > 0 {
		newest := slices.MaxFunc(all, func(a, b *walk) int { return bytes.Compare(a.order, b.order) })
		if bytes.Compare(newest.order, first) < 0 {
			return nil
		}
		if more, err := fn(uuid.UUID(newest.order[8:])); !more || err != nil {
			return err
		}
		if !newest.at(newest.c.Prev()) {
			all = slices.DeleteFunc(all, func(w *walk) bool { return w == newest })
		}
	}
	return nil
}

// walk goes backwards through the keys with a prefix.
type walk struct {
	c      *bolt.Cursor
	prefix []byte
	order  []byte // of the current key
}

// seek goes to the last key before an order; it reports false if no such key exists.
func (w *walk) seek(before []byte) bool {
	k, _ := w.c.Seek(append(bytes.Clone(w.prefix), before...))
	if k == nil {
		return w.at(w.c.Last())
	}
	return w.at(w.c.Prev())
}

func (w *walk) at(k, _ []byte) bool {
	if !bytes.HasPrefix(k, w.prefix) || len(k) != len(w.prefix)+orderBytes {
		return false
	}
	w.order = k[len(w.prefix):]
	return true
}

// Unfinished returns the rows of the jobs with which something is still to be done,
// the oldest of each kind first: those that run, those that wait, and those that have
// ended but are Untold.
func (s *Store) Unfinished() (rows []Row, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		rows = nil
		for _, p := range [][]byte{prefix("", "", dreamcore.JobRunning), prefix("", "", dreamcore.JobQueued), {scopeUntold}} {
			c := tx.Bucket(bucketIndex).Cursor()
			for k, _ := c.Seek(p); bytes.HasPrefix(k, p); k, _ = c.Next() {
				r, ok, err := rowOf(tx, uuid.UUID(k[len(k)-16:]))
				if err != nil {
					return err
				}
				// An earlier version of this program leaves the keys that it does not know.
				if ok && (r.Untold || !r.Final()) {
					rows = append(rows, r)
				}
			}
		}
		return nil
	})
	return rows, err
}

// Extra returns the ids of rows for which has returns false.
func (s *Store) Extra(has func(id string) bool) (ids []string, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		ids = nil
		return tx.Bucket(bucketRows).ForEach(func(k, _ []byte) error {
			if id := uuid.UUID(k).String(); !has(id) {
				ids = append(ids, id)
			}
			return nil
		})
	})
	return ids, err
}
