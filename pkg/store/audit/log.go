package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Defaults of Options.
const (
	DefaultMaxBytes = 16 << 20
	DefaultMaxFiles = 32
)

// Options configures a Log. The zero value selects the defaults.
type Options struct {
	Redact   func(string) string // removes secrets from text; optional
	Logger   *slog.Logger        // reports that the log cannot be written; optional
	MaxBytes int64               // size at which a file is rotated
	MaxFiles int                 // number of files, the current one included; the oldest is removed
	Now      func() time.Time    // nil means time.Now
}

const (
	current       = "audit.ndjson"
	rotatedPrefix = "audit-" // followed by the time of the rotation
	extension     = ".ndjson"
	lockName      = "lock"
	stampForm     = "20060102T150405.000000000Z"

	syncDelay = 500 * time.Millisecond
	fileMode  = 0o600
)

// Refusals cost a sandbox nothing: beyond this rate, those of one kind from one
// sandbox or user are only counted, or they would push everything else out of the
// log.
const (
	refusalsPerSecond = 5
	refusalsBurst     = 50
	maxLimiters       = 1024
)

// Log is an audit log that is open for writing. Its methods are safe for concurrent
// use; a nil *Log discards its records.
type Log struct {
	root *os.Root
	opts Options
	log  *slog.Logger

	mu       sync.Mutex
	f        *os.File            // guarded by mu; nil after a failure
	lost     int64               // guarded by mu; records that could not be written since the last one that could
	limiters map[string]*limiter // guarded by mu
	closed   bool                // guarded by mu

	// One fsync runs at a time; the callers that wait for it share the next one.
	syncMu  sync.Mutex
	written atomic.Uint64 // number of writes
	synced  atomic.Uint64 // number of writes that are on the disk

	wake chan struct{}
	stop chan struct{}
	done chan struct{}
}

type limiter struct {
	rate       *rate.Limiter
	suppressed int64
	like       Entry // the fields that the suppressed refusals have in common
}

// summaryInterval is the longest time for which suppressed refusals are missing
// from the log when no refusal of their kind follows.
const summaryInterval = time.Minute

// Open opens the log in dir, which it creates if needed. The caller must Close the
// Log.
func Open(dir string, opts Options) (*Log, error) {
	if opts.Redact == nil {
		opts.Redact = func(s string) string { return s }
	}
	opts.Logger = cmp.Or(opts.Logger, slog.New(slog.DiscardHandler))
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = DefaultMaxBytes
	}
	if opts.MaxFiles <= 0 {
		opts.MaxFiles = DefaultMaxFiles
	}
	root, err := statefile.OpenDir(dir)
	if err != nil {
		return nil, diskError("open the directory of the audit log", err)
	}
	l := &Log{
		root: root, opts: opts, log: opts.Logger, limiters: map[string]*limiter{},
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	if l.f, err = l.openCurrent(); err != nil {
		return nil, errors.Join(diskError("open the audit log", err), root.Close())
	}
	go l.run()
	return l, nil
}

func (l *Log) openCurrent() (*os.File, error) {
	return l.root.OpenFile(current, os.O_WRONLY|os.O_APPEND|os.O_CREATE, fileMode)
}

// Record writes e. Failures do not stop the work: the first one is logged for the
// operator, and the next successful write records how many were lost.
func (l *Log) Record(e Entry) {
	if l == nil {
		return
	}
	if e.Time.IsZero() {
		e.Time = l.opts.Now()
	}
	l.mu.Lock()
	if l.closed || !l.admit(&e) {
		l.mu.Unlock()
		return
	}
	err := l.write(e)
	if err != nil {
		if l.lost++; l.lost == 1 {
			l.log.Error("cannot write the audit log: the following records are lost", "error", err)
		}
	}
	mine := l.written.Load()
	l.mu.Unlock()
	if err != nil {
		return
	}
	if e.Verdict == Refused {
		l.syncTo(mine)
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// admit reports whether e is to be written, or is one of too many refusals. It must
// be called with mu held.
func (l *Log) admit(e *Entry) bool {
	if e.Verdict != Refused {
		return true
	}
	key := e.Event + " " + e.User + " " + e.Sandbox
	lim := l.limiters[key]
	if lim == nil {
		if len(l.limiters) >= maxLimiters {
			l.forget(e.Time)
		}
		lim = &limiter{
			rate: rate.NewLimiter(refusalsPerSecond, refusalsBurst),
			like: Entry{Event: e.Event, Verdict: Refused, User: e.User, Sandbox: e.Sandbox},
		}
		l.limiters[key] = lim
	}
	if !lim.rate.AllowN(e.Time, 1) {
		lim.suppressed++
		return false
	}
	e.Suppressed, lim.suppressed = lim.suppressed, 0
	return true
}

// forget drops the limiters that have nothing to suppress, or all of them if those
// are too few. It must be called with mu held.
func (l *Log) forget(now time.Time) {
	for key, lim := range l.limiters {
		if lim.suppressed == 0 && lim.rate.TokensAt(now) >= refusalsBurst {
			delete(l.limiters, key)
		}
	}
	if len(l.limiters) >= maxLimiters {
		l.summarise(now)
		clear(l.limiters)
	}
}

// summarise records the number of suppressed refusals of each kind, so that no
// count is lost with its limiter. It must be called with mu held.
func (l *Log) summarise(now time.Time) {
	for _, lim := range l.limiters {
		if lim.suppressed == 0 {
			continue
		}
		e := lim.like
		e.Time, e.Suppressed, e.Reason = now, lim.suppressed, "more refusals of this kind, not recorded one by one"
		if err := l.write(e); err != nil {
			l.log.Error("cannot write the audit log: suppressed refusals are not in it", "error", err, "suppressed", lim.suppressed)
			return
		}
		lim.suppressed = 0
	}
}

// write appends e to the current file. It must be called with mu held.
func (l *Log) write(e Entry) error {
	if err := l.openFile(); err != nil {
		return err
	}
	if l.lost > 0 {
		gap := Entry{Time: e.Time, Event: EventLost, Verdict: Failed, Reason: fmt.Sprintf("%d records could not be written", l.lost)}
		if err := l.append(gap); err != nil {
			return err
		}
		l.log.Info("the audit log is being written again", "lost", l.lost)
		l.lost = 0
	}
	return l.append(e)
}

func (l *Log) append(e Entry) error {
	b, err := e.encode(l.opts.Redact)
	if err != nil {
		return err
	}
	if _, err := l.f.Write(b); err != nil {
		return err
	}
	l.written.Add(1)
	return nil
}

// openFile makes l.f the current file, also after a rotation by another process,
// and rotates a full one. It must be called with mu held.
func (l *Log) openFile() error {
	if l.f != nil {
		mine, err := l.f.Stat()
		if err != nil {
			return err
		}
		now, err := l.root.Stat(current)
		if err == nil && os.SameFile(mine, now) {
			if mine.Size() < l.opts.MaxBytes {
				return nil
			}
			if busy, err := l.rotate(mine); busy || err != nil {
				return err // another process is rotating: keep using this file
			}
		}
		// The file was rotated, by this process or another one, or removed.
		if err := errors.Join(l.f.Sync(), l.f.Close()); err != nil {
			l.log.Error("close an audit log", "error", err)
		}
		l.f = nil
	}
	f, err := l.openCurrent()
	if err != nil {
		return err
	}
	l.f = f
	return nil
}

// rotate renames the current file if it is still full. A concurrent writer writes
// into the renamed file. If another process is rotating, rotate returns busy
// instead of waiting: that process may have been stopped midway.
func (l *Log) rotate(full fs.FileInfo) (busy bool, err error) {
	lock, err := l.root.OpenFile(lockName, os.O_CREATE|os.O_RDWR, fileMode)
	if err != nil {
		return false, err
	}
	defer lock.Close()
	err = statefile.TryLock(lock)
	if errors.Is(err, statefile.ErrLocked) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	now, err := l.root.Stat(current)
	if err != nil || !os.SameFile(full, now) {
		return false, nil // another process has rotated it
	}
	if err := l.root.Rename(current, l.rotatedName()); err != nil {
		return false, err
	}
	names, err := files(l.root)
	if err != nil {
		return false, err
	}
	for len(names) >= l.opts.MaxFiles {
		if err := statefile.IgnoreMissing(l.root.Remove(names[0])); err != nil {
			return false, err
		}
		names = names[1:]
	}
	return false, nil
}

// rotatedName returns a name that sorts after those of all rotated files, even if
// the clock went back.
func (l *Log) rotatedName() string {
	at := l.opts.Now().UTC()
	if names, err := files(l.root); err == nil && len(names) > 0 {
		last := strings.TrimSuffix(strings.TrimPrefix(names[len(names)-1], rotatedPrefix), extension)
		if t, err := time.Parse(stampForm, last); err == nil && !at.After(t) {
			at = t.Add(1)
		}
	}
	return rotatedPrefix + at.Format(stampForm) + extension
}

// files returns the names of the rotated files, the oldest first.
func files(root *os.Root) ([]string, error) {
	return statefile.Names(root, func(name string) bool {
		return strings.HasPrefix(name, rotatedPrefix) && strings.HasSuffix(name, extension)
	})
}

// syncTo returns when the first n writes are on the disk.
func (l *Log) syncTo(n uint64) {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	if l.synced.Load() >= n {
		return // synced by the call that held syncMu
	}
	l.mu.Lock()
	f, upTo := l.f, l.written.Load()
	l.mu.Unlock()
	if f == nil {
		return
	}
	// A file that was rotated meanwhile was synced when it was closed.
	if err := f.Sync(); err != nil && !errors.Is(err, fs.ErrClosed) {
		l.log.Error("sync the audit log", "error", err)
		return
	}
	l.synced.Store(upTo)
}

// run syncs records until Close.
func (l *Log) run() {
	defer close(l.done)
	summary := time.NewTicker(summaryInterval)
	defer summary.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-summary.C:
			l.mu.Lock()
			l.summarise(l.opts.Now())
			l.mu.Unlock()
		case <-l.wake:
		}
		select {
		case <-l.stop:
			return
		case <-time.After(syncDelay):
		}
		l.syncTo(l.written.Load())
	}
}

// Close syncs and closes the log. It may be called more than once.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.summarise(l.opts.Now())
	l.closed = true
	l.mu.Unlock()
	close(l.stop)
	<-l.done
	l.syncMu.Lock() // a refusal may be being synced
	defer l.syncMu.Unlock()
	var errs []error
	if l.f != nil {
		errs = append(errs, l.f.Sync(), l.f.Close())
	}
	return errors.Join(append(errs, l.root.Close())...)
}

func diskError(action string, err error) error {
	e := statefile.Error(action, err)
	e.Code = dreamcore.CodeSetup
	return e
}
