// Package journal keeps the events of jobs: one append-only file per job,
// JOB.ndjson, one event on each line. The number of the line, counted from 1, is
// the id of the event, so that ids survive a restart without being stored.
//
// One writer appends; any number of readers follow, each at its own speed:
//
//	log, err := store.Create(job)
//	id, err := log.Append(dreamcore.StatusEvent("…"))
//	err = log.Close()                       // after the terminal event
//
//	r, err := store.Reader(job, lastSeen)   // while it runs, or years later
//	defer r.Close()
//	for {
//		entry, err := r.Next(ctx)           // io.EOF after the end of the job
//	}
//
// A log also has notes about its job, which are not events and have no ids: the
// lines that begin with '#' (note.go). They make the logs the one truth about jobs.
//
// Each Reader has its own descriptor and learns from an atomic pointer how far it
// may read: there is no lock, queue or buffer with which a slow reader could delay
// the writer.
//
// Several processes may use one directory: a log is locked while it is being
// written.
package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Defaults of Options.
const (
	DefaultSyncInterval = 100 * time.Millisecond
	DefaultMaxLogBytes  = 256 << 20
)

// Options configures a Store. The zero value selects the defaults.
type Options struct {
	// SyncInterval bounds how long events stay unsynced while more of them arrive:
	// an Append that finds the last fsync older than this syncs. Zero means
	// DefaultSyncInterval; a negative value syncs every event. Terminal events and
	// Close always sync.
	SyncInterval time.Duration
	// MaxLogBytes bounds one log, not counting its terminal event. Zero means
	// DefaultMaxLogBytes.
	MaxLogBytes int64
	// MaxBytes bounds the disk space of all logs. Beyond it, the oldest logs are
	// removed, as Prune does it. Zero means no bound.
	MaxBytes int64
	// Removed is called after the logs of jobs were removed because of their age or
	// the space of all logs. It must not call the Store. It may be nil.
	Removed func(jobs []string)
}

// Store is a directory of logs. Its methods are safe for concurrent use.
type Store struct {
	root *os.Root
	opts Options
	sync func(*os.File) error // (*os.File).Sync; replaced in tests

	mu      sync.Mutex
	live    map[string]*Log // guarded by mu; logs that this process has open for writing, by job
	readers map[string]int  // guarded by mu; number of Readers, by job
	endless map[string]bool // guarded by mu; jobs whose logs this process has closed without a terminal event
	closed  bool            // guarded by mu

	room room
}

const (
	extension = ".ndjson"
	fileMode  = 0o600
)

// Open opens the logs in dir, which it creates if needed. The caller must Close the
// Store.
func Open(dir string, opts Options) (*Store, error) {
	if opts.SyncInterval == 0 {
		opts.SyncInterval = DefaultSyncInterval
	}
	if opts.MaxLogBytes <= 0 {
		opts.MaxLogBytes = DefaultMaxLogBytes
	}
	root, err := statefile.OpenDir(dir)
	if err != nil {
		return nil, statefile.Error("open the directory of job logs", err)
	}
	s := &Store{root: root, opts: opts, sync: (*os.File).Sync, live: map[string]*Log{}, readers: map[string]int{}, endless: map[string]bool{}}
	s.room.max = opts.MaxBytes
	s.room.total.Store(uncounted)
	return s, nil
}

// Create starts the log of a new job. job must be a UUID in its canonical form, or
// the error has CodeInvalid; CodeConflict means that the job has a log already. The
// caller must Close the Log.
func (s *Store) Create(job string) (*Log, error) {
	name, err := fileName(job)
	if err != nil {
		return nil, err
	}
	s.makeRoom()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errStoreClosed()
	}
	job = strings.TrimSuffix(name, extension)
	f, err := s.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if errors.Is(err, fs.ErrExist) {
		return nil, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "job " + job + " already exists", Hint: "use a new job id", Err: err}
	}
	if err != nil {
		return nil, statefile.Error("create the log of job "+job, err)
	}
	// Without this, the whole file may be missing after a power cut, although its
	// events were synced.
	if err := s.syncDir(); err != nil {
		err = errors.Join(err, f.Close(), s.root.Remove(name))
		return nil, statefile.Error("create the log of job "+job, err)
	}
	l := newLog(s, job, f, 0, 0)
	// Nothing else writes a new log, but another process may be probing its lock.
	if err := errors.Join(statefile.Lock(context.Background(), f), l.reserve(0)); err != nil {
		err = errors.Join(err, f.Close(), s.root.Remove(name))
		return nil, statefile.Error("create the log of job "+job, err)
	}
	s.live[job] = l
	return l, nil
}

// Reopen opens the log of a job that was suspended or ended in a crash, so that it
// can be continued. It removes a torn last line. CodeNotFound: there is no such job;
// CodeConflict: its log is still being written, or has its terminal event. The
// caller must Close the Log.
func (s *Store) Reopen(job string) (*Log, error) {
	name, err := fileName(job)
	if err != nil {
		return nil, errNotFound(job, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errStoreClosed()
	}
	job = strings.TrimSuffix(name, extension)
	if s.live[job] != nil {
		return nil, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "job " + job + " is running", Hint: "wait for its end"}
	}
	f, err := s.root.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotFound(job, err)
	}
	if err != nil {
		return nil, statefile.Error("open the log of job "+job, err)
	}
	if err := statefile.TryLock(f); err != nil {
		_ = f.Close()
		return nil, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "job " + job + " is running in another process", Hint: "wait for its end", Err: err}
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(statefile.Error("open the log of job "+job, err), f.Close())
	}
	size, lines, err := s.recover(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l := newLog(s, job, f, size, lines)
	l.left = info.ModTime()
	s.live[job] = l
	delete(s.endless, job)
	return l, nil
}

// recover refuses a log that has a terminal event and removes a torn last line.
func (s *Store) recover(f *os.File) (size int64, lines uint64, err error) {
	ended, err := endsTerminal(f)
	if err != nil {
		return 0, 0, statefile.Error("read the end of "+f.Name(), err)
	}
	if ended {
		return 0, 0, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the job has already ended", Hint: "read its log instead"}
	}
	size, lines, err = countEvents(f)
	if err != nil {
		return 0, 0, statefile.Error("read "+f.Name(), err)
	}
	if err := f.Truncate(size); err != nil {
		return 0, 0, statefile.Error("remove the torn last line of "+f.Name(), err)
	}
	return size, lines, nil
}

// Unfinished returns the ids, sorted, of the jobs without a terminal event that no
// process is writing: those that were suspended, or that a crash interrupted. It
// reads the end of every log. A log that cannot be read is one of them: it must not
// hide the others, and its continuation gets the error.
func (s *Store) Unfinished() ([]string, error) {
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	var jobs []string
	for _, name := range names {
		job := strings.TrimSuffix(name, extension)
		if s.isLive(job) {
			continue
		}
		ended, err := s.hasEnded(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // pruned meanwhile
		}
		if err != nil || !ended {
			jobs = append(jobs, job)
		}
	}
	return jobs, nil
}

// Jobs returns the ids, sorted, of all jobs with a log. It reads the names only.
func (s *Store) Jobs() ([]string, error) {
	names, err := s.names()
	for i, name := range names {
		names[i] = strings.TrimSuffix(name, extension)
	}
	return names, err
}

// Close closes the logs that are still open, so that their readers end too, and
// then the Store. It may be called more than once.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	open := slices.Collect(maps.Values(s.live))
	s.mu.Unlock()
	var errs []error
	for _, l := range open {
		errs = append(errs, l.Close())
	}
	return errors.Join(append(errs, s.root.Close())...)
}

func (s *Store) isLive(job string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live[job] != nil
}

// forget must be called with l.mu held.
func (s *Store) forget(l *Log) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, l.job)
	if !l.cut && !l.ended {
		s.endless[l.job] = true
	}
}

// hasEnded reports whether a log has its terminal event, or is being written by
// another process, which will add it.
func (s *Store) hasEnded(name string) (bool, error) {
	f, err := s.root.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if statefile.Locked(f) {
		return true, nil
	}
	return endsTerminal(f)
}

// names returns the sorted file names of all logs and skips other files.
func (s *Store) names() ([]string, error) {
	names, err := statefile.Names(s.root, func(name string) bool {
		job, ok := strings.CutSuffix(name, extension)
		if !ok {
			return false
		}
		canonical, err := fileName(job)
		return err == nil && canonical == name
	})
	if err != nil {
		return nil, statefile.Error("list job logs", err)
	}
	return names, nil
}

func (s *Store) syncDir() error {
	d, err := s.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(s.sync(d), d.Close())
}

// FileName returns the name of the file of a job that has a log.
func FileName(job string) string { return job + extension }

// fileName returns the file name for a job. It accepts only UUIDs, so that an id
// from outside cannot name another file.
func fileName(job string) (string, error) {
	const canonicalLength = 36
	if len(job) == canonicalLength {
		if id, err := uuid.Parse(job); err == nil {
			return id.String() + extension, nil
		}
	}
	return "", &dreamcore.Error{
		Code:    dreamcore.CodeInvalid,
		Message: "Invalid job id: must be UUID format",
		Hint:    "use the form 123e4567-e89b-42d3-a456-426614174000",
	}
}

func errNotFound(job string, cause error) error {
	return &dreamcore.Error{
		Code:    dreamcore.CodeNotFound,
		Message: "Job not found",
		Hint:    "check the job id; the logs of old jobs are removed after some time",
		Err:     fmt.Errorf("log of job %.64q: %w", job, cause),
	}
}

func errStoreClosed() error {
	return &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "the job logs are closed", Hint: "the service is stopping: try again when it has started", Err: fs.ErrClosed}
}
