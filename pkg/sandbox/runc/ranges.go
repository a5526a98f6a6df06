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
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// rangesFile, in the directory that instances share, is the file in which they
// lock the id ranges of their sandboxes: byte N for range N.
const rangesFile = "ids.lock"

// ranges assigns every sandbox an exclusive range of host ids for its lifetime.
// No file on disk is owned by ids of a range, so a range can be reused at once.
type ranges struct {
	file  *os.File
	first uint32 // first range to try
	count uint32 // oci.Ranges; less in tests

	mu       sync.Mutex
	reserved map[string]oci.Range // by sandbox id; guarded by mu
}

// present is the byte of the file on which every instance has a shared lock.
const present = oci.Ranges

// openRanges opens the ranges of the instances in dir. Instances in other
// directories of the host use their own locks and start at another range.
func openRanges(dir string) (*ranges, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(filepath.Clean(dir))) // never fails
	r := &ranges{first: h.Sum32() % oci.Ranges, count: oci.Ranges, reserved: map[string]oci.Range{}}
	const tries = 100 // another instance may remove the file when it closes
	for try := 1; ; try++ {
		err := r.open(filepath.Join(dir, rangesFile))
		if err == nil || try == tries || !errors.Is(err, errRemoved) && !errors.Is(err, statefile.ErrLocked) {
			return r, err
		}
		time.Sleep(time.Millisecond)
	}
}

var errRemoved = errors.New("the file was removed by another instance")

// open opens the file and takes the shared lock that shows that it is in use.
func (r *ranges) open(name string) (err error) {
	if r.file, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600); err != nil {
		return err
	}
	if err = r.lock(present, statefile.Shared); err == nil {
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
	if r.lock(present, statefile.Exclusive) == nil {
		err = os.Remove(r.file.Name())
	}
	return errors.Join(err, r.file.Close())
}

// reserve returns a range that no other sandbox has, or dreamcore.CodeBusy if all
// are in use.
func (r *ranges) reserve(id string) (oci.Range, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if got, ok := r.reserved[id]; ok {
		return got, nil
	}
	used := make(map[oci.Range]bool, len(r.reserved))
	for _, t := range r.reserved {
		used[t] = true
	}
	for i := range r.count {
		n := oci.Range((r.first + i) % oci.Ranges)
		if used[n] {
			continue
		}
		err := r.lock(n, statefile.Exclusive)
		if errors.Is(err, statefile.ErrLocked) {
			continue // reserved by another instance
		}
		if err != nil {
			return 0, fmt.Errorf("lock id range: %w", err)
		}
		r.reserved[id] = n
		return n, nil
	}
	return 0, &dreamcore.Error{
		Code: dreamcore.CodeBusy, Message: "all ranges of user ids for sandboxes are in use",
		Hint: fmt.Sprintf("runc supports %d sandboxes at once on one host: close some, or lower max_sandboxes", oci.Ranges),
	}
}

// of returns the range of a sandbox.
func (r *ranges) of(id string) (oci.Range, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, ok := r.reserved[id]
	return n, ok
}

// release frees the range of a sandbox whose processes have ended. It does
// nothing if the sandbox has no range.
func (r *ranges) release(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, ok := r.reserved[id]; ok {
		_ = r.lock(n, statefile.Unlocked) // unlocking a held lock does not fail
		delete(r.reserved, id)
	}
}

// lock sets the lock of a range. It is an open file description lock: it ends
// with this process, and two providers of one process exclude each other.
func (r *ranges) lock(n oci.Range, mode statefile.Mode) error {
	return statefile.TryRange(r.file, mode, int64(n), 1)
}
