package record

import (
	"errors"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

const (
	compactExtension = ".new"
	compactBytes     = 1 << 20 // of one transaction
	// compactTries is how often the index is copied beside changes; the next copy keeps
	// them waiting.
	compactTries = 5
)

// Compact writes the index again, without what removed rows have left in the unused
// parts of its file, and removes the damaged file that was set aside, if there is
// one. The index is in use meanwhile: it is copied again if it has changed.
func (s *Store) Compact() error {
	s.compacting.Lock()
	defer s.compacting.Unlock()
	fresh := s.path + compactExtension
	err := s.compact(fresh)
	if err != nil {
		return diskError("compact the index of jobs", errors.Join(err, statefile.IgnoreMissing(os.Remove(fresh))))
	}
	return nil
}

func (s *Store) compact(fresh string) error {
	for range compactTries {
		s.mu.RLock()
		from := s.db
		s.mu.RUnlock()
		before, err := lastChange(from)
		if err != nil {
			return err
		}
		if err := compactTo(fresh, from); err != nil {
			return err
		}
		s.copied()
		if done, err := s.swap(fresh, from, before); done || err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return os.ErrClosed
	}
	if err := compactTo(fresh, s.db); err != nil {
		return err
	}
	return s.use(fresh)
}

// lastChange returns the number of the last transaction that has changed an index.
func lastChange(db *bolt.DB) (n int, err error) {
	err = guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			n = tx.ID()
			return nil
		})
	})
	return n, err
}

// swap uses a copy instead of from, unless that has changed since the change before.
func (s *Store) swap(fresh string, from *bolt.DB, before int) (done bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false, os.ErrClosed
	}
	if s.db != from { // it was replaced
		return false, nil
	}
	if now, err := lastChange(from); err != nil || now != before {
		return false, err
	}
	return true, s.use(fresh)
}

// use uses a copy as the index. It must be called with mu held.
func (s *Store) use(fresh string) error {
	// It is opened first: after an error, the old file stays in use, and has its name.
	// It is also locked then, before it gets the name.
	db, err := open(fresh)
	if err != nil {
		return err
	}
	if err := os.Rename(fresh, s.path); err != nil {
		return errors.Join(err, db.Close())
	}
	old := s.db
	s.db = db
	return errors.Join(statefile.Sync(filepath.Dir(s.path)), old.Close(), statefile.IgnoreMissing(os.Remove(s.path+asideExtension)))
}

// compactTo copies an index to a new file.
func compactTo(path string, from *bolt.DB) error {
	if err := statefile.IgnoreMissing(os.Remove(path)); err != nil { // left by a crash
		return err
	}
	to, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: openLimit, NoSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return err
	}
	err = guard(func() error { return bolt.Compact(to, from, compactBytes) })
	if err == nil {
		err = to.Sync()
	}
	return errors.Join(err, to.Close())
}
