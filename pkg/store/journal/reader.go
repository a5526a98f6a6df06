package journal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// readBuffer is the size of a reader's buffer. A longer line grows the buffer until
// it has been returned.
const readBuffer = 32 << 10

// Entry is an event and its id.
type Entry struct {
	ID    uint64          // number of the event in its log, from 1
	Event dreamcore.Event // owned by the caller
}

// Reader reads the events of a job in order. It must not be used concurrently.
type Reader struct {
	f     *os.File
	unpin func() // allows the log to be removed
	live  *Log   // nil if this process is not writing the log
	left  bool   // this process has not closed the log for good: see checkEnd
	size  int64
	after uint64
	id    uint64 // of the last line returned by nextLine

	space   []byte // backing array of buf
	buf     []byte // read but not yet returned
	scanned int    // buf[:scanned] has no newline
	offset  int64  // file offset of the end of buf
	maxLine int    // maximum line length, newline included
}

// Reader returns a Reader for the events of a job whose ids are greater than after;
// 0 means all. The job may be running or may have ended, in this process or an
// earlier one. CodeNotFound: there is no such job. The caller must Close the
// Reader.
func (s *Store) Reader(job string, after uint64) (*Reader, error) {
	name, err := fileName(job)
	if err != nil {
		return nil, errNotFound(job, err)
	}
	job = strings.TrimSuffix(name, extension)
	unpin, err := s.pin(job)
	if err != nil {
		return nil, err
	}
	f, err := s.root.Open(name)
	if err != nil {
		unpin()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotFound(job, err)
	}
	if err != nil {
		return nil, statefile.Error("open the log of job "+job, err)
	}
	// The order matters: the file exists, so a log that is not live now has ended,
	// and the size read after that is final.
	s.mu.Lock()
	live, endless := s.live[job], s.endless[job]
	s.mu.Unlock()
	info, err := f.Stat()
	if err != nil {
		unpin()
		return nil, errors.Join(statefile.Error("open the log of job "+job, err), f.Close())
	}
	return &Reader{f: f, unpin: unpin, live: live, left: live == nil && !endless, size: info.Size(), after: after, maxLine: dreamcore.MaxEventBytes + 1}, nil
}

// pin prevents a log from being removed until unpin is called, which may be
// repeated.
func (s *Store) pin(job string) (unpin func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errStoreClosed()
	}
	s.readers[job]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.readers[job]--; s.readers[job] == 0 {
			delete(s.readers, job)
		}
	}), nil
}

// Next returns the next event, and waits for it while the job runs. After the last
// event of a job that has ended it returns io.EOF; a torn last line, left by a
// crash, is not an event. When ctx ends, Next returns the error of ctx, and the
// Reader can be used again.
func (r *Reader) Next(ctx context.Context) (Entry, error) {
	if err := ctx.Err(); err != nil {
		return Entry{}, err
	}
	for {
		line, ok := r.nextLine()
		if !ok {
			if err := r.fill(ctx); err != nil {
				return Entry{}, err
			}
			continue
		}
		if isNote(line) {
			continue
		}
		r.id++
		if r.id > r.after {
			return Entry{ID: r.id, Event: bytes.Clone(line)}, nil
		}
	}
}

// Close closes the Reader. Next must not be running.
func (r *Reader) Close() error {
	r.unpin()
	return r.f.Close()
}

// nextLine removes the first whole line from the buffer and returns it without
// its newline. The line is valid until the next fill.
func (r *Reader) nextLine() (line []byte, ok bool) {
	i := bytes.IndexByte(r.buf[r.scanned:], '\n')
	if i < 0 {
		r.scanned = len(r.buf)
		return nil, false
	}
	i += r.scanned
	line, r.buf, r.scanned = r.buf[:i], r.buf[i+1:], 0
	if len(r.buf) == 0 && cap(r.space) > maxIdleBuffer {
		r.space, r.buf = nil, nil // a waiting reader keeps no large buffer
	}
	return line, true
}

// fill reads more of the file, and waits until it has more.
func (r *Reader) fill(ctx context.Context) error {
	e, err := r.await(ctx)
	if err != nil {
		return err
	}
	r.makeRoom()
	if len(r.buf) == cap(r.buf) {
		return &dreamcore.Error{
			Code:    dreamcore.CodeInternal,
			Message: "the log of the job is damaged: a line is too long",
			Hint:    "the events before it are intact; check the disk of the state directory (dmesg names its errors)",
		}
	}
	free := r.buf[len(r.buf):cap(r.buf)]
	free = free[:min(int64(len(free)), e.size-r.offset)]
	n, err := r.f.ReadAt(free, r.offset)
	r.buf = r.buf[:len(r.buf)+n]
	r.offset += int64(n)
	if n > 0 || err == nil {
		return nil
	}
	if err == io.EOF {
		// The file is shorter than the data that was written to it.
		err = io.ErrUnexpectedEOF
	}
	return statefile.Error("read "+r.f.Name(), err)
}

// await returns the first end of the log beyond r.offset.
func (r *Reader) await(ctx context.Context) (*end, error) {
	for {
		e := r.end()
		switch {
		case e.size > r.offset:
			return e, ctx.Err()
		case e.final:
			return nil, io.EOF
		}
		select {
		case <-e.changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r *Reader) end() *end {
	if r.live != nil {
		return r.live.end.Load()
	}
	return &end{size: r.size, final: true}
}

// makeRoom makes free space at the end of the buffer, for at most one line of the
// maximum length.
func (r *Reader) makeRoom() {
	want := readBuffer
	for want < len(r.buf)+readBuffer/2 {
		want *= 2
	}
	want = min(want, r.maxLine)
	oversized := cap(r.space) > max(want, maxIdleBuffer)
	if cap(r.buf)-len(r.buf) >= readBuffer/2 && !oversized {
		return
	}
	if cap(r.space) < want || oversized {
		r.space = make([]byte, max(want, len(r.buf)))
	}
	r.buf = r.space[:copy(r.space, r.buf)]
}

// countEvents returns the number of events of a log and the size of its whole
// lines in bytes.
func countEvents(f *os.File) (size int64, events uint64, err error) {
	buf := make([]byte, maxIdleBuffer)
	first, note := true, false // of the current line: no byte was read yet; it is a note
	for offset := int64(0); ; {
		n, err := f.ReadAt(buf, offset)
		for at := 0; at < n; {
			if first {
				first, note = false, buf[at] == noteMark
			}
			length := bytes.IndexByte(buf[at:n], '\n')
			if length < 0 {
				break
			}
			if !note {
				events++
			}
			at += length + 1
			size, first = offset+int64(at), true
		}
		offset += int64(n)
		if err == io.EOF {
			return size, events, nil
		}
		if err != nil {
			return 0, 0, err
		}
	}
}

// Last returns the last event of a job so far, which is its terminal event if the
// job has ended, or nil if there is no event yet. CodeNotFound: there is no such
// job.
func (s *Store) Last(job string) (dreamcore.Event, error) {
	r, err := s.Reader(job, 0)
	if err != nil {
		return nil, err
	}
	line, err := lastEvent(r.f)
	if err != nil {
		err = statefile.Error("read the end of "+r.f.Name(), err)
	}
	return line, errors.Join(err, r.Close())
}

// endsTerminal reports whether the last event of f is a terminal one.
func endsTerminal(f *os.File) (bool, error) {
	line, err := lastEvent(f)
	return line != nil && isTerminal(line), err
}

// lastEvent returns the last whole line of f that is no note, without its newline,
// or nil without one, or if it is too long for an event.
func lastEvent(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	stop, err := lastNewline(f, info.Size())
	for err == nil && stop >= 0 {
		var start int64
		if start, err = lastNewline(f, stop); err != nil {
			break
		}
		if stop-start-1 > dreamcore.MaxEventBytes {
			return nil, nil // not written by Append, so not a terminal event either
		}
		line := make([]byte, stop-start-1)
		if _, err := f.ReadAt(line, start+1); err != nil && err != io.EOF {
			return nil, err
		}
		if !isNote(line) {
			return line, nil
		}
		stop = start
	}
	return nil, err
}

// lastNewline returns the offset of the last newline before the offset before, or
// -1.
func lastNewline(f *os.File, before int64) (int64, error) {
	buf := make([]byte, readBuffer)
	for before > 0 {
		start := max(0, before-int64(len(buf)))
		n, err := f.ReadAt(buf[:before-start], start)
		if err != nil && err != io.EOF {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return start + int64(i), nil
		}
		before = start
	}
	return -1, nil
}
