package job

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// errFull ends a job whose project has outgrown its bounds, where the kernel
// does not enforce them.
var errFull = errors.New("the project has reached its bounds")

// Warnings of a project that is full.
const (
	bytesFull = "The project has used up its space: no more can be written until something is removed"
	filesFull = "The project has reached its file limit"
)

const (
	// lookPause is the pause between two looks at the space of a project.
	lookPause = 200 * time.Millisecond
	// lookShare is the minimum ratio of the pause to the time that a look takes,
	// for the case that a look has to walk through the project.
	lookShare = 10
)

// space watches the bounds of a project while the agent works on it.
type space struct {
	job   *job
	guard *volume.Guard
	stop  func()
	done  chan struct{}

	mu   sync.Mutex
	full volume.Full // everything that was full at any look; guarded by mu
}

// reserve sets aside the disk space that the job may use, if the service can run
// jobs at all.
func (j *job) reserve(ctx context.Context) (*volume.Room, error) {
	return j.service.reserve(ctx, j.request.User)
}

// reserve sets aside the disk space that a job or check of a user may use, if the
// service can run jobs at all.
func (s *Service) reserve(ctx context.Context, user dreamcore.UserID) (*volume.Room, error) {
	if ready := s.parts.Ready; ready != nil {
		if err := ready(); err != nil {
			return nil, err
		}
	}
	return s.parts.Volumes.Reserve(ctx, user)
}

// watchSpace keeps the project within its bounds until end is called. It calls
// cancel if the job must be stopped for that.
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

// look records which bounds are reached, and warns the client once for each.
func (s *space) look(ctx context.Context) volume.Full {
	full, err := s.guard.Check(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.job.log.Warn("check the space of the project", "error", err)
		}
		return volume.Full{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if full.Bytes && !s.full.Bytes {
		s.job.emit(dreamcore.WarningEvent(bytesFull))
	}
	if full.Files && !s.full.Files {
		s.job.emit(dreamcore.WarningEvent(filesFull))
	}
	s.full.Bytes, s.full.Files = s.full.Bytes || full.Bytes, s.full.Files || full.Files
	return full
}

// end looks once more, releases the space, and reports whether the project is,
// or was, full.
func (s *space) end(ctx context.Context) bool {
	s.stop()
	<-s.done
	s.look(context.WithoutCancel(ctx))
	if err := s.guard.Close(); err != nil {
		s.job.log.Warn("release the space of the project", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full.Any()
}

// explain adds to the error of a run whether the project or the disk of the
// machine was full. cause is why the run was cancelled; nil if it was not.
func (j *job) explain(err, cause error, full bool) error {
	if err == nil {
		return nil // it succeeded before it could be stopped
	}
	if e, ok := errors.AsType[*stageError](err); ok && e.stage == stageBroken {
		return err // the game was made before
	}
	if errors.Is(cause, errFull) {
		return &stageError{stage: stageFull, err: fmt.Errorf("%w: %w", errFull, err)}
	}
	e, ok := errors.AsType[*stageError](err)
	if !ok || e.stage != stageAgent || !unspecific(e.agent.classify().Code) {
		return err
	}
	if e.agent.full = full; full {
		return err
	}
	if e.agent.disk = j.service.parts.Volumes.CheckFree(); e.agent.disk != nil {
		e.err = fmt.Errorf("%w: %w", e.agent.disk, e.err)
	}
	return err
}
