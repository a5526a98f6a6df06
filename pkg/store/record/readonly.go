package record

import (
	"errors"
	"io/fs"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// readLimit bounds the wait for a process that is closing the file.
const readLimit = time.Second

// ErrUnreadable is the error of OpenReadOnly if the file is missing, damaged or of
// another version: the rows have to be read from the logs.
var ErrUnreadable = errors.New("the index of jobs cannot be read")

// ErrInUse is the error of OpenReadOnly while the service has the file open.
var ErrInUse = errors.New("the index of jobs is in use")

// OpenReadOnly opens the index of a service that does not run, and changes nothing.
// The caller must Close the Store, and may only call Get, List, Missing,
// Unfinished and ByKey.
func OpenReadOnly(path string) (*Store, error) {
	var db *bolt.DB
	err := guard(func() (err error) {
		db, err = bolt.Open(path, 0, &bolt.Options{ReadOnly: true, Timeout: readLimit})
		return err
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, ErrInUse
	case errors.Is(err, fs.ErrNotExist) || isDamage(err):
		return nil, errors.Join(ErrUnreadable, err)
	case err != nil:
		return nil, diskError("open the index of jobs", err)
	}
	s := &Store{path: path, db: db, readOnly: true}
	complete := false
	err = s.view(func(tx *bolt.Tx) error {
		empty, err := verify(tx, path)
		if err == nil && !empty {
			complete = tx.Bucket(bucketState).Get(keyComplete) != nil
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(ErrUnreadable, err, s.Close())
	}
	s.fresh = !complete
	return s, nil
}
