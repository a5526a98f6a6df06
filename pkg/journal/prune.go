package journal

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// Prune removes the logs that were last written before olderThan, and then,
// oldest first, as many as it takes to have no more than maxBytes left; 0
// means any number of bytes. Logs that are being written stay, and count.
// Readers that have a removed log open read it to its end. removed counts the
// logs that are gone, also when an error is returned.
func (s *Store) Prune(ctx context.Context, olderThan time.Time, maxBytes int64) (removed int, err error) {
	logs, total, err := s.byAge()
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, log := range logs {
		if err := ctx.Err(); err != nil {
			return removed, errors.Join(append(errs, err)...)
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
			total -= log.Size()
		}
	}
	return removed, errors.Join(errs...)
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
		total += info.Size()
	}
	slices.SortStableFunc(logs, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	return logs, total, nil
}

// removeIdle removes a log unless it is being written. It holds the lock
// meanwhile, so that the log is not reopened under it.
func (s *Store) removeIdle(name string) (gone bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[strings.TrimSuffix(name, extension)] != nil {
		return false, nil
	}
	err = s.root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return err == nil, err
}
