package client

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// jobHeader names the job of a stream. A backend on Modal does not send it.
const jobHeader = "X-Job-Id"

const (
	// maxResumes is how often in a row a stream is resumed without receiving
	// another event. With the pauses in between, this is well within the time
	// that a server waits for a client to reconnect.
	maxResumes = 3
	// resumePause is the first pause; each one is twice as long as the last.
	resumePause = 500 * time.Millisecond
	// cancelLimit bounds the request that cancels a job. If it fails, the server
	// notices a moment later that the client has disconnected.
	cancelLimit = 2 * time.Second
)

// following is the state of reading the events of a job. The methods accept a
// nil following and then record nothing.
type following struct {
	job     string // "" if the server does not name it
	streams int    // number of streams that have begun
	events  int
	last    uint64 // id of the last event; 0 if events have none
	broken  bool   // the last stream ended before its terminal event
}

// begin records the job from the header of a stream. The id becomes part of
// addresses, so only a UUID is accepted.
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

// received records the id of an event from its block.
func (f *following) received(block []byte) {
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

// breaks records that the stream was interrupted.
func (f *following) breaks() {
	if f != nil {
		f.broken = true
	}
}

// resumable reports whether the events after the last one can be requested.
func (f *following) resumable() bool { return f.job != "" && (f.events == 0 || f.last > 0) }

// follow is stream for the events of a job. If the stream breaks, it requests
// the missing events from the server.
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
			return err // the server does not have the events; the first error says more
		}
		if f.events > seen {
			tries = -1
		}
	}
	return err
}

// eventsAfter returns the request for the events that f has not received.
func (c *Client) eventsAfter(f *following) call {
	r := call{name: "jobs/" + f.job + "/events", method: http.MethodGet, secret: c.secret()}
	if f.last > 0 {
		r.after = strconv.FormatUint(f.last, 10)
	}
	return r
}

// cancelJob asks the server to cancel a job. A failure is not reported: a client
// that disconnects cancels the job as well.
func (c *Client) cancelJob(ctx context.Context, job string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelLimit)
	defer cancel()
	if resp, err := c.do(ctx, c.post("jobs/"+job+"/cancel", []byte("{}"))); err == nil {
		_ = resp.Body.Close()
	}
}
