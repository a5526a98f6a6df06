package journal

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// terminalReserve is what a full log still has room for, so that a job that
// wrote too much can end with an event that says so.
const terminalReserve = 64 << 10

// keepBuffer bounds the buffers that outlive a large event.
const keepBuffer = 256 << 10

// Log is the log of one job, open for writing. Its methods are safe for
// concurrent use.
type Log struct {
	store *Store
	job   string
	end   atomic.Pointer[end] // what readers may see

	mu       sync.Mutex
	f        *os.File  // guarded by mu
	size     int64     // guarded by mu; bytes of whole lines
	reserved int64     // guarded by mu; the disk has room up to this offset
	lines    uint64    // guarded by mu
	torn     bool      // guarded by mu; bytes beyond size could not be cut off
	closed   bool      // guarded by mu
	lastSync time.Time // guarded by mu
	unsynced bool      // guarded by mu
	buf      []byte    // guarded by mu
}

// end is how far a log may be read. It never changes: the writer replaces it
// by the next one and closes changed.
type end struct {
	size    int64
	final   bool // there will be no more
	changed chan struct{}
}

func newLog(s *Store, job string, f *os.File, size int64, lines uint64) *Log {
	l := &Log{store: s, job: job, f: f, size: size, lines: lines, lastSync: time.Now()}
	l.end.Store(&end{size: size, changed: make(chan struct{})})
	return l
}

// Job returns the id of the job.
func (l *Log) Job() string { return l.job }

// Append writes one event and returns its id. It waits for the disk at most,
// never for a reader. After an error the log is as it was before, and a later
// Append may succeed. CodeInvalid: the event is not one JSON object on one
// line; CodeTooLarge: the event is over dreamcore.MaxEventBytes, or the log
// over its limit (a small terminal event still fits); CodeSetup: the disk is
// full. After Close the error wraps fs.ErrClosed.
func (l *Log) Append(e dreamcore.Event) (id uint64, err error) {
	if err := checkEvent(e); err != nil {
		return 0, err
	}
	terminal := isTerminal(e)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "job " + l.job + " has ended", Hint: "start a new job", Err: fs.ErrClosed}
	}
	limit := l.store.opts.MaxLogBytes
	if terminal {
		limit += terminalReserve
	}
	if l.size+int64(len(e))+1 > limit {
		return 0, &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: "the log of the job is full", Hint: "the job wrote more than a log may hold: split the work into smaller prompts"}
	}
	l.store.makeRoom()
	if err := l.write(e, terminal); err != nil {
		return 0, diskError("append to the log of job "+l.job, err)
	}
	l.publish(false)
	return l.lines, nil
}

// write puts the line behind the last one and syncs it when that is due. It
// writes at an offset and not with O_APPEND: so a half-written line is
// overwritten by the next one even if it could not be cut off.
func (l *Log) write(e dreamcore.Event, terminal bool) error {
	if l.torn {
		if err := l.cut(); err != nil {
			return err
		}
	}
	l.buf = append(append(l.buf[:0], e...), '\n')
	if !terminal { // which has its room already
		if err := l.reserve(len(l.buf)); err != nil {
			return err
		}
	}
	_, err := l.f.WriteAt(l.buf, l.size)
	due := terminal || time.Since(l.lastSync) >= l.store.opts.SyncInterval
	if err == nil && due {
		err = l.store.sync(l.f)
	}
	if err != nil {
		l.torn = true
		return errors.Join(err, l.cut())
	}
	if due {
		l.lastSync = time.Now()
	}
	l.unsynced = !due
	l.size += int64(len(l.buf))
	l.lines++
	if cap(l.buf) > keepBuffer {
		l.buf = nil
	}
	return nil
}

// cut removes what a failed write left behind the last whole line.
func (l *Log) cut() error {
	if err := l.f.Truncate(l.size); err != nil {
		return err
	}
	l.torn = false
	if l.reserved != math.MaxInt64 {
		l.reserved = l.size // what was reserved went with it
	}
	return nil
}

// publish shows readers the new end and wakes those who wait for one.
func (l *Log) publish(final bool) {
	next := &end{size: l.size, final: final}
	if !final {
		next.changed = make(chan struct{})
	}
	close(l.end.Swap(next).changed)
}

// Close ends the job: readers get what is left, then io.EOF. The events are on
// disk when it returns without an error. It may be called more than once.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	var errs []error
	if l.torn || l.reserved > l.size {
		errs = append(errs, l.cut()) // gives back what was reserved and not used
	}
	if l.unsynced {
		errs = append(errs, l.store.sync(l.f))
	}
	errs = append(errs, l.f.Close())
	l.buf = nil
	// Forgotten first: a Reader that does not find the log among the live
	// ones must find a file that is complete.
	l.store.forget(l)
	l.publish(true)
	if err := errors.Join(errs...); err != nil {
		return diskError("finish the log of job "+l.job, err)
	}
	return nil
}

// checkEvent refuses what would not be read back as one event. Carriage
// returns too: clients of event streams take them for ends of lines.
func checkEvent(e dreamcore.Event) error {
	switch {
	case len(e) > dreamcore.MaxEventBytes:
		return &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: "the event is too large: at most 16 MiB", Hint: "shorten the line"}
	case len(e) < 2 || e[0] != '{' || e[len(e)-1] != '}':
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the event is not a JSON object", Hint: "wrap the line into a log event"}
	case bytes.ContainsAny(e, "\r\n"):
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the event has a line break", Hint: "wrap the line into a log event"}
	}
	return nil
}

// isTerminal tells whether e is the last event of a job. The search spares
// nearly every event the JSON parser; our own events are never escaped.
func isTerminal(e dreamcore.Event) bool {
	if !bytes.Contains(e, []byte(`"done"`)) && !bytes.Contains(e, []byte(`"error"`)) {
		return false
	}
	t := dreamcore.EventType(e)
	return t == "done" || t == "error"
}
