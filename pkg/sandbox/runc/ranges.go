package runc

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/oci"
)

// rangesFile, in the directory that instances share, is where they lock the
// ranges of ids that their sandboxes have: the byte N for the range N.
const rangesFile = "ids.lock"

// ranges gives every sandbox a range of host ids for itself, for as long as it
// lives. On the disk there are no ids of a range, so nothing remembers which
// user had one.
type ranges struct {
	file  *os.File
	first uint32 // where the search begins
	count uint32 // oci.Ranges; tests have fewer

	mu    sync.Mutex
	taken map[string]oci.Range // by the sandbox's id; guarded by mu
}

// present is the byte of the file that every instance has a shared lock of.
const present = oci.Ranges

// openRanges opens the ranges of the instances in dir. Other directories of the
// machine have locks of their own, and begin elsewhere.
func openRanges(dir string) (*ranges, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(filepath.Clean(dir))) // never fails
	r := &ranges{first: h.Sum32() % oci.Ranges, count: oci.Ranges, taken: map[string]oci.Range{}}
	const tries = 100 // another instance may remove the file as its last act
	for try := 1; ; try++ {
		err := r.open(filepath.Join(dir, rangesFile))
		if err == nil || try == tries || !errors.Is(err, errRemoved) && !errors.Is(err, unix.EAGAIN) {
			return r, err
		}
		time.Sleep(time.Millisecond)
	}
}

var errRemoved = errors.New("the file was removed meanwhile")

// open opens the file and notes that it is in use.
func (r *ranges) open(name string) (err error) {
	if r.file, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600); err != nil {
		return err
	}
	if err = r.lock(present, unix.F_RDLCK); err == nil {
		ours, oerr := r.file.Stat()
		named, nerr := os.Lstat(name)
		if err = errors.Join(oerr, nerr); err == nil && !os.SameFile(ours, named) || errors.Is(err, fs.ErrNotExist) {
			err = errRemoved
		}
	}
	if err != nil {
		return errors.Join(err, r.file.Close())
	}
	return nil
}

// close removes the file unless another instance uses it.
func (r *ranges) close() (err error) {
	if r.lock(present, unix.F_WRLCK) == nil {
		err = os.Remove(r.file.Name())
	}
	return errors.Join(err, r.file.Close())
}

// take returns a range that no other sandbox has. CodeBusy: all are taken.
func (r *ranges) take(id string) (oci.Range, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if got, ok := r.taken[id]; ok {
		return got, nil
	}
	used := make(map[oci.Range]bool, len(r.taken))
	for _, t := range r.taken {
		used[t] = true
	}
	for i := range r.count {
		n := oci.Range((r.first + i) % oci.Ranges)
		if used[n] {
			continue
		}
		err := r.lock(n, unix.F_WRLCK)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			continue // of another instance
		}
		if err != nil {
			return 0, fmt.Errorf("lock a range of ids: %w", err)
		}
		r.taken[id] = n
		return n, nil
	}
	return 0, &dreamcore.Error{
		Code: dreamcore.CodeBusy, Message: "all ranges of user ids for sandboxes are in use",
		Hint: fmt.Sprintf("this machine can have %d sandboxes under runc at once: close some, or set max_sandboxes to less", oci.Ranges),
	}
}

// of returns the range that a sandbox has.
func (r *ranges) of(id string) (oci.Range, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, ok := r.taken[id]
	return n, ok
}

// give returns the range of a sandbox whose processes have ended. Without one
// it does nothing.
func (r *ranges) give(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, ok := r.taken[id]; ok {
		_ = r.lock(n, unix.F_UNLCK) // an unlock of what is locked does not fail
		delete(r.taken, id)
	}
}

// lock sets the lock of a range. The lock is of the open file: it ends with
// this process, and two providers of one process exclude each other.
func (r *ranges) lock(n oci.Range, kind int16) error {
	l := unix.Flock_t{Type: kind, Whence: 0, Start: int64(n), Len: 1}
	return unix.FcntlFlock(r.file.Fd(), unix.F_OFD_SETLK, &l)
}
