package disk

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

const (
	// blanks is how many file systems are kept formatted ahead of their keys. Each takes
	// well below a megabyte.
	blanks = 2
	// blankPause is how long the next one waits after one could not be formatted.
	blankPause = time.Minute
)

// blankStock are file systems that are formatted and belong to no key yet. They are
// known to this process alone, and removed by it or by the next one.
type blankStock struct {
	wakeup chan struct{}
	once   sync.Once // starts the keeper

	mu    sync.Mutex
	ready []string // paths of images; guarded by mu
}

// KeepBlanks formats file systems ahead of new keys in the background, until Close. It
// must be called by one process alone; another call does nothing. It also removes those of a
// process that died.
func (s *Store) KeepBlanks() (err error) {
	s.blanks.once.Do(func() {
		if err = s.removeBlanks(); err != nil {
			err = machineError("remove disks that were made ahead", err)
		}
		s.wg.Go(s.keepBlanks)
	})
	return err
}

func (s *Store) removeBlanks() error {
	list, err := os.ReadDir(s.opts.Images)
	err = statefile.IgnoreMissing(err)
	for _, e := range list {
		if strings.HasSuffix(strings.TrimSuffix(e.Name(), tempExtension), blankExtension) {
			err = errors.Join(err, remove(filepath.Join(s.opts.Images, e.Name())))
		}
	}
	return err
}

func (s *Store) keepBlanks() {
	ctx, cancel := context.WithCancel(context.Background())
	s.wg.Go(func() { <-s.done; cancel() })
	for failed := false; ctx.Err() == nil; {
		err := s.fillBlanks(ctx)
		var again <-chan time.Time
		if err != nil && ctx.Err() == nil {
			if !failed {
				s.opts.Logger.Warn("no disk is made ahead of the next user, whose first request waits for it", "error", machineError("create a disk", err))
			}
			again = time.After(blankPause)
		}
		failed = err != nil
		select {
		case <-s.blanks.wakeup:
		case <-again:
		case <-ctx.Done():
		}
	}
	b := &s.blanks
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, image := range b.ready {
		if err := remove(image); err != nil {
			s.opts.Logger.Warn("remove a disk that was made ahead", "image", image, "error", err)
		}
	}
	b.ready = nil
}

// fillBlanks formats file systems until the stock is full.
func (s *Store) fillBlanks(ctx context.Context) error {
	if err := os.MkdirAll(s.opts.Images, privateMode); err != nil {
		return err
	}
	if err := s.prepareDirs(); err != nil {
		return err
	}
	b := &s.blanks
	for {
		b.mu.Lock()
		missing := blanks - len(b.ready)
		b.mu.Unlock()
		if missing <= 0 || ctx.Err() != nil {
			return ctx.Err()
		}
		// The process before this one may still end its work, with names of its own.
		image := s.file(uuid.NewString(), blankExtension)
		if err := Format(ctx, image, s.opts.Bytes, s.opts.UID, s.opts.GID); err != nil {
			return err
		}
		b.mu.Lock()
		b.ready = append(b.ready, image)
		b.mu.Unlock()
	}
}

// takeBlank makes a file system that was formatted ahead that of a key, and reports
// whether there was one.
func (s *Store) takeBlank(image string) (bool, error) {
	b := &s.blanks
	for {
		b.mu.Lock()
		if len(b.ready) == 0 {
			b.mu.Unlock()
			return false, nil
		}
		blank := b.ready[0]
		b.ready = b.ready[1:]
		b.mu.Unlock()
		select {
		case b.wakeup <- struct{}{}:
		default:
		}
		err := os.Rename(blank, image)
		if errors.Is(err, fs.ErrNotExist) { // removed by another process
			continue
		}
		if err == nil {
			err = statefile.Sync(filepath.Dir(image))
		}
		return err == nil, err
	}
}
