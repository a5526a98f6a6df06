package record

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// errDamaged marks what a file that bbolt has written cannot contain.
var errDamaged = errors.New("the index of jobs is damaged")

// asideExtension is appended to the name of a damaged file. There is one at most.
const asideExtension = ".damaged"

// open opens a file, and makes the buckets of a new one.
func open(path string) (db *bolt.DB, err error) {
	var file *os.File
	o := &bolt.Options{Timeout: openLimit, FreelistType: bolt.FreelistMapType, OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
		f, err = os.OpenFile(name, flag, mode)
		file = f
		return f, err
	}}
	if err = guard(func() error { db, err = bolt.Open(path, 0o600, o); return err }); err != nil {
		if file != nil {
			_ = file.Close() // after a panic it is still open; after an error, closed already
		}
		return nil, err
	}
	if err = guard(func() error { return check(db, path) }); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// check checks an index that was opened, and makes the buckets of a new one.
func check(db *bolt.DB, path string) error {
	empty := false
	err := db.View(func(tx *bolt.Tx) (err error) {
		empty, err = verify(tx, path)
		return err
	})
	if err != nil || !empty {
		return err
	}
	return db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketState).Put(keyFormat, []byte(format))
	})
}

// verify reports whether an index is new, and fails if it cannot be read.
func verify(tx *bolt.Tx, path string) (empty bool, err error) {
	// bbolt maps the file, and reads beyond the end of one that was cut.
	if info, err := os.Stat(path); err != nil || info.Size() < tx.Size() {
		return false, errors.Join(errDamaged, err)
	}
	if k, _ := tx.Cursor().First(); k == nil {
		return true, nil
	}
	for _, name := range buckets {
		if tx.Bucket(name) == nil {
			return false, fmt.Errorf("%w: it has no bucket %s", errDamaged, name)
		}
	}
	if v := tx.Bucket(bucketState).Get(keyFormat); string(v) != format {
		return false, fmt.Errorf("%w: it has the format %.20q", errDamaged, v)
	}
	return false, nil
}

// replace sets a damaged file aside and opens an empty one.
func replace(path string) (*bolt.DB, error) {
	if err := os.Rename(path, path+asideExtension); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return open(path)
}

func isDamage(err error) bool {
	for _, known := range []error{errDamaged, berrors.ErrInvalid, berrors.ErrVersionMismatch, berrors.ErrChecksum, berrors.ErrInvalidMapping, berrors.ErrIncompatibleValue} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// guard calls fn and turns a panic of bbolt, and a fault in the memory that the file
// is mapped to, into an error.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	return fn()
}

func (s *Store) view(fn func(*bolt.Tx) error) error {
	return s.do(func(db *bolt.DB) error { return db.View(fn) })
}

func (s *Store) update(fn func(*bolt.Tx) error) error {
	return s.do(func(db *bolt.DB) error { return db.Update(fn) })
}

// do calls fn. If that shows that the file is damaged, it goes on with an empty one,
// and calls fn again.
func (s *Store) do(fn func(*bolt.DB) error) error {
	s.mu.RLock()
	db := s.db
	err := guard(func() error { return fn(db) })
	s.mu.RUnlock()
	if !isDamage(err) || s.readOnly {
		return err
	}
	if err := s.renew(db, err); err != nil {
		return diskError("replace the damaged index of jobs", err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return guard(func() error { return fn(s.db) })
}

// renew replaces the damaged file.
func (s *Store) renew(damaged *bolt.DB, cause error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.db != damaged {
		return nil // replaced already
	}
	db, err := replace(s.path)
	if err != nil {
		return err
	}
	s.db, s.fresh = db, true
	// A transaction that has panicked may still hold the locks of bbolt: the file is
	// left open rather than waited for.
	go func() { _ = guard(damaged.Close) }()
	if s.opts.Damaged != nil {
		s.opts.Damaged(cause)
	}
	return nil
}

func diskError(action string, err error) error { return statefile.Error(action, err) }
