package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Defaults of Options.
const (
	DefaultMaxBytes = 16 << 20
	DefaultMaxFiles = 32
)

// Options of a Log. The zero value has the defaults.
type Options struct {
	Redact   func(string) string // takes secrets out of text; nil: there are none
	Logger   *slog.Logger        // told when the log cannot be written; nil: no log
	MaxBytes int64               // of a file; then the next one begins
	MaxFiles int                 // with the current one; the oldest is removed
	Now      func() time.Time    // nil: time.Now
}

const (
	current   = "audit.ndjson"
	rotated   = "audit-" // and the time it was put away
	extension = ".ndjson"
	lockName  = "lock"
	stampForm = "20060102T150405.000000000Z"

	syncDelay = 500 * time.Millisecond
	dirMode   = 0o700
	fileMode  = 0o600
)

// Refusals cost a sandbox nothing: what comes faster than this, of one kind
// from one sandbox or user, is only counted, or it would push all else out.
const (
	refusalsPerSecond = 5
	refusalsAtOnce    = 50
	maxLimiters       = 1024
)

// Log is an audit log that is open for writing. Its methods are safe for
// concurrent use; a nil *Log takes records and keeps none.
type Log struct {
	root *os.Root
	opts Options
	log  *slog.Logger

	mu       sync.Mutex
	f        *os.File            // guarded by mu; nil after a failure
	lost     int64               // guarded by mu; records that could not be written since one could
	limiters map[string]*limiter // guarded by mu
	closed   bool                // guarded by mu

	// One fsync at a time: those who wait for it share the next one.
	syncMu sync.Mutex
	dirty  atomic.Uint64 // counts writes
	synced atomic.Uint64 // the writes that are on the disk

	kick chan struct{}
	stop chan struct{}
	done chan struct{}
}

type limiter struct {
	rate       *rate.Limiter
	suppressed int64
	like       Entry // what the suppressed refusals have in common
}

// summaryInterval is how long refusals that were held back may be missing from
// the log when none of their kind follows.
const summaryInterval = time.Minute

// Open opens the log in dir, and makes it where it is missing. The caller must
// Close it.
func Open(dir string, opts Options) (*Log, error) {
	if opts.Redact == nil {
		opts.Redact = func(s string) string { return s }
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = DefaultMaxBytes
	}
	if opts.MaxFiles <= 0 {
		opts.MaxFiles = DefaultMaxFiles
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, diskError("make the directory of the audit log", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, diskError("open the directory of the audit log", err)
	}
	l := &Log{
		root: root, opts: opts, log: opts.Logger, limiters: map[string]*limiter{},
		kick: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	if l.f, err = l.openCurrent(); err != nil {
		return nil, errors.Join(diskError("open the audit log", err), root.Close())
	}
	go l.keep()
	return l, nil
}

func (l *Log) openCurrent() (*os.File, error) {
	return l.root.OpenFile(current, os.O_WRONLY|os.O_APPEND|os.O_CREATE, fileMode)
}

// Record writes e. What cannot be written is told to the operator's log once,
// and counted in the next record that can be: work goes on.
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
			l.log.Error("the audit log cannot be written: what happens now is not in it", "error", err)
		}
	}
	mine := l.dirty.Load()
	l.mu.Unlock()
	if err != nil {
		return
	}
	if e.Verdict == Refused {
		l.syncTo(mine)
		return
	}
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// admit holds back refusals that come too fast. l.mu is held.
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
			rate: rate.NewLimiter(refusalsPerSecond, refusalsAtOnce),
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

// forget drops the limiters that hold nobody back, or all. l.mu is held.
func (l *Log) forget(now time.Time) {
	for key, lim := range l.limiters {
		if lim.suppressed == 0 && lim.rate.TokensAt(now) >= refusalsAtOnce {
			delete(l.limiters, key)
		}
	}
	if len(l.limiters) >= maxLimiters {
		l.summarise(now)
		clear(l.limiters)
	}
}

// summarise writes down how many refusals were held back, of each kind, so that
// no count is lost with its limiter. l.mu is held.
func (l *Log) summarise(now time.Time) {
	for _, lim := range l.limiters {
		if lim.suppressed == 0 {
			continue
		}
		e := lim.like
		e.Time, e.Suppressed, e.Reason = now, lim.suppressed, "more of the same, not written down one by one"
		if err := l.write(e); err != nil {
			l.log.Error("the audit log cannot be written: refusals are not in it", "error", err, "suppressed", lim.suppressed)
			return
		}
		lim.suppressed = 0
	}
}

// write appends e to the current file. l.mu is held.
func (l *Log) write(e Entry) error {
	if err := l.follow(); err != nil {
		return err
	}
	if l.lost > 0 {
		gap := Entry{Time: e.Time, Event: EventLost, Verdict: Failed, Reason: fmt.Sprintf("%d records could not be written", l.lost)}
		if err := l.append(gap); err != nil {
			return err
		}
		l.log.Info("the audit log can be written again", "lost", l.lost)
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
	l.dirty.Add(1)
	return nil
}

// follow makes l.f the current file, after a rotation by another process too,
// and puts a full one away. l.mu is held.
func (l *Log) follow() error {
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
				return err // while it is busy this file goes on
			}
		}
		// It was put away, by us or by somebody else, or removed.
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

// rotate puts the current file away if it is still full. One that writes
// meanwhile writes into the old file. Nobody waits while another process does
// the same: it may have been stopped in the middle.
func (l *Log) rotate(full fs.FileInfo) (busy bool, err error) {
	lock, err := l.root.OpenFile(lockName, os.O_CREATE|os.O_RDWR, fileMode)
	if err != nil {
		return false, err
	}
	defer lock.Close()
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	now, err := l.root.Stat(current)
	if err != nil || !os.SameFile(full, now) {
		return false, nil // somebody was faster
	}
	if err := l.root.Rename(current, l.putAwayName()); err != nil {
		return false, err
	}
	names, err := files(l.root)
	if err != nil {
		return false, err
	}
	for len(names) >= l.opts.MaxFiles {
		if err := l.root.Remove(names[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		names = names[1:]
	}
	return false, nil
}

// putAwayName is a name after those of all files there are, whatever the clock
// does.
func (l *Log) putAwayName() string {
	at := l.opts.Now().UTC()
	if names, err := files(l.root); err == nil && len(names) > 0 {
		last := strings.TrimSuffix(strings.TrimPrefix(names[len(names)-1], rotated), extension)
		if t, err := time.Parse(stampForm, last); err == nil && !at.After(t) {
			at = t.Add(1)
		}
	}
	return rotated + at.Format(stampForm) + extension
}

// files returns the names of the files that were put away, the oldest first.
func files(root *os.Root) ([]string, error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		return !strings.HasPrefix(name, rotated) || !strings.HasSuffix(name, extension)
	})
	slices.Sort(names)
	return names, nil
}

// syncTo returns when that many writes are on the disk.
func (l *Log) syncTo(n uint64) {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	if l.synced.Load() >= n {
		return // by the sync that was waited for
	}
	l.mu.Lock()
	f, upTo := l.f, l.dirty.Load()
	l.mu.Unlock()
	if f == nil {
		return
	}
	// A file that was put away meanwhile was synced when it was closed.
	if err := f.Sync(); err != nil && !errors.Is(err, fs.ErrClosed) {
		l.log.Error("bring the audit log to the disk", "error", err)
		return
	}
	l.synced.Store(upTo)
}

// keep brings records to the disk until Close.
func (l *Log) keep() {
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
		case <-l.kick:
		}
		select {
		case <-l.stop:
			return
		case <-time.After(syncDelay):
		}
		l.syncTo(l.dirty.Load())
	}
}

// Close brings everything to the disk. It may be called more than once.
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
	l.syncMu.Lock() // a refusal may be on its way to the disk
	defer l.syncMu.Unlock()
	var errs []error
	if l.f != nil {
		errs = append(errs, l.f.Sync(), l.f.Close())
	}
	return errors.Join(append(errs, l.root.Close())...)
}

func diskError(action string, err error) error {
	e := &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "cannot " + action, Err: err, Hint: "check the state directory with ls -ld and df -h"}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		e.Hint = "the disk of the state directory is full: free space there (df -h shows how much)"
	}
	return e
}
