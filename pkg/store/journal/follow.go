package journal

import (
	"context"
	"errors"
	"io"
	"iter"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Terminal reports whether e is the last event of its job.
func (e Entry) Terminal() bool { return isTerminal(e.Event) }

// ErrSuspended ends the reading of a job that has not ended, but that this process
// does not run: it is about to be continued, or another process runs it. The next
// event has the next id.
var ErrSuspended = errors.New("the job is suspended while the service restarts")

// Follow iterates over the remaining events of a job and waits for further ones
// while the job runs. It ends after the job has closed its log, which is shortly
// after the terminal event. An error is the last element: ctx's error, a failed
// read, ErrSuspended, or CodeInternal if this process has closed the log without a
// terminal event.
func (r *Reader) Follow(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for {
			e, err := r.Next(ctx)
			if errors.Is(err, io.EOF) {
				if err = r.checkEnd(); err != nil {
					yield(Entry{}, err)
				}
				return
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// checkEnd returns an error unless the log, which was closed, has a terminal
// event.
func (r *Reader) checkEnd() error {
	ended, err := endsTerminal(r.f)
	if err != nil {
		return statefile.Error("read the end of "+r.f.Name(), err)
	}
	// A log that this process has not written says nothing about the end of the job. To
	// report one would be wrong: the job is taken up, and ends otherwise.
	if !ended && (r.left || r.end().cut) {
		return ErrSuspended
	}
	if !ended {
		return &dreamcore.Error{
			Code: dreamcore.CodeInternal, Message: "the log of the job has no terminal event",
			Hint: "see the log of the service; most often the disk is full",
		}
	}
	return nil
}
