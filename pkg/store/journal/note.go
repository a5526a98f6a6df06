package journal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// noteMark begins each line that is a note. An event begins with '{'.
const noteMark = '#'

// MaxNoteBytes bounds a note. It has room for the longest prompt, each of whose
// bytes may be escaped.
const MaxNoteBytes = 4 << 20 // less than dreamcore.MaxEventBytes

func isNote(line []byte) bool { return len(line) > 0 && line[0] == noteMark }

// Note writes a note, a JSON object on one line, and syncs it. Readers of events do
// not see it. It fails like Append; a log that is full of events has room for some
// notes.
func (l *Log) Note(note []byte) error {
	if err := checkNote(note); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.errClosed()
	}
	l.buf = noteLine(l.buf[:0], note)
	if l.size+int64(len(l.buf)) > l.store.opts.MaxLogBytes+noteReserve {
		return errFull()
	}
	l.store.makeRoom()
	if err := l.write(false, true); err != nil {
		return statefile.Error("append to the log of job "+l.job, err)
	}
	l.publish(false)
	return nil
}

// End writes a note and the terminal event in one piece, so that the log never has
// the event without the note. It fails like Append.
func (l *Log) End(note []byte, e dreamcore.Event) (id uint64, err error) {
	if err := checkNote(note); err != nil {
		return 0, err
	}
	return l.append(noteLine(nil, note), e)
}

func noteLine(buf, note []byte) []byte {
	return append(append(append(buf, noteMark), note...), '\n')
}

func checkNote(note []byte) error {
	if len(note) > MaxNoteBytes || bytes.ContainsAny(note, "\r\n") {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the note is too long or has a line break"}
	}
	return nil
}

// Account is what a log says about its job as a whole.
type Account struct {
	Notes  [][]byte        // in order
	LastID uint64          // of the last event; 0 without events
	Last   dreamcore.Event // the last event; nil without events
	Size   int64           // of the whole lines, in bytes
	Info   os.FileInfo     // of the file; its time is that of the last write
	Owner  string          // as SetOwner has recorded it, or ""
	Untold bool            // SetUntold was called, and Told was not
}

// Ended reports whether the last event is a terminal one.
func (a Account) Ended() bool { return a.Last != nil && isTerminal(a.Last) }

// Account reads the whole log of a job. each, which may be nil, is called with each
// event; the event is valid during the call only. CodeNotFound: there is no such
// job.
func (s *Store) Account(job string, each func(dreamcore.Event)) (a Account, err error) {
	r, err := s.Reader(job, 0)
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if a.Info, err = r.f.Stat(); err != nil {
		return a, statefile.Error("read "+r.f.Name(), err)
	}
	a.Owner, a.Untold = ownerOf(r.f), isUntold(r.f)
	// Lines that are written meanwhile are not read.
	r.live, r.size = nil, a.Info.Size()
	for {
		line, ok := r.nextLine()
		if !ok {
			if err := r.fill(context.Background()); errors.Is(err, io.EOF) {
				return a, nil
			} else if err != nil {
				return a, err
			}
			continue
		}
		a.Size += int64(len(line)) + 1
		if isNote(line) {
			a.Notes = append(a.Notes, bytes.Clone(line[1:]))
			continue
		}
		a.LastID++
		a.Last = append(a.Last[:0], line...)
		if each != nil {
			each(line)
		}
	}
}
