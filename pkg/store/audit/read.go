package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// Filter chooses records. A zero field chooses all.
type Filter struct {
	Since     time.Time
	User, Job string
}

func (f Filter) takes(e Entry) bool {
	return !e.Time.Before(f.Since) && (f.User == "" || f.User == e.User) && (f.Job == "" || f.Job == e.Job)
}

// pollInterval is how often a log that is followed is looked at.
const pollInterval = 200 * time.Millisecond

// Read calls fn with the chosen records in dir, the oldest first, each with its
// line as it is written. With follow it goes on, over rotations, until ctx ends
// or fn fails; the end of ctx is no error. A log that is not there is empty.
func Read(ctx context.Context, dir string, filter Filter, follow bool, fn func(e Entry, raw []byte) error) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) && !follow {
		return nil
	}
	if err != nil {
		return diskError("open the audit log", err)
	}
	defer root.Close()
	r := &reader{root: root, filter: filter, fn: fn}
	defer r.close()
	for ctx.Err() == nil {
		more, err := r.step()
		if err != nil {
			return err
		}
		if more {
			continue
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollInterval):
		}
	}
	return nil
}

// reader reads one file after the other.
type reader struct {
	root   *os.Root
	filter Filter
	fn     func(Entry, []byte) error

	f       *os.File // nil before the first
	info    fs.FileInfo
	current bool  // f was the file that is written when it was opened
	offset  int64 // of what was read of f
}

func (r *reader) close() {
	if r.f != nil {
		_ = r.f.Close()
	}
}

// step reads what there is of the file, and goes to the next where there is
// one. It tells whether there may be more at once.
func (r *reader) step() (more bool, err error) {
	if r.f == nil {
		return r.next()
	}
	// Looked at first: what is written after the last look at a file that was
	// put away is read before the next one is.
	passed, err := r.passed()
	if err != nil {
		return false, err
	}
	if err := r.read(); err != nil {
		return false, err
	}
	if !passed {
		return false, nil
	}
	return r.next()
}

// passed tells whether the file is no longer the one that is written.
func (r *reader) passed() (bool, error) {
	if !r.current {
		return true, nil
	}
	now, err := r.root.Stat(current)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // between two steps of a rotation
	}
	if err != nil {
		return false, diskError("look at the audit log", err)
	}
	return !os.SameFile(now, r.info), nil
}

// next opens the file after this one, or the oldest.
func (r *reader) next() (bool, error) {
	names, err := files(r.root)
	if err != nil {
		return false, diskError("list the audit log", err)
	}
	put := len(names) // away, by now
	names = append(names, current)
	from := 0
	if r.f != nil {
		// Of a file that is gone, all are after it: it was the oldest.
		from = 1 + slices.IndexFunc(names, func(name string) bool {
			info, err := r.root.Stat(name)
			return err == nil && os.SameFile(info, r.info)
		})
	}
	for _, name := range names[from:] {
		f, err := r.root.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, diskError("open the audit log", err)
		}
		info, err := f.Stat()
		if err != nil {
			_ = f.Close()
			return false, diskError("open the audit log", err)
		}
		if again, err := files(r.root); name == current && err == nil && len(again) > 0 && (put == 0 || again[len(again)-1] != names[put-1]) {
			_ = f.Close() // one was put away between the list and the opening
			return r.next()
		}
		r.close()
		r.f, r.info, r.current, r.offset = f, info, name == current, 0
		return true, nil
	}
	return false, nil
}

// read reads the whole lines that there are.
func (r *reader) read() error {
	n, err := readLines(io.NewSectionReader(r.f, r.offset, 1<<62-r.offset), func(e Entry, raw []byte) error {
		if !r.filter.takes(e) {
			return nil
		}
		return r.fn(e, raw)
	})
	r.offset += n
	return err
}

// readLines calls fn with each record of whole lines in src and returns how
// many bytes these have: what follows the last newline may still be written.
func readLines(src io.Reader, fn func(Entry, []byte) error) (size int64, err error) {
	br := bufio.NewReaderSize(src, maxLine)
	for tooLong := false; ; {
		raw, err := br.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			tooLong = true
			size += int64(len(raw))
			continue
		case errors.Is(err, io.EOF):
			return size, nil
		case err != nil:
			return size, diskError("read the audit log", err)
		}
		size += int64(len(raw))
		if e, ok := Decode(raw); ok && !tooLong {
			if err := fn(e, bytes.TrimRight(raw, "\r\n")); err != nil {
				return size, err
			}
		}
		tooLong = false
	}
}
