// Package history keeps the versions of projects as commits in bare Git
// repositories, one per project, outside of every sandbox:
//
//	history/U/P.git
//
// A commit is created from the files of the project's directory at that moment.
// There is no working tree and no Git index, and no hook, filter or
// configuration of a project is run. Git data inside a project is read at most
// once, as far as it is sound: see Adopt. The stock git command can read the
// repositories: git --git-dir history/U/P.git log
//
// The content of a project is hostile. It is read below an os.Root, one path
// element at a time, without following links, and bounded in number, depth and
// size. Files beyond the limits are left out of the version and logged.
//
// Only the branch main keeps objects. Prune removes objects that are reachable
// only from another branch or a tag, such as one that an operator has added:
// clone the repository to keep them.
//
// Objects and references are read with go-git, but not written with it: its
// object writer stores a broken object if the disk fills up, and its reference
// writer truncates the file before it writes, so a crash in between would lose
// the history.
//
// The files of this package: commit and snapshot create versions, with object
// and index below them; find, files, diff and copy read versions; adopt takes
// over foreign repositories, which verify, foreign, pack and sound read; prune
// removes old versions, with keeper, size and shallow below it; erase removes whole
// histories and summarizes them; acceptance and shot keep what a check of the game in
// a version has seen.
package history

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/admission"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Limits of one version. Files beyond them are left out and logged.
const (
	MaxFiles      = dreamcore.MaxTreeNames // names of any kind
	MaxDepth      = dreamcore.MaxTreeDepth // nested directories
	MaxFileBytes  = 256 << 20              // of one file
	MaxTotalBytes = 4 << 30                // of all files
	maxMessage    = 64 << 10               // bytes
	maxLog        = 1000                   // commits that Log returns
	maxShown      = 4 << 10                // bytes of a message that Log returns
)

const (
	// saveLimit limits the time that a version takes once it has the lock of the
	// history. firstLimit is the same for a first version, which reads everything:
	// half a minute for the largest project on a busy machine, much more on a slow
	// disk.
	saveLimit  = 2 * time.Minute
	firstLimit = 10 * time.Minute
	// slotPatience limits the waits for a slot and for the lock, which are not part
	// of these limits.
	slotPatience = 10 * time.Minute
)

const (
	dirMode  = 0o700
	fileMode = 0o600
)

// Options configures a Store. The zero value is ready for use.
type Options struct {
	Look   bool         // create nothing: without the directory there are no versions
	Logger *slog.Logger // logs files that are left out of a version
	Limits Limits       // for Prune
	// Heavy admits diffs and first versions, whose memory depends on files that a
	// sandbox has written. If nil, any number of them run at once.
	Heavy *admission.Limiter
}

// Store is the directory of all histories. It holds no descriptors, so it
// need not be closed. Its methods are safe for concurrent use, also by several
// processes.
type Store struct {
	dir    string
	log    *slog.Logger
	heavy  *admission.Limiter
	limits atomic.Pointer[Limits]
	totals totals
}

// repoExtension ends the name of the directory of a repository.
const repoExtension = ".git"

// Version is one commit.
type Version struct {
	Hash    string // 40 hexadecimal digits
	Message string // without the line break at its end, and without the trailer; a long one is cut
	// Acceptance is the verdict of a check of the game in this version; "" if it
	// was not checked.
	Acceptance string
	When       time.Time // in the time zone in which it was created
}

// Open opens the histories in dir and creates the directory if it is missing, unless
// opts.Look is set.
func Open(dir string, opts Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err == nil && !opts.Look {
		err = os.MkdirAll(dir, dirMode)
	}
	if err != nil {
		return nil, diskError("open the directory of histories", err)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{dir: dir, log: opts.Logger, heavy: opts.Heavy}
	s.SetLimits(opts.Limits)
	return s, nil
}

// Log returns the versions of a project, the newest first: at most limit, or at
// most 1000 if limit is not between 1 and 1000. It returns no versions and no
// error for a project without a history.
func (s *Store) Log(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, limit int) (versions []Version, err error) {
	if limit < 1 || limit > maxLog {
		limit = maxLog
	}
	err = s.walk(ctx, user, project, func(hash plumbing.Hash, c *object.Commit) bool {
		message, verdict := splitAcceptance(c.Message)
		versions = append(versions, Version{Hash: hash.String(), Message: shown(message), Acceptance: verdict, When: c.Committer.When})
		return len(versions) < limit
	})
	return versions, err
}

// Count returns the number of versions of a project.
func (s *Store) Count(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (n int, err error) {
	err = s.walk(ctx, user, project, func(plumbing.Hash, *object.Commit) bool { n++; return true })
	return n, err
}

// walk calls visit for the versions of a project, the newest first, until visit
// returns false.
func (s *Store) walk(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, visit func(plumbing.Hash, *object.Commit) (more bool)) error {
	r, err := s.open(user, project)
	if r == nil {
		return err
	}
	if err := r.walk(ctx, visit); err != nil {
		return r.unreadable(ctx, err)
	}
	return nil
}

// Newest returns the hash of the newest version, or "" if there is no version.
func (s *Store) Newest(user dreamcore.UserID, project dreamcore.ProjectID) (string, error) {
	r, err := s.open(user, project)
	if r == nil {
		return "", err
	}
	head, err := r.head()
	if err != nil {
		return "", r.damaged(err)
	}
	return hashText(head), nil
}

// hashText returns the digits of a hash, or "" for the zero hash.
func hashText(hash plumbing.Hash) string {
	if hash.IsZero() {
		return ""
	}
	return hash.String()
}

// shown cuts a message: an adopted history may have a thousand messages of a
// mebibyte each.
func shown(message string) string {
	if message = strings.TrimRight(message, "\n"); len(message) > maxShown {
		return strings.ToValidUTF8(message[:maxShown], "") + "…"
	}
	return strings.Clone(message) // so that the commit can be freed
}

// shortLength is the number of digits of a hash that people see.
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
	return filepath.Join(s.dir, string(user), string(project)+repoExtension)
}

// open opens the repository of a project; nil if the project has no history.
func (s *Store) open(user dreamcore.UserID, project dreamcore.ProjectID) (*repo, error) {
	r, err := openRepo(s.path(user, project))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, diskError("open the history", err)
	}
	return r, nil
}

// diskError adds the hint that fits an error of the file system.
func diskError(action string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", action, err)
	}
	if _, ok := errors.AsType[*dreamcore.Error](err); ok {
		return fmt.Errorf("%s: %w", action, err)
	}
	return statefile.Error(action, err)
}
