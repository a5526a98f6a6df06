package journal

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Prune removes the logs that were last written before olderThan, and then,
// oldest first, as many as it takes to have no more than maxBytes left on disk; 0
// means any number of bytes. Logs that are being written or read stay, and count.
// Readers of another process that have a removed log open read it to its end.
// removed counts the logs that are gone, also when an error is returned.
func (s *Store) Prune(ctx context.Context, olderThan time.Time, maxBytes int64) (removed int, err error) {
	logs, total, err := s.byAge()
	if err != nil {
		return 0, err
	}
	removed, _, err = s.prune(ctx, logs, total, olderThan, maxBytes)
	return removed, err
}

// prune is Prune of the logs, which take total bytes. left is what they take
// afterwards.
func (s *Store) prune(ctx context.Context, logs []fs.FileInfo, total int64, olderThan time.Time, maxBytes int64) (removed int, left int64, err error) {
	var errs []error
	for _, log := range logs {
		if err := ctx.Err(); err != nil {
			return removed, total, errors.Join(append(errs, err)...)
		}
		if !log.ModTime().Before(olderThan) && (maxBytes <= 0 || total <= maxBytes) {
			break
		}
		gone, err := s.removeIdle(log.Name())
		if err != nil {
			errs = append(errs, diskError("remove the log "+log.Name(), err))
		}
		if gone {
			removed++
			total -= onDisk(log)
		}
	}
	return removed, total, errors.Join(errs...)
}

// byAge returns all logs, the one that was written first in front, and their
// size together.
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
			return nil, 0, diskError("look at the log "+name, err)
		}
		logs = append(logs, info)
		total += onDisk(info)
	}
	slices.SortStableFunc(logs, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	return logs, total, nil
}

// onDisk returns what a log takes on disk, with what is reserved for it.
func onDisk(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

// removeIdle removes a log unless it is being written or read. It holds the lock
// meanwhile, so that the log is not opened under it.
func (s *Store) removeIdle(name string) (gone bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	job := strings.TrimSuffix(name, extension)
	if s.live[job] != nil || s.read[job] > 0 {
		return false, nil
	}
	if written, err := s.heldElsewhere(name); err != nil || written {
		return errors.Is(err, fs.ErrNotExist), ignoreMissing(err)
	}
	err = s.root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return err == nil, err
}

// heldElsewhere reports whether another process writes a log.
func (s *Store) heldElsewhere(name string) (bool, error) {
	f, err := s.root.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return held(f), nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// room is what all logs may take on disk.
type room struct {
	// total is what they take, or a little more. It is not guarded by mu: a log
	// grows with the lock of the Store held, which is taken after mu.
	total atomic.Int64

	mu    sync.Mutex
	most  int64 // guarded by mu; 0 is no bound
	retry int64 // guarded by mu; beyond most: the total at which old logs are looked for again
}

// uncounted is the total before the logs are counted for the first time: more
// than any bound, so that they are.
const uncounted = math.MaxInt64 / 2

// retryStep is how much the logs must grow before old ones are looked for again
// where there were not enough.
const retryStep = 4 << 20

// SetMaxBytes changes the bound on what all logs take on disk; 0 is none.
func (s *Store) SetMaxBytes(most int64) {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	s.room.most, s.room.retry = most, 0
}

// grow counts bytes that a log took.
func (r *room) grow(n int64) { r.total.Add(n) }

// makeRoom removes the oldest logs when all together are beyond the bound. What
// one that ended has given back is not known, so they are counted first. An error
// is the next one's who writes: the disk is full, or it is not.
func (s *Store) makeRoom() {
	r := &s.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.most <= 0 || r.total.Load() <= max(r.most, r.retry) {
		return
	}
	logs, total, err := s.byAge()
	if err != nil {
		return
	}
	const lowWater = 0.9 // so that not every line looks for old logs
	if total > r.most {
		_, total, _ = s.prune(context.Background(), logs, total, time.Time{}, int64(lowWater*float64(r.most)))
	}
	r.total.Store(total)
	if r.retry = 0; total > r.most {
		r.retry = total + retryStep
	}
}
