package job

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// A remnant is a job that an earlier process has left and that does not go on: its end
// is still to be written. There may be very many, and each takes a sync of the disk, so
// the service does not wait for them. Each is ended once, by endRemnants or by the first
// client that asks for it.

func (s *Service) addRemnant(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.remnants[id] == nil {
		s.remnants[id] = new(sync.Once)
	}
}

// endRemnants ends the remnants in order, until the service is closed.
func (s *Service) endRemnants() {
	s.mu.Lock()
	ids := make([]string, 0, len(s.remnants))
	for id := range s.remnants {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	slices.Sort(ids)
	for _, id := range ids {
		if s.isClosed() {
			return
		}
		s.endRemnant(id)
	}
}

// endRemnant ends a job if it is a remnant, or waits until another caller has.
func (s *Service) endRemnant(id string) {
	s.mu.Lock()
	once := s.remnants[id]
	s.mu.Unlock()
	if once == nil {
		return
	}
	once.Do(func() {
		c, err := s.reopen(id)
		if c != nil { // the settings were changed, so that it may go on
			err = s.restore([]comeback{*c})
		}
		s.noteFault(id, err)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.remnants, id)
	})
}

// settled waits until a job that an earlier process has left was taken up or ended. An
// end of ctx ends only the wait for the jobs that go on. Without an id, it waits only for
// those, and fails if they could not be taken up.
func (s *Service) settled(ctx context.Context, id string) error {
	if err := s.awaitRecovery(ctx); err != nil {
		return err
	}
	if id == "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.recoverErr
	}
	s.endRemnant(id)
	return nil
}

func (s *Service) awaitRecovery(ctx context.Context) error {
	s.mu.Lock()
	recovering := s.recovering
	s.mu.Unlock()
	if recovering == nil || isClosed(recovering) {
		return nil // whether ctx has ended or not
	}
	select {
	case <-recovering:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the jobs of an earlier process: %w", context.Cause(ctx))
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
