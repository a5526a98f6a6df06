package job

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// errFull ends a job whose project has outgrown its bounds, where the kernel
// does not keep it within them.
var errFull = errors.New("the project has reached its bounds")

// What a client is told of a project that is full.
const (
	bytesFull = "The project has used up its space: no more can be written until something is removed"
	filesFull = "The project has as many files as it may have"
)

const (
	// lookPause is between two looks at the space of a project.
	lookPause = 200 * time.Millisecond
	// lookShare is how many times longer the pause is than a look takes, where
	// one has to walk through the project.
	lookShare = 10
)

// space watches the bounds of a project while the agent works on it.
type space struct {
	job   *job
	guard *volume.Guard
	stop  func()
	done  chan struct{}

	mu   sync.Mutex
	full volume.Full // what was seen; guarded by mu
}

// watchSpace keeps the project within its bounds until end is called, and
// calls cancel when the job must be stopped for it.
func (j *job) watchSpace(ctx context.Context, project *volume.Project, cancel context.CancelCauseFunc) (*space, error) {
	guard, err := j.service.parts.Volumes.Guard(ctx, j.request.User, project)
	if err != nil {
		return nil, fmt.Errorf("keep the project within its bounds: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	s := &space{job: j, guard: guard, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.watch(ctx, cancel)
	}()
	return s, nil
}

func (s *space) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	for pause := lookPause; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		began := time.Now()
		full := s.look(ctx)
		if full.Any() && !full.Enforced {
			cancel(errFull)
			return
		}
		pause = max(lookPause, lookShare*time.Since(began))
	}
}

// look notes what is full and tells the client, once of each.
func (s *space) look(ctx context.Context) volume.Full {
	full, err := s.guard.Check(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.job.log.Warn("look at the space of the project", "error", err)
		}
		return volume.Full{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if full.Bytes && !s.full.Bytes {
		s.job.tell(dreamcore.WarningEvent(bytesFull))
	}
	if full.Files && !s.full.Files {
		s.job.tell(dreamcore.WarningEvent(filesFull))
	}
	s.full.Bytes, s.full.Files = s.full.Bytes || full.Bytes, s.full.Files || full.Files
	return full
}

// end looks once more, gives the space back, and tells whether the project
// is, or was, full.
func (s *space) end(ctx context.Context) bool {
	s.stop()
	<-s.done
	s.look(context.WithoutCancel(ctx))
	if err := s.guard.Close(); err != nil {
		s.job.log.Warn("give back the space of the project", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full.Any()
}

// ofSpace is the error of a job that may have failed because its project, or
// the disk of the machine, was full.
func ofSpace(err, cause error, full bool, free func() error) error {
	if err == nil {
		return nil // it was done before it could be stopped
	}
	if errors.Is(cause, errFull) {
		return &failed{failure: dreamcore.Failure{Code: dreamcore.FailQuota}, err: fmt.Errorf("%w: %w", errFull, err)}
	}
	f, ok := errors.AsType[*failed](err)
	if !ok || f.failure.Code != dreamcore.FailCLIGeneral && f.failure.Code != dreamcore.FailCLIUnknown {
		return err
	}
	if full {
		f.failure = dreamcore.Failure{Code: dreamcore.FailQuota}
	} else if derr := free(); derr != nil {
		return &failed{failure: failureOr(derr, dreamcore.FailDisk), err: fmt.Errorf("%w: %w", derr, err)}
	}
	return err
}

// failureOr is what a client is told of err where the space is used up, the
// user's own or the machine's, or the disk cannot be written to; else other.
func failureOr(err error, other dreamcore.FailureCode) dreamcore.Failure {
	switch {
	case dreamcore.CodeOf(err) == dreamcore.CodeTooLarge:
		return dreamcore.Failure{Code: dreamcore.FailQuota}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), disk.IsFailure(err):
		return dreamcore.Failure{Code: dreamcore.FailDisk}
	}
	return dreamcore.Failure{Code: other}
}

// tellLeftOut says what is not in a version.
func (j *job) tellLeftOut(reasons []string) {
	for _, why := range reasons {
		if runes := []rune(why); len(runes) > maxReason {
			why = string(runes[:maxReason-1]) + "…"
		}
		j.tell(dreamcore.WarningEvent("Left out of the version: " + why))
	}
}

// maxReason bounds what a client is told of one; a path of a sandbox can be
// longer than anybody wants to read.
const maxReason = 500

// reserve sets aside the space that the job may take of the disk, where the
// service can run jobs at all.
func (j *job) reserve(ctx context.Context) (*volume.Room, error) {
	if ready := j.service.parts.Ready; ready != nil {
		if err := ready(); err != nil {
			return nil, err
		}
	}
	return j.service.parts.Volumes.Reserve(ctx, j.request.User)
}
