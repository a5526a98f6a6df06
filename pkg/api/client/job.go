package client

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// jobHeader names the job of a stream. A backend on Modal does not send it.
const jobHeader = "X-Job-Id"

const (
	// maxResumes is how often in a row a stream is resumed without receiving
	// another event. The first ones are well within the time that a server waits for a
	// client to reconnect, all of them within the time that it waits after a restart.
	maxResumes = 6
	// resumePause is the first pause; each one is twice as long as the last, up to
	// maxResumePause.
	resumePause    = 500 * time.Millisecond
	maxResumePause = 4 * time.Second
	// cancelLimit bounds the request that cancels a job. If it fails, the server
	// notices a moment later that the client has disconnected.
	cancelLimit = 2 * time.Second
)

// following is the state of reading the events of a job.
type following struct {
	job     string // "" if the server does not name it
	streams int    // number of streams that have begun
	events  int
	last    uint64 // id of the last event; 0 if events have none
	broken  bool   // the last stream ended before its terminal event

	began func(job string) error // called once with the job; may be nil
	known bool                   // the caller knew the job before
	ended *dreamcore.Job         // its record, if it has no events after those of the caller; see isOver
}

// begin records the job from the header of a stream. The id becomes part of
// addresses, so only a UUID is accepted.
func (f *following) begin(h http.Header) error {
	f.streams++
	f.broken = false
	if id, err := dreamcore.ParseJobID(h.Get(jobHeader)); err == nil {
		f.job = id
	}
	if f.job == "" || f.began == nil {
		return nil
	}
	began := f.began
	f.began = nil
	if err := began(f.job); err != nil {
		return &stopped{err}
	}
	return nil
}

// received records the id of an event from its block.
func (f *following) received(block []byte) {
	f.events++
	f.last = 0
	for line := range bytes.Lines(block) {
		if value, found := bytes.CutPrefix(line, []byte("id:")); found {
			f.last, _ = strconv.ParseUint(string(bytes.TrimSpace(value)), 10, 64)
		}
	}
}

// resumable reports whether the events after the last one can be requested.
func (f *following) resumable() bool { return f.job != "" && (f.events == 0 || f.last > 0) }

// follow is stream for the events of a job. If the stream breaks, it requests
// the missing events from the server. A submission with a key that got no answer is
// sent again: the server may have accepted it.
func (c *Client) follow(ctx context.Context, f *following, r call, fn func(dreamcore.Event) error) error {
	err := c.stream(ctx, f, r, fn)
	for tries := 0; tries < maxResumes; tries++ {
		next := c.eventsAfter(f)
		switch {
		case c.isOver(ctx, f, err):
			return err
		case f.broken && f.resumable():
		case f.streams == 0 && r.key != "" && unanswered(err):
			next = r
		default:
			return err
		}
		select {
		case <-time.After(min(resumePause<<tries, maxResumePause)):
		case <-ctx.Done():
			return c.transportError(ctx, r.name, err)
		}
		streams, seen := f.streams, f.events
		again := c.stream(ctx, f, next, fn)
		switch {
		case f.streams > streams || ctx.Err() != nil:
			err = again
		case dreamcore.CodeOf(again) != dreamcore.CodeUnreachable && streams == 0:
			return again
		case dreamcore.CodeOf(again) != dreamcore.CodeUnreachable:
			return err // the server does not have the events; the first error says more
		}
		if f.events > seen {
			tries = -1
		}
	}
	c.isOver(ctx, f, err)
	return err
}

// isOver reports whether a stream without events ended with err because the job had
// ended with the last event that the caller has.
func (c *Client) isOver(ctx context.Context, f *following, err error) bool {
	if err == nil || !f.known || f.events > 0 || f.streams == 0 || ctx.Err() != nil || isStopped(err) {
		return false
	}
	if j, err := c.Job(ctx, f.job); err == nil && j.Final() && j.LastEventID <= f.last {
		f.ended = &j
	}
	return f.ended != nil
}

// unanswered reports whether a request may have reached the server, although no
// answer of it came back, or a proxy may reach the server soon.
func unanswered(err error) bool {
	if dreamcore.CodeOf(err) != dreamcore.CodeUnreachable {
		return false
	}
	switch dreamcore.ReasonOf(err) {
	case ReasonRefused, ReasonRedirect, ReasonTLS, ReasonTimeout:
		return false
	}
	_, unknown := errors.AsType[*net.DNSError](err)
	return !unknown
}

// cancelJob asks the server to cancel a job. A failure is not reported: a client
// that disconnects cancels the job as well.
func (c *Client) cancelJob(ctx context.Context, job string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelLimit)
	defer cancel()
	if resp, err := c.do(ctx, c.post("jobs/"+job+"/cancel", emptyBody)); err == nil {
		_ = resp.Body.Close()
	}
}
