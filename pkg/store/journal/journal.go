// Package journal keeps the events of jobs: one append-only file per job,
// JOB.ndjson, one event on each line. The number of the line, from 1, is the
// id of the event, so an id needs no place of its own and survives a restart.
//
// A writer appends, any number of readers follow at their own speed:
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
// Readers read the file with a descriptor of their own and learn how far they
// may read from an atomic pointer: there is no lock, queue or buffer that a
// slow reader could hold against the writer.
//
// Several processes may use one directory: a log is locked for as long as it
// is written.
package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Defaults of Options.
const (
	DefaultSyncInterval = 100 * time.Millisecond
	DefaultMaxLogBytes  = 256 << 20
)

// Options tunes a Store. The zero value means the defaults.
type Options struct {
	// SyncInterval bounds how long events stay unsynced while more of them
	// come: an Append that finds the last fsync older than this syncs. Zero
	// means DefaultSyncInterval, less than zero syncs every event. Terminal
	// events and Close always sync.
	SyncInterval time.Duration
	// MaxLogBytes bounds one log, without its terminal event. Zero means
	// DefaultMaxLogBytes.
	MaxLogBytes int64
	// MaxBytes bounds what all logs take on disk. Beyond it the oldest ones go,
	// but none that is being written or read. Zero is no bound.
	MaxBytes int64
}

// Store is a directory of logs. Its methods are safe for concurrent use.
type Store struct {
	root *os.Root
	opts Options
	sync func(*os.File) error // (*os.File).Sync; tests make it fail

	mu     sync.Mutex
	live   map[string]*Log // guarded by mu; logs that this process has open for writing
	read   map[string]int  // guarded by mu; how many Readers a log has
	closed bool            // guarded by mu

	room room
}

const (
	extension = ".ndjson"
	dirMode   = 0o700
	fileMode  = 0o600
)

// Open opens the logs in dir, and makes dir where it is missing. The caller
// must Close the Store.
func Open(dir string, opts Options) (*Store, error) {
	if opts.SyncInterval == 0 {
		opts.SyncInterval = DefaultSyncInterval
	}
	if opts.MaxLogBytes <= 0 {
		opts.MaxLogBytes = DefaultMaxLogBytes
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, diskError("make the directory of job logs", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, diskError("open the directory of job logs", err)
	}
	s := &Store{root: root, opts: opts, sync: (*os.File).Sync, live: map[string]*Log{}, read: map[string]int{}}
	s.room.most = opts.MaxBytes
	s.room.total.Store(uncounted)
	return s, nil
}

// Create starts the log of a new job. job is a UUID in its canonical form;
// CodeInvalid says that it is not, CodeConflict that the job has a log. The
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
		return nil, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "job " + job + " exists already", Hint: "use a new job id", Err: err}
	}
	if err != nil {
		return nil, diskError("create the log of job "+job, err)
	}
	// Without this the whole file may be missing after a power cut, even
	// though its events were synced.
	if err := s.syncDir(); err != nil {
		err = errors.Join(err, f.Close(), s.root.Remove(name))
		return nil, diskError("create the log of job "+job, err)
	}
	l := newLog(s, job, f, 0, 0)
	if err := errors.Join(holdNew(f), l.reserve(0)); err != nil {
		err = errors.Join(err, f.Close(), s.root.Remove(name))
		return nil, diskError("create the log of job "+job, err)
	}
	s.live[job] = l
	return l, nil
}

// Reopen opens the log of a job that a crash left without its terminal event,
// so that one can be appended. A torn last line is cut off. CodeNotFound:
// there is no such job; CodeConflict: it is still being written, or it has
// its terminal event. The caller must Close the Log.
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
		return nil, diskError("open the log of job "+job, err)
	}
	if err := hold(f); err != nil {
		_ = f.Close()
		return nil, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "job " + job + " is running in another process", Hint: "wait for its end", Err: err}
	}
	size, lines, err := s.recover(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l := newLog(s, job, f, size, lines)
	s.live[job] = l
	return l, nil
}

// recover refuses a log that has ended and cuts off a torn last line.
func (s *Store) recover(f *os.File) (size int64, lines uint64, err error) {
	ended, err := endsTerminal(f)
	if err != nil {
		return 0, 0, diskError("read the end of "+f.Name(), err)
	}
	if ended {
		return 0, 0, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the job has ended already", Hint: "read its log instead"}
	}
	size, lines, err = countLines(f)
	if err != nil {
		return 0, 0, diskError("read "+f.Name(), err)
	}
	if err := f.Truncate(size); err != nil {
		return 0, 0, diskError("cut off the torn end of "+f.Name(), err)
	}
	return size, lines, nil
}

// Unfinished returns the jobs, in order of their ids, that have no terminal
// event and that no process is writing: a crash left them.
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
		if err != nil {
			return nil, diskError("read the log of job "+job, err)
		}
		if !ended {
			jobs = append(jobs, job)
		}
	}
	return jobs, nil
}

// Close ends the logs that are still open, so that their readers end too, and
// closes the Store. It may be called more than once.
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

func (s *Store) forget(l *Log) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, l.job)
}

// hasEnded tells whether a log needs nobody to end it.
func (s *Store) hasEnded(name string) (bool, error) {
	f, err := s.root.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if held(f) {
		return true, nil // it will
	}
	return endsTerminal(f)
}

// names returns the names of all logs, sorted; other files are not ours.
func (s *Store) names() ([]string, error) {
	d, err := s.root.Open(".")
	if err != nil {
		return nil, diskError("open the directory of job logs", err)
	}
	defer d.Close()
	all, err := d.Readdirnames(-1)
	if err != nil {
		return nil, diskError("list job logs", err)
	}
	names := slices.DeleteFunc(all, func(name string) bool {
		job, ok := strings.CutSuffix(name, extension)
		if !ok {
			return true
		}
		canonical, err := fileName(job)
		return err != nil || canonical != name
	})
	slices.Sort(names)
	return names, nil
}

func (s *Store) syncDir() error {
	d, err := s.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(s.sync(d), d.Close())
}

// fileName returns the file of a job. Only a UUID gets one, so that no id
// from outside names another file.
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
		Hint:    "check the job id; logs of old jobs are removed after a time",
		Err:     fmt.Errorf("log of job %.64q: %w", job, cause),
	}
}

func errStoreClosed() error {
	return &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "the job logs are closed", Hint: "the service is stopping: try again when it is up", Err: fs.ErrClosed}
}

// diskError gives an error of the file system the hint that fits it.
func diskError(action string, err error) error {
	e := &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "cannot " + action, Err: err}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Code, e.Hint = dreamcore.CodeSetup, "the disk of the state directory is full: free space there (df -h shows how much)"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		e.Code, e.Hint = dreamcore.CodeSetup, "the state directory must be writable: check its owner with ls -ld, or choose another with --state DIR"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EIO):
		e.Hint = "check the disk of the state directory (dmesg names its errors)"
	default:
		e.Hint = "check the state directory with ls -ld and df -h"
	}
	return e
}
