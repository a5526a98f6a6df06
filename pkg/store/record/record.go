// Package record is the index of jobs: one row for each job, to be found by id,
// user, project, state, time or idempotency key. The logs of the jobs
// (pkg/store/journal) are the truth; every row can be made again from its log, so
// that a lost or damaged index costs time only.
//
//	store, err := record.Open(file, record.Options{})
//	if store.Fresh() { … }            // rows have to be made again from the logs
//	err = store.Put(row)              // on the disk when it returns
//	row, err := store.Get(id)         // CodeNotFound, perhaps with ReasonExpired
//	rows, more, err := store.List(filter, skip)
//	err = store.Expire(id)            // the log was removed
//
// The files: record.go opens the store and writes rows, key.go has the keys of the
// index, list.go the queries, damage.go survives a damaged file.
//
// It is a bbolt file. modernc.org/sqlite was measured beside it with 100,000 rows, on
// a busy machine: it adds 5.2 MB to a program, bbolt 0.7; a first page takes 17 to 23
// ms (bbolt 1), a durable change 9 ms (5), and it needs 3 GB of memory to compile. An
// index in memory would have to be read when the service starts.
package record

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	bolt "go.etcd.io/bbolt"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// ReasonExpired: there was such a job, and its record was removed with its log. The
// code is CodeNotFound.
const ReasonExpired dreamcore.Reason = "record.expired"

// Row is the record of a job with what only the service needs.
type Row struct {
	dreamcore.Job
	Key    []byte `json:"key,omitempty"`    // hash of the idempotency key; nil without one
	Digest []byte `json:"digest,omitempty"` // of the request that has the key
	Untold bool   `json:"untold,omitempty"` // the job has ended, and its webhooks are not queued yet
}

// Spent sets what the job has spent.
func (r *Row) Spent(cost dreamcore.Nano, tokens dreamcore.Tokens) {
	r.Cost, r.Input, r.Output = dreamcore.Dollars(cost), tokens.Prompt(), tokens.Output
}

// Options configures a Store.
type Options struct {
	// Damaged is called once when a damaged file was replaced by an empty one while
	// the store was in use. It must not wait for the Store. It may be nil.
	Damaged func(cause error)
	// Graves bounds how many expired jobs are remembered; 0 means DefaultGraves.
	Graves int
}

// DefaultGraves takes about 10 MB.
const DefaultGraves = 100_000

// Store is the index. Its methods are safe for concurrent use. One process at a
// time can have it open.
type Store struct {
	path     string
	opts     Options
	readOnly bool

	compacting sync.Mutex
	copied     func() // called between a copy of Compact and its use; for tests

	mu     sync.RWMutex
	db     *bolt.DB // guarded by mu
	fresh  bool     // guarded by mu
	closed bool     // guarded by mu
}

// The buckets.
var (
	bucketRows   = []byte("rows")   // id → row
	bucketIndex  = []byte("index")  // see key.go; no values
	bucketKeys   = []byte("keys")   // user, hash of an idempotency key → id
	bucketGraves = []byte("graves") // id of an expired job → its number
	bucketOrder  = []byte("order")  // number → id of an expired job
	bucketState  = []byte("state")  // keyComplete, keyFormat

	buckets = [][]byte{bucketRows, bucketIndex, bucketKeys, bucketGraves, bucketOrder, bucketState}
)

var (
	keyComplete = []byte("complete") // is present when the index has a row for every log
	keyFormat   = []byte("format")
)

// format changes with the keys and the rows. An index of another format is made
// again.
const format = "1"

// Open opens the index in a file, which it creates if needed. A file that is
// damaged is set aside. The caller must Close the Store.
func Open(path string, opts Options) (*Store, error) {
	if opts.Graves <= 0 {
		opts.Graves = DefaultGraves
	}
	s := &Store{path: path, opts: opts, copied: func() {}}
	db, err := open(path)
	if isDamage(err) {
		db, err = replace(path)
	}
	if err != nil {
		return nil, diskError("open the index of jobs", err)
	}
	s.db = db
	if err := s.view(func(tx *bolt.Tx) error {
		s.fresh = tx.Bucket(bucketState).Get(keyComplete) == nil
		return nil
	}); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Fresh reports whether the index was created or replaced and has not been made
// complete yet.
func (s *Store) Fresh() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.fresh
}

// Complete notes that the index has a row for every log.
func (s *Store) Complete() error {
	err := s.update(func(tx *bolt.Tx) error { return tx.Bucket(bucketState).Put(keyComplete, []byte{1}) })
	if err == nil {
		s.mu.Lock()
		s.fresh = false
		s.mu.Unlock()
	}
	return err
}

// Close closes the Store. It may be called more than once.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.db.Close()
}

// Put writes rows, which are on the disk when it returns.
func (s *Store) Put(rows ...Row) error {
	err := s.update(func(tx *bolt.Tx) error {
		for _, r := range rows {
			if err := put(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return diskError("write the index of jobs", err)
	}
	return nil
}

func put(tx *bolt.Tx, r Row) error {
	id, err := uuid.Parse(r.ID)
	if err != nil {
		return fmt.Errorf("record of job %.64q: %w", r.ID, err)
	}
	if old, ok, err := rowOf(tx, id); err != nil {
		return err
	} else if ok {
		if err := unindex(tx, id, old); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := tx.Bucket(bucketRows).Put(id[:], raw); err != nil {
		return err
	}
	index := tx.Bucket(bucketIndex)
	for _, k := range keys(id, r) {
		if err := index.Put(k, nil); err != nil {
			return err
		}
	}
	if r.Key == nil {
		return nil
	}
	return tx.Bucket(bucketKeys).Put(idempotencyKey(r.User, r.Key), id[:])
}

// rowOf returns a row; ok is false without one.
func rowOf(tx *bolt.Tx, id uuid.UUID) (r Row, ok bool, err error) {
	raw := tx.Bucket(bucketRows).Get(id[:])
	if raw == nil {
		return r, false, nil
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, false, fmt.Errorf("%w: record of job %s: %w", errDamaged, id, err)
	}
	return r, true, nil
}

// unindex removes everything that leads to a row.
func unindex(tx *bolt.Tx, id uuid.UUID, r Row) error {
	index := tx.Bucket(bucketIndex)
	for _, k := range keys(id, r) {
		if err := index.Delete(k); err != nil {
			return err
		}
	}
	if r.Key == nil {
		return nil
	}
	k := idempotencyKey(r.User, r.Key)
	if keys := tx.Bucket(bucketKeys); string(keys.Get(k)) == string(id[:]) {
		return keys.Delete(k)
	}
	return nil
}

// Expire removes the rows of jobs and remembers that they existed.
func (s *Store) Expire(ids ...string) error { return s.remove(ids, true) }

// Remove removes the rows of jobs. They are unknown afterwards.
func (s *Store) Remove(ids ...string) error { return s.remove(ids, false) }

func (s *Store) remove(ids []string, remember bool) error {
	return s.update(func(tx *bolt.Tx) error {
		for _, text := range ids {
			id, err := uuid.Parse(text)
			if err != nil {
				return err
			}
			old, ok, err := rowOf(tx, id)
			if err != nil {
				return err
			}
			if ok {
				if err := errors.Join(unindex(tx, id, old), tx.Bucket(bucketRows).Delete(id[:])); err != nil {
					return err
				}
			}
			if remember {
				err = s.bury(tx, id)
			} else {
				err = exhume(tx, id)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// bury remembers an expired job, and forgets the first one if there are too many.
func (s *Store) bury(tx *bolt.Tx, id uuid.UUID) error {
	graves, order := tx.Bucket(bucketGraves), tx.Bucket(bucketOrder)
	if graves.Get(id[:]) != nil {
		return nil
	}
	n, err := order.NextSequence()
	if err != nil {
		return err
	}
	number := binary.BigEndian.AppendUint64(nil, n)
	if err := errors.Join(graves.Put(id[:], number), order.Put(number, id[:])); err != nil {
		return err
	}
	if n <= uint64(s.opts.Graves) {
		return nil
	}
	// Every number is used once, so a grave is at most this old.
	for c := order.Cursor(); ; {
		k, v := c.First()
		if k == nil || n-binary.BigEndian.Uint64(k) < uint64(s.opts.Graves) {
			return nil
		}
		if err := errors.Join(graves.Delete(v), order.Delete(k)); err != nil {
			return err
		}
	}
}

func exhume(tx *bolt.Tx, id uuid.UUID) error {
	number := tx.Bucket(bucketGraves).Get(id[:])
	if number == nil {
		return nil
	}
	return errors.Join(tx.Bucket(bucketOrder).Delete(number), tx.Bucket(bucketGraves).Delete(id[:]))
}

// Get returns the row of a job. CodeNotFound: no such job, or with ReasonExpired
// no longer.
func (s *Store) Get(job string) (r Row, err error) {
	id, err := uuid.Parse(job)
	if err != nil {
		return r, errUnknown(job)
	}
	err = s.view(func(tx *bolt.Tx) error {
		var ok bool
		if r, ok, err = rowOf(tx, id); err != nil || ok {
			return err
		}
		if tx.Bucket(bucketGraves).Get(id[:]) != nil {
			return &dreamcore.Error{
				Code: dreamcore.CodeNotFound, Reason: ReasonExpired, Message: "Job expired: its record and its events were removed",
				Hint: "they are kept for journal_days and within jobs_mib",
			}
		}
		return errUnknown(job)
	})
	return r, err
}

func errUnknown(job string) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeNotFound, Message: "Job not found", Err: fmt.Errorf("record of job %.64q", job),
		Hint: "check the job id",
	}
}

// ByKey returns the row of the job that a user has submitted with an idempotency
// key, of which hash is the hash; ok is false without one.
func (s *Store) ByKey(user dreamcore.UserID, hash []byte) (r Row, ok bool, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		raw := tx.Bucket(bucketKeys).Get(idempotencyKey(user, hash))
		if raw == nil {
			return nil
		}
		id, err := uuid.FromBytes(raw)
		if err != nil {
			return fmt.Errorf("%w: key of a job: %w", errDamaged, err)
		}
		r, ok, err = rowOf(tx, id)
		return err
	})
	return r, ok, err
}

// Missing returns those of the jobs that have neither a row nor have expired.
func (s *Store) Missing(jobs []string) (missing []string, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		rows := tx.Bucket(bucketRows)
		for _, job := range jobs {
			if id, err := uuid.Parse(job); err == nil && rows.Get(id[:]) == nil {
				missing = append(missing, job)
			}
		}
		return nil
	})
	return missing, err
}

// openLimit bounds the wait for another process that has the file open.
const openLimit = 5 * time.Second
