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
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// terminalReserve is the space that a full log keeps for its terminal event and the
// note with it, so that a job that wrote too much can still report that.
const terminalReserve = 64 << 10

// noteReserve is the part of terminalReserve that notes may take: a full log has room
// for those of later attempts, and still for its end.
const noteReserve = terminalReserve / 2

// maxIdleBuffer bounds the buffers that are kept after a large event.
const maxIdleBuffer = 256 << 10

// Log is the log of one job, open for writing. Its methods are safe for
// concurrent use.
type Log struct {
	store *Store
	job   string
	end   atomic.Pointer[end] // how far readers may read
	left  time.Time           // when the log was last written before Reopen

	mu       sync.Mutex
	f        *os.File  // guarded by mu
	size     int64     // guarded by mu; size of the whole lines
	reserved int64     // guarded by mu; disk space is allocated up to this offset
	lines    uint64    // guarded by mu
	torn     bool      // guarded by mu; bytes beyond size could not be removed
	closed   bool      // guarded by mu
	cut      bool      // guarded by mu; closed by Suspend
	ended    bool      // guarded by mu; has its terminal event
	lastSync time.Time // guarded by mu
	unsynced bool      // guarded by mu
	buf      []byte    // guarded by mu
}

// end is the readable end of a log. It is immutable: the writer replaces it by the
// next one and closes changed.
type end struct {
	size    int64
	lines   uint64
	final   bool // the log is closed
	cut     bool // without a terminal event: the job will be continued
	changed chan struct{}
}

func newLog(s *Store, job string, f *os.File, size int64, lines uint64) *Log {
	l := &Log{store: s, job: job, f: f, size: size, lines: lines, lastSync: time.Now()}
	l.end.Store(&end{size: size, lines: lines, changed: make(chan struct{})})
	return l
}

// LeftAt returns when the log that Reopen has opened was last written before; the
// zero time for a new log.
func (l *Log) LeftAt() time.Time { return l.left }

// LastID returns the id of the last event, or 0 before the first one.
func (l *Log) LastID() uint64 { return l.end.Load().lines }

// Job returns the id of the job.
func (l *Log) Job() string { return l.job }

// Append writes one event and returns its id. It may wait for the disk but never
// for a reader. After an error the log is unchanged, and a later Append may
// succeed. CodeInvalid: the event is not one JSON object on one line; CodeTooLarge:
// the event is larger than dreamcore.MaxEventBytes, or the log is full (a small
// terminal event still fits); CodeSetup: the disk is full. After Close the error
// wraps fs.ErrClosed.
func (l *Log) Append(e dreamcore.Event) (id uint64, err error) { return l.append(nil, e) }

// append writes a note, which may be nil, and an event in one piece.
func (l *Log) append(note []byte, e dreamcore.Event) (id uint64, err error) {
	if err := checkEvent(e); err != nil {
		return 0, err
	}
	terminal := isTerminal(e)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, l.errClosed()
	}
	limit := l.store.opts.MaxLogBytes
	if terminal {
		limit += terminalReserve
	}
	if l.size+int64(len(note)+len(e))+1 > limit {
		return 0, errFull()
	}
	l.store.makeRoom()
	l.buf = append(append(append(l.buf[:0], note...), e...), '\n')
	if err := l.write(terminal, terminal); err != nil {
		return 0, statefile.Error("append to the log of job "+l.job, err)
	}
	l.lines++
	l.ended = terminal
	l.publish(false)
	return l.lines, nil
}

func errFull() error {
	return &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: "the log of the job is full", Hint: "the job wrote more events than a log can hold: split the work into smaller prompts"}
}

func (l *Log) errClosed() error {
	return &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "job " + l.job + " has ended", Hint: "start a new job", Err: fs.ErrClosed}
}

// write appends the lines in buf and syncs when that is due. reserved says that
// their space is allocated already. It writes at an offset, not with O_APPEND, so
// that the next line overwrites a half-written one even if that could not be
// removed.
func (l *Log) write(reserved, durable bool) error {
	if l.torn {
		if err := l.truncate(); err != nil {
			return err
		}
	}
	if !reserved {
		if err := l.reserve(len(l.buf)); err != nil {
			return err
		}
	}
	_, err := l.f.WriteAt(l.buf, l.size)
	due := durable || time.Since(l.lastSync) >= l.store.opts.SyncInterval
	if err == nil && due {
		err = l.store.sync(l.f)
	}
	if err != nil {
		l.torn = true
		return errors.Join(err, l.truncate())
	}
	if due {
		l.lastSync = time.Now()
	}
	l.unsynced = !due
	l.size += int64(len(l.buf))
	if cap(l.buf) > maxIdleBuffer {
		l.buf = nil
	}
	return nil
}

// truncate removes what a failed write left after the last whole line.
func (l *Log) truncate() error {
	if err := l.f.Truncate(l.size); err != nil {
		return err
	}
	l.torn = false
	if l.reserved != math.MaxInt64 {
		l.reserved = l.size // truncating freed the allocated space
	}
	return nil
}

// publish sets the new end and wakes the readers that wait for it.
func (l *Log) publish(final bool) {
	next := &end{size: l.size, lines: l.lines, final: final, cut: l.cut}
	if !final {
		next.changed = make(chan struct{})
	}
	close(l.end.Swap(next).changed)
}

// Close ends the log: readers get the remaining events, then io.EOF. If it returns
// nil, all events are on the disk. It may be called more than once.
func (l *Log) Close() error { return l.close(false) }

// Suspend is Close for a job that another process will continue: readers get the
// remaining events, then Follow ends with ErrSuspended.
func (l *Log) Suspend() error { return l.close(true) }

func (l *Log) close(suspend bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed, l.cut = true, suspend
	var errs []error
	if l.torn || l.reserved > l.size {
		errs = append(errs, l.truncate()) // frees the allocated space that was not used
	}
	if l.unsynced {
		errs = append(errs, l.store.sync(l.f))
	}
	errs = append(errs, l.f.Close())
	l.buf = nil
	// The order matters: a Reader that does not find the log in live must find a
	// complete file.
	l.store.forget(l)
	l.publish(true)
	if err := errors.Join(errs...); err != nil {
		return statefile.Error("finish the log of job "+l.job, err)
	}
	return nil
}

// checkEvent refuses an event that would not be read back as one. It refuses
// carriage returns too, which clients of event streams take for line breaks.
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

// isTerminal reports whether e is the last event of a job. The search avoids the
// JSON parser for nearly every event; the service's own events are never escaped.
func isTerminal(e dreamcore.Event) bool {
	if !bytes.Contains(e, []byte(`"done"`)) && !bytes.Contains(e, []byte(`"error"`)) {
		return false
	}
	t := dreamcore.EventType(e)
	return t == "done" || t == "error"
}
