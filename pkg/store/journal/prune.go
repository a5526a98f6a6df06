package journal

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Prune removes the logs that were last written before olderThan. Then, until the
// remaining logs take at most maxBytes on disk, it removes the oldest log of the
// user whose logs take the most: a user who writes much displaces no logs of
// others. 0 means no bound. Logs that are being written or read stay, but count, and
// so do those without a terminal event: their jobs go on. A Reader in another process
// reads a removed log to its end. removed is the number of removed logs, also when an
// error is returned.
func (s *Store) Prune(ctx context.Context, olderThan time.Time, maxBytes int64) (removed int, err error) {
	logs, total, err := s.byAge()
	if err != nil {
		return 0, err
	}
	removed, left, err := s.prune(ctx, logs, total, olderThan, maxBytes)
	// The first log that grows need not count them again.
	s.room.total.CompareAndSwap(uncounted, left)
	return removed, err
}

// prune is Prune for the given logs, which take total bytes. left is the size of
// the remaining ones.
func (s *Store) prune(ctx context.Context, logs []fs.FileInfo, total int64, olderThan time.Time, maxBytes int64) (removed int, left int64, err error) {
	var errs []error
	var gone []string
	remove := func(log fs.FileInfo) (freed int64) {
		ok, err := s.removeEnded(log.Name())
		if err != nil {
			errs = append(errs, statefile.Error("remove the log "+log.Name(), err))
		}
		if !ok {
			return 0
		}
		gone = append(gone, strings.TrimSuffix(log.Name(), extension))
		freed = onDisk(log)
		total -= freed
		return freed
	}
	old, _ := slices.BinarySearchFunc(logs, olderThan, func(l fs.FileInfo, t time.Time) int { return l.ModTime().Compare(t) })
	for _, log := range logs[:old] {
		if ctx.Err() != nil {
			break
		}
		remove(log)
	}
	if maxBytes > 0 && total > maxBytes {
		owners := s.byOwner(logs[old:])
		for len(owners) > 0 && total > maxBytes && ctx.Err() == nil {
			o := slices.MaxFunc(owners, func(a, b *owner) int { return cmp.Compare(a.size, b.size) })
			o.size -= remove(o.logs[0])
			if o.logs = o.logs[1:]; len(o.logs) == 0 {
				owners = slices.DeleteFunc(owners, func(other *owner) bool { return other == o })
			}
		}
	}
	if err := ctx.Err(); err != nil {
		errs = append(errs, err)
	}
	if len(gone) > 0 && s.opts.Removed != nil {
		s.opts.Removed(gone)
	}
	return len(gone), total, errors.Join(errs...)
}

// owner is a user with the logs of that user's jobs, the least recently written
// first.
type owner struct {
	logs []fs.FileInfo
	size int64 // on disk
}

func (s *Store) byOwner(logs []fs.FileInfo) (owners []*owner) {
	known := map[string]*owner{}
	for _, log := range logs {
		user := s.ownerOf(log.Name())
		o := known[user]
		if o == nil {
			o = &owner{}
			known[user], owners = o, append(owners, o)
		}
		o.logs = append(o.logs, log)
		o.size += onDisk(log)
	}
	return owners
}

// ownerAttribute is the extended attribute of a log's file with the user of the job.
const ownerAttribute = "user.dreamcore.owner"

// SetOwner records the user of the job. Without it, or on a file system without
// extended attributes, a log belongs to one common owner.
func (l *Log) SetOwner(user dreamcore.UserID) {
	_ = unix.Fsetxattr(int(l.f.Fd()), ownerAttribute, []byte(user), 0)
}

func (s *Store) ownerOf(name string) string {
	f, err := s.root.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	return ownerOf(f)
}

func ownerOf(f *os.File) string {
	var user [64]byte // a UUID; a longer value is not ours
	n, err := unix.Fgetxattr(int(f.Fd()), ownerAttribute, user[:])
	if err != nil {
		return ""
	}
	return string(user[:n])
}

// byAge returns all logs, the least recently written first, and their total size.
func (s *Store) byAge() (logs []fs.FileInfo, total int64, err error) {
	names, err := s.names()
	if err != nil {
		return nil, 0, err
	}
	for _, name := range names {
		info, err := s.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, 0, statefile.Error("look at the log "+name, err)
		}
		logs = append(logs, info)
		total += onDisk(info)
	}
	slices.SortStableFunc(logs, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	return logs, total, nil
}

// onDisk returns the disk space of a log, including the space allocated ahead.
func onDisk(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

// Remove removes the log of a job. CodeConflict: it is being written or read.
func (s *Store) Remove(job string) error {
	name, err := fileName(job)
	if err != nil {
		return errNotFound(job, err)
	}
	gone, err := s.removeIdle(name, always)
	if err != nil {
		return statefile.Error("remove the log of job "+job, err)
	}
	if !gone {
		return &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the log of job " + job + " is in use", Hint: "wait until the job has ended and no client follows it"}
	}
	return nil
}

// Erase is Remove that does not wait for readers: those that have the log open read
// it to its end. CodeConflict: it is being written.
func (s *Store) Erase(job string) error {
	name, err := fileName(job)
	if err != nil {
		return errNotFound(job, err)
	}
	s.mu.Lock()
	gone, err := s.removeUnwritten(name, always)
	s.mu.Unlock()
	if err != nil {
		return statefile.Error("remove the log of job "+job, err)
	}
	if !gone {
		return &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the log of job " + job + " is being written", Hint: "wait until the job has ended"}
	}
	return nil
}

// Owner returns the user of a job, as SetOwner has recorded it, or "".
func (s *Store) Owner(job string) string {
	name, err := fileName(job)
	if err != nil {
		return ""
	}
	return s.ownerOf(name)
}

// Usage is the number of a user's logs and the disk space that they take.
type Usage struct {
	Logs  int
	Bytes int64
}

// Usage returns the usage of each user that has logs.
func (s *Store) Usage(ctx context.Context) (map[dreamcore.UserID]Usage, error) {
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	users := map[dreamcore.UserID]Usage{}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		f, err := s.root.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, statefile.Error("look at the log "+name, err)
		}
		info, err := f.Stat()
		user := dreamcore.UserID(ownerOf(f))
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, statefile.Error("look at the log "+name, err)
		}
		u := users[user]
		u.Logs, u.Bytes = u.Logs+1, u.Bytes+onDisk(info)
		users[user] = u
	}
	return users, nil
}

// removeEnded removes the log of a job that has ended, unless it is being read.
func (s *Store) removeEnded(name string) (gone bool, err error) {
	return s.removeIdle(name, endsTerminal)
}

// removeIdle removes a log that may be removed, unless it is being written or read.
// It holds mu, so that the log cannot be opened meanwhile.
func (s *Store) removeIdle(name string, may func(*os.File) (bool, error)) (gone bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readers[strings.TrimSuffix(name, extension)] > 0 {
		return false, nil
	}
	return s.removeUnwritten(name, may)
}

// removeUnwritten removes a log that may be removed, unless it is being written. It
// must be called with mu held.
func (s *Store) removeUnwritten(name string, may func(*os.File) (bool, error)) (gone bool, err error) {
	if s.live[strings.TrimSuffix(name, extension)] != nil {
		return false, nil
	}
	f, err := s.root.Open(name)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist), statefile.IgnoreMissing(err)
	}
	defer f.Close()
	if statefile.Locked(f) {
		return false, nil // another process is writing it
	}
	if ok, err := may(f); err != nil || !ok {
		return false, err
	}
	if err = statefile.IgnoreMissing(s.root.Remove(name)); err != nil {
		return false, err
	}
	delete(s.endless, strings.TrimSuffix(name, extension))
	return true, nil
}

// always lets every log be removed.
func always(*os.File) (bool, error) { return true, nil }

// room bounds the disk space of all logs.
type room struct {
	// total is their size, or slightly more. It is not guarded by mu: a log grows
	// with the lock of the Store held, which is acquired after mu.
	total atomic.Int64

	mu    sync.Mutex
	max   int64 // guarded by mu; 0 means no bound
	retry int64 // guarded by mu; the total, beyond max, at which to search for old logs again
}

// uncounted is the total before the logs are first counted. It exceeds any bound,
// so that they will be.
const uncounted = math.MaxInt64 / 2

// retryStep is how much the logs must grow before the next search for old ones,
// after a search that found too few.
const retryStep = 4 << 20

// SetMaxBytes changes the bound on the disk space of all logs; 0 means no bound.
func (s *Store) SetMaxBytes(maxBytes int64) {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	s.room.max, s.room.retry = maxBytes, 0
}

// grow adds bytes that a log has allocated.
func (r *room) grow(n int64) { r.total.Add(n) }

// makeRoom removes the oldest logs when the total exceeds the bound. It counts the
// logs first, because a log that was closed has freed an unknown part of its
// space. It ignores errors: if the disk is full, the write that follows fails.
func (s *Store) makeRoom() {
	r := &s.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.max <= 0 || r.total.Load() <= max(r.max, r.retry) {
		return
	}
	logs, total, err := s.byAge()
	if err != nil {
		return
	}
	const lowWater = 0.9 // so that not every line starts a search
	if total > r.max {
		_, total, _ = s.prune(context.Background(), logs, total, time.Time{}, int64(lowWater*float64(r.max)))
	}
	r.total.Store(total)
	if r.retry = 0; total > r.max {
		r.retry = total + retryStep
	}
}
