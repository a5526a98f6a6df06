package journal

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// damagedExtension replaces the extension of a log that was set aside. No method that
// lists or reads logs sees it.
const damagedExtension = ".damaged"

// SetAside renames a damaged log, which nothing can continue or show, so that it is no
// longer one of the jobs; PruneDamaged removes it some time after. CodeConflict: it is
// being written or read.
func (s *Store) SetAside(job string) error {
	name, err := fileName(job)
	if err != nil {
		return errNotFound(job, err)
	}
	job = strings.TrimSuffix(name, extension)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[job] != nil || s.readers[job] > 0 || s.isLocked(name) {
		return &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the log of job " + job + " is in use"}
	}
	aside := job + damagedExtension
	err = s.root.Rename(name, aside)
	if errors.Is(err, fs.ErrNotExist) {
		return errNotFound(job, err)
	}
	if err == nil {
		now := time.Now() // it is kept from now on, so that an operator can look at it
		err = errors.Join(s.root.Chtimes(aside, now, now), s.syncDir())
	}
	if err != nil {
		return statefile.Error("set the damaged log of job "+job+" aside", err)
	}
	delete(s.endless, job)
	return nil
}

func (s *Store) isLocked(name string) bool {
	f, err := s.root.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	return statefile.Locked(f)
}

// PruneDamaged removes the logs that were set aside before olderThan, and then the
// oldest ones until the others take at most maxBytes. It returns their jobs, also when
// an error is returned.
func (s *Store) PruneDamaged(ctx context.Context, olderThan time.Time, maxBytes int64) (removed []string, err error) {
	logs, err := s.damaged()
	if err != nil {
		return nil, err
	}
	total := int64(0)
	for _, l := range logs {
		total += onDisk(l)
	}
	for _, l := range logs {
		if ctx.Err() != nil || !l.ModTime().Before(olderThan) && total <= maxBytes {
			break
		}
		if rmErr := s.root.RemoveAll(l.Name()); rmErr != nil {
			err = errors.Join(err, statefile.Error("remove the damaged log "+l.Name(), rmErr))
			continue
		}
		total -= onDisk(l)
		removed = append(removed, strings.TrimSuffix(l.Name(), damagedExtension))
	}
	return removed, errors.Join(err, ctx.Err())
}

// EraseDamaged removes the logs of a user that were set aside, and returns their number.
func (s *Store) EraseDamaged(user dreamcore.UserID) (erased int, err error) {
	logs, err := s.damaged()
	for _, l := range logs {
		if s.ownerOf(l.Name()) != string(user) {
			continue
		}
		if err := s.root.RemoveAll(l.Name()); err != nil {
			return erased, statefile.Error("remove the damaged log "+l.Name(), err)
		}
		erased++
	}
	return erased, err
}

// damaged returns the logs that were set aside, the oldest first.
func (s *Store) damaged() (logs []fs.FileInfo, err error) {
	names, err := statefile.Names(s.root, isDamaged)
	if err != nil {
		return nil, statefile.Error("list damaged job logs", err)
	}
	for _, name := range names {
		info, err := s.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, statefile.Error("look at the log "+name, err)
		}
		logs = append(logs, info)
	}
	slices.SortStableFunc(logs, func(a, b fs.FileInfo) int {
		return cmp.Or(a.ModTime().Compare(b.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	return logs, nil
}

func isDamaged(name string) bool {
	job, ok := strings.CutSuffix(name, damagedExtension)
	if !ok {
		return false
	}
	canonical, err := fileName(job)
	return err == nil && canonical == job+extension
}

// CountDamaged counts the logs in a directory that were set aside, and their bytes on
// disk. A missing directory has none.
func CountDamaged(dir string) (logs int, bytes int64, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, 0, statefile.IgnoreMissing(err)
	}
	defer root.Close()
	all, err := (&Store{root: root}).damaged()
	for _, l := range all {
		bytes += onDisk(l)
	}
	return len(all), bytes, err
}
