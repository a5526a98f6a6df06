package client

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// jobHeader names the job of a stream. The old backend does not send it.
const jobHeader = "X-Job-Id"

const (
	// maxResumes is how often in a row a stream that breaks without another
	// event is taken up again. With the pauses between, that is well within the
	// time that a server waits for a client to come back.
	maxResumes = 3
	// resumePause is the first pause; each one is twice as long as the last.
	resumePause = 500 * time.Millisecond
	// cancelLimit bounds the request that cancels a job: without it, the server
	// notices a moment later that its client has gone.
	cancelLimit = 2 * time.Second
)

// following is what a client knows of the job whose events it reads. A nil
// following learns nothing.
type following struct {
	job     string // "" if the server does not name it
	streams int    // that have begun
	events  int
	last    uint64 // id of the last event; 0 if events have none
	broken  bool   // the last stream has ended before its terminal event
}

// begin learns from the header of a stream. The id goes into addresses, so
// only a UUID is taken for one.
func (f *following) begin(h http.Header) {
	if f == nil {
		return
	}
	f.streams++
	f.broken = false
	if id, err := dreamcore.ParseJobID(h.Get(jobHeader)); err == nil {
		f.job = id
	}
}

// took learns from an event's block that the event is delivered.
func (f *following) took(block []byte) {
	if f == nil {
		return
	}
	f.events++
	f.last = 0
	for line := range bytes.Lines(block) {
		if value, found := bytes.CutPrefix(line, []byte("id:")); found {
			f.last, _ = strconv.ParseUint(string(bytes.TrimSpace(value)), 10, 64)
		}
	}
}

// breaks notes that the stream was cut.
func (f *following) breaks() {
	if f != nil {
		f.broken = true
	}
}

// resumable reports whether the events after the last one can be asked for.
func (f *following) resumable() bool { return f.job != "" && (f.events == 0 || f.last > 0) }

// follow is stream for the events of a job. Where the stream breaks, it asks
// the server for the events that are missing.
func (c *Client) follow(ctx context.Context, f *following, r call, fn func(dreamcore.Event) error) error {
	err := c.stream(ctx, f, r, fn)
	for tries := 0; f.broken && f.resumable() && tries < maxResumes; tries++ {
		select {
		case <-time.After(resumePause << tries):
		case <-ctx.Done():
			return c.transportError(ctx, r.name, err)
		}
		streams, seen := f.streams, f.events
		again := c.stream(ctx, f, c.eventsAfter(f), fn)
		switch {
		case f.streams > streams || ctx.Err() != nil:
			err = again
		case dreamcore.CodeOf(again) != dreamcore.CodeUnreachable:
			return err // the server does not have the events: that the stream was cut says more
		}
		if f.events > seen {
			tries = -1
		}
	}
	return err
}

// eventsAfter returns the request for the events that f has not seen.
func (c *Client) eventsAfter(f *following) call {
	r := call{name: "jobs/" + f.job + "/events", method: http.MethodGet, secret: c.secret()}
	if f.last > 0 {
		r.after = strconv.FormatUint(f.last, 10)
	}
	return r
}

// cancelJob asks the server to cancel a job. A failure is not reported: the
// client has gone by then, which cancels the job as well.
func (c *Client) cancelJob(ctx context.Context, job string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelLimit)
	defer cancel()
	if resp, err := c.do(ctx, c.post("jobs/"+job+"/cancel", []byte("{}"))); err == nil {
		_ = resp.Body.Close()
	}
}
