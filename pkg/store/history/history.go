// Package history keeps the versions of projects as commits in bare Git
// repositories, one per project, outside of every sandbox:
//
//	history/U/P.git
//
// A commit is made from what the project's directory holds at that moment. No
// working tree or Git index is used, and no hook, filter or configuration of a
// project runs. Git data inside the project is read once at most, as far as it
// is sound: see Adopt. The stock git command can read the repositories:
// git --git-dir history/U/P.git log
//
// What is in a project is hostile. It is read below an os.Root, one path
// element at a time, without following links, and bounded in number, depth
// and size; what goes beyond is left out of the version and logged.
//
// Reading goes through go-git. Writing does not: its writer of objects saves
// a broken object when the disk fills up in the middle, and its writer of
// references empties the file before it writes, so that a crash in between
// would lose the history.
package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/admission"
)

// Bounds of one version. What goes beyond is left out and logged.
const (
	MaxFiles      = dreamcore.MaxTreeNames // names of any kind
	MaxDepth      = dreamcore.MaxTreeDepth // directories inside each other
	MaxFileBytes  = 256 << 20              // of one file
	MaxTotalBytes = 4 << 30                // of all files
	maxMessage    = 64 << 10               // bytes
	maxLog        = 1000                   // commits that Log returns
	maxShown      = 4 << 10                // bytes of a message that Log returns
)

const (
	// saveLimit bounds the time that a version takes once it has its slot: the
	// first version of the largest project takes half a minute on a busy machine.
	saveLimit = 2 * time.Minute
	// slotPatience bounds the wait for a slot, which is not part of saveLimit.
	slotPatience = 10 * time.Minute
)

const (
	dirMode  = 0o700
	fileMode = 0o600
)

// Options tunes a Store. The zero value is ready for use.
type Options struct {
	Logger *slog.Logger // where it is said what was left out of a version
	Bounds Bounds       // for Prune
	// Heavy admits diffs and first versions, whose memory depends on what a
	// sandbox has written. nil: any number at once.
	Heavy *admission.Limiter
}

// Store is the directory of all histories. It holds no descriptors, so it
// need not be closed. Its methods are safe for concurrent use, also by several
// processes.
type Store struct {
	dir    string
	log    *slog.Logger
	heavy  *admission.Limiter
	bounds atomic.Pointer[Bounds]
}

// Version is one commit.
type Version struct {
	Hash    string    // 40 hexadecimal digits
	Message string    // without the line break at its end; a long one is cut
	When    time.Time // in the time zone it was made in
}

// Open opens the histories in dir and makes the directory where it is missing.
func Open(dir string, opts Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, dirMode)
	}
	if err != nil {
		return nil, diskError("open the directory of histories", err)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{dir: dir, log: opts.Logger, heavy: opts.Heavy}
	s.SetBounds(opts.Bounds)
	return s, nil
}

// Log returns the versions of a project, the newest first: limit of them, or
// 1000 when limit is not between 1 and that. A project without a history has
// none, which is no error.
func (s *Store) Log(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, limit int) ([]Version, error) {
	if limit < 1 || limit > maxLog {
		limit = maxLog
	}
	r, err := openRepo(s.path(user, project))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, diskError("open the history", err)
	}
	var versions []Version
	err = r.walk(ctx, func(hash plumbing.Hash, c *object.Commit) bool {
		versions = append(versions, Version{Hash: hash.String(), Message: shown(c.Message), When: c.Committer.When})
		return len(versions) < limit
	})
	if err != nil {
		return nil, r.unreadable(ctx, err)
	}
	return versions, nil
}

// shown cuts a message: those of a history from outside may be a thousand of
// a mebibyte each.
func shown(message string) string {
	if message = strings.TrimRight(message, "\n"); len(message) > maxShown {
		return strings.ToValidUTF8(message[:maxShown], "") + "…"
	}
	return strings.Clone(message) // of the object, which is not kept
}

// shortLength is how many digits of a hash people are shown.
const shortLength = 7

// Short returns the first 7 digits of a hash.
func Short(hash string) string { return hash[:min(len(hash), shortLength)] }

// slot waits until a large operation of the user may run. The caller must call
// leave. CodeBusy: no slot became free within slotPatience.
func (s *Store) slot(ctx context.Context, user dreamcore.UserID) (leave func(), err error) {
	limited, cancel := context.WithTimeout(ctx, slotPatience)
	defer cancel()
	leave, err = s.heavy.Wait(limited, user)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeBusy, Err: err,
			Message: fmt.Sprintf("the machine is busy: other large operations took all slots for %v", slotPatience),
			Hint:    "try again later; large projects and imports of other users take the slots",
		}
	}
	return leave, err
}

func (s *Store) path(user dreamcore.UserID, project dreamcore.ProjectID) string {
	return filepath.Join(s.dir, string(user), string(project)+".git")
}

// diskError gives an error of the file system the hint that fits it.
func diskError(action string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", action, err)
	}
	if _, ok := errors.AsType[*dreamcore.Error](err); ok {
		return fmt.Errorf("%s: %w", action, err)
	}
	e := &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "cannot " + action, Err: err}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Code, e.Hint = dreamcore.CodeSetup, "the disk of the state directory is full: free space there (df -h and df -i show how much)"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		e.Code, e.Hint = dreamcore.CodeSetup, "the state directory must be writable: check its owner with ls -ld, or choose another with --state DIR"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EIO):
		e.Hint = "check the disk of the state directory (dmesg names its errors)"
	default:
		e.Hint = "check the state directory with ls -ld and df -h"
	}
	return e
}
