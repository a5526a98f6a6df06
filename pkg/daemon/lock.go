package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// lock keeps a second service off the state directory.
func (s *Service) lock(state *State) error { return s.lockBy(state, statefile.TryLock) }

// takeOver is lock, but with an inherited listener it waits for the end of the
// service that holds the lock. Until that service closes its listener, it answers;
// afterwards, connections wait for this process.
func (s *Service) takeOver(ctx context.Context, state *State, log *slog.Logger) error {
	err := s.lock(state)
	if !s.listeners.inherited() || dreamcore.CodeOf(err) != dreamcore.CodeConflict {
		return err
	}
	limit := takeOverLimit(state.Config)
	log.Info("waiting for the end of the service that uses the state directory", "limit", limit, "holder", holder(state))
	limited, cancel := context.WithTimeoutCause(ctx, limit, statefile.ErrLocked)
	defer cancel()
	return s.awaitLock(limited, state)
}

// awaitLock is lock, but waits for the lock until ctx ends, whose cause it returns.
func (s *Service) awaitLock(ctx context.Context, state *State) error {
	return s.lockBy(state, func(f *os.File) error {
		err := statefile.Lock(ctx, f)
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	})
}

// takeOverLimit bounds the wait for another service. It is how long a stop can take:
// jobs have the grace, then streams, workspaces and everything else their own limits.
func takeOverLimit(cfg config.Config) time.Duration { return cfg.Grace + streamGrace + 2*closeLimit }

// lockBy opens the lock file and takes its lock. The error is CodeConflict if take
// returns ErrLocked.
func (s *Service) lockBy(state *State, take func(*os.File) error) error {
	f, err := os.OpenFile(state.Path(lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return notWritable(state.Config.State, err)
	}
	if err := take(f); err != nil {
		defer f.Close()
		if !errors.Is(err, statefile.ErrLocked) {
			return fmt.Errorf("lock the state directory: %w", err)
		}
		return &dreamcore.Error{
			Code: dreamcore.CodeConflict, Reason: ReasonState, Message: "another server uses the state directory " + state.Config.State + holder(state),
			Hint: "stop that server, or use another directory",
		}
	}
	// Released by the close of the state: until then, disks of users are mounted.
	state.unlock = func() {
		_ = f.Truncate(0)
		_ = f.Close()
	}
	return nil
}

// holder returns the note of the process that holds the lock, in parentheses, or "".
func holder(state *State) string {
	note, _ := os.ReadFile(state.Path(lockFile))
	if len(note) == 0 {
		return ""
	}
	return " (" + strings.TrimSpace(string(note)) + ")"
}

// noteHolder writes into the lock file which process holds it, for the error of a
// second service. more is added to the note.
func (s *Service) noteHolder(state *State, more string) error {
	return os.WriteFile(state.Path(lockFile), fmt.Appendf(nil, "process %d, %s%s\n", os.Getpid(), s.URL(), more), 0o600)
}
