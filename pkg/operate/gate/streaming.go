package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

const (
	leastChunks = 5
	mostChunks  = 60
	shortestGap = 500 * time.Millisecond
	longestGap  = 2 * time.Second
	// grace is the time within which the answer must end after its last event.
	grace = 5 * time.Second
)

// errNoEnd is the cause of a stream that continues after its last event.
var errNoEnd = errors.New("the answer does not end after its last event")

// chunks checks the events of the test stream as they arrive.
type chunks struct {
	arrived []time.Time
	done    bool
	onDone  func() // called once, at the done event
}

// fault is an error in the content of a stream.
type fault string

func (f fault) Error() string { return string(f) }

func checkStreaming(ctx context.Context, c Config) verdict {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	end := time.AfterFunc(time.Hour, func() { cancel(errNoEnd) })
	end.Stop()
	defer end.Stop()
	s := chunks{onDone: func() { end.Reset(grace) }}
	err := c.Client.TestStream(ctx, s.check)
	var f fault
	switch {
	case errors.As(err, &f):
		return failed(string(f))
	case errors.Is(err, errNoEnd):
		return failed(errNoEnd.Error())
	case err != nil && len(s.arrived) > 0:
		after := fmt.Sprintf("after %d chunks", len(s.arrived))
		v := failedBy(fmt.Errorf("%s: %w", after, err))
		v.until = ", " + after
		return v
	case err != nil:
		return failedBy(err)
	case !s.done:
		return failed("the stream has no done event")
	}
	return s.verdict()
}

// check checks one event: counts from 1 without gaps, then done, then nothing.
func (s *chunks) check(e dreamcore.Event) error {
	var event map[string]json.RawMessage
	if err := json.Unmarshal(e, &event); err != nil {
		return fault("an event is not a JSON object: " + quote(string(e)))
	}
	count, isChunk := event["count"]
	kind := string(event["type"])
	switch {
	case s.done:
		return fault("an event after done: " + quote(string(e)))
	case kind == `"done"`:
		s.done = true
		s.onDone()
		return nil
	case kind == `"error"` || !isChunk:
		return fault("an event is neither a chunk nor done: " + quote(string(e)))
	}
	want := len(s.arrived) + 1
	if string(count) != strconv.Itoa(want) {
		return fault(fmt.Sprintf("chunk %d has the count %s", want, quote(string(count))))
	}
	if want > mostChunks {
		return fault(fmt.Sprintf("more than %d chunks", mostChunks))
	}
	s.arrived = append(s.arrived, time.Now())
	return nil
}

// verdict checks the times between chunks.
func (s *chunks) verdict() verdict {
	n := len(s.arrived)
	if n < leastChunks {
		return failed(fmt.Sprintf("%d chunks, not %d", n, leastChunks))
	}
	if s.arrived[n-1].Sub(s.arrived[0]) < shortestGap {
		return failed(fmt.Sprintf("all %d chunks arrived at once: the stream is buffered on the way", n))
	}
	low, high := time.Duration(1<<62), time.Duration(0)
	for i := 1; i < n; i++ {
		gap := s.arrived[i].Sub(s.arrived[i-1])
		if gap < shortestGap || gap > longestGap {
			return failed(fmt.Sprintf("chunk %d arrived %s after the previous one, not 0.5 to 2 s", i+1, term.Duration(gap)))
		}
		low, high = min(low, gap), max(high, gap)
	}
	return passed(fmt.Sprintf("%d chunks, %.2f to %.2f s apart", n, low.Seconds(), high.Seconds()))
}
