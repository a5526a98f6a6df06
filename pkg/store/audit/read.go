package audit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Filter selects records. A zero field matches all.
type Filter struct {
	Since     time.Time
	User, Job string
}

func (f Filter) matches(e Entry) bool {
	return !e.Time.Before(f.Since) && (f.User == "" || f.User == e.User) && (f.Job == "" || f.Job == e.Job)
}

// pollInterval is the time between two reads of a log that is followed.
const pollInterval = 200 * time.Millisecond

// Read calls fn with the matching records in dir, the oldest first, each with its
// line as written. With follow it continues, across rotations, until ctx ends or fn
// fails; the end of ctx is not an error. A missing log is empty.
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

// reader reads one file after another.
type reader struct {
	root   *os.Root
	filter Filter
	fn     func(Entry, []byte) error

	f       *os.File // nil before the first file
	info    fs.FileInfo
	current bool  // f was the current file when it was opened
	offset  int64 // f was read up to here
}

func (r *reader) close() {
	if r.f != nil {
		_ = r.f.Close()
	}
}

// step reads the rest of the file and moves on to the next one if there is one.
// more reports whether it may be called again at once.
func (r *reader) step() (more bool, err error) {
	if r.f == nil {
		return r.next()
	}
	// The order matters: after a rotation, the rest of the old file is read before
	// the next one.
	rotated, err := r.rotated()
	if err != nil {
		return false, err
	}
	if err := r.read(); err != nil {
		return false, err
	}
	if !rotated {
		return false, nil
	}
	return r.next()
}

// rotated reports whether f is no longer the current file.
func (r *reader) rotated() (bool, error) {
	if !r.current {
		return true, nil
	}
	now, err := r.root.Stat(current)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // between two steps of a rotation
	}
	if err != nil {
		return false, diskError("stat the audit log", err)
	}
	return !os.SameFile(now, r.info), nil
}

// next opens the file after this one, or the oldest file.
func (r *reader) next() (bool, error) {
	names, err := files(r.root)
	if err != nil {
		return false, diskError("list the audit log", err)
	}
	old := len(names)
	names = append(names, current)
	from := 0
	if r.f != nil {
		// If f was removed, it was the oldest file, and all are newer: IndexFunc
		// returns -1.
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
		if again, err := files(r.root); name == current && err == nil && len(again) > 0 && (old == 0 || again[len(again)-1] != names[old-1]) {
			_ = f.Close() // there was a rotation between listing and opening
			return r.next()
		}
		r.close()
		r.f, r.info, r.current, r.offset = f, info, name == current, 0
		return true, nil
	}
	return false, nil
}

// read reads the whole lines from offset on.
func (r *reader) read() error {
	n, err := readLines(io.NewSectionReader(r.f, r.offset, 1<<62-r.offset), func(e Entry, raw []byte) error {
		if !r.filter.matches(e) {
			return nil
		}
		return r.fn(e, raw)
	})
	r.offset += n
	return err
}

// readLines calls fn with each record in the whole lines of src and returns the
// size of those lines.
func readLines(src io.Reader, fn func(Entry, []byte) error) (size int64, err error) {
	var failed error
	size, err = statefile.Lines(src, maxLine, func(raw []byte) bool {
		if e, ok := Decode(raw); ok {
			failed = fn(e, bytes.TrimRight(raw, "\r\n"))
		}
		return failed == nil
	})
	if err != nil {
		return size, diskError("read the audit log", err)
	}
	return size, failed
}
