package browser

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/cdp/jsonv2"
	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/inspector"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/target"
)

const (
	maxMessage = 8 << 20  // bytes of a message of the browser; longer ones are skipped
	maxQueued  = 4096     // events of a session that wait for its reader; more are dropped
	maxWaiting = 32 << 20 // bytes of the events of all sessions that wait
	maxUnsent  = 1024     // messages that the browser has not read
)

var (
	errClosed = errors.New("the browser has ended")
	errBusy   = errors.New("the browser reads no messages")
)

// pipe is the connection to a browser: JSON messages that end in a zero byte,
// on two pipes that no page can reach. Everything the browser sends may be a
// page's doing, so messages and queues are bounded.
type pipe struct {
	w    io.WriteCloser
	out  chan []byte   // messages to be written; the browser may be too busy to read them
	done chan struct{} // closed when the browser's end is closed

	mu       sync.Mutex
	last     int64
	calls    map[int64]chan answer
	sessions map[target.SessionID]*session
	closed   bool

	waiting atomic.Int64 // bytes of the events that wait
}

type answer struct {
	result jsonv2.Value
	err    error
}

// message is a message of the browser, or one to it.
type message struct {
	ID        int64            `json:"id,omitzero"`
	SessionID target.SessionID `json:"sessionId,omitzero"`
	Method    string           `json:"method,omitzero"`
	Params    jsonv2.Value     `json:"params,omitzero"`
	Result    jsonv2.Value     `json:"result,omitzero"`
	Error     *struct {
		Code    int64  `json:"code"`
		Message string `json:"message"`
	} `json:"error,omitzero"`
}

// newPipe returns a connection that reads r until its end. It closes both.
func newPipe(r io.ReadCloser, w io.WriteCloser) *pipe {
	p := &pipe{w: w, out: make(chan []byte, maxUnsent), done: make(chan struct{}), calls: map[int64]chan answer{}, sessions: map[target.SessionID]*session{}}
	go func() {
		p.read(bufio.NewReaderSize(r, 256<<10))
		_ = r.Close()
	}()
	go p.write()
	return p
}

// write writes messages until the browser has ended.
func (p *pipe) write() {
	defer p.w.Close()
	for {
		select {
		case raw := <-p.out:
			if _, err := p.w.Write(raw); err != nil {
				return
			}
		case <-p.done:
			return
		}
	}
}

// read dispatches messages until the browser closes its end.
func (p *pipe) read(r *bufio.Reader) {
	defer p.end()
	var buf []byte
	for {
		raw, long, err := next(r, buf[:0])
		if err != nil {
			return
		}
		buf = raw
		if long {
			p.refuse(raw)
			continue
		}
		p.dispatch(raw)
		if cap(buf) > 1<<20 {
			buf = nil
		}
	}
}

// next reads a message into buf. Of a message that is too long it returns only
// the beginning.
func next(r *bufio.Reader, buf []byte) (raw []byte, long bool, err error) {
	for {
		part, err := r.ReadSlice(0)
		if len(buf)+len(part) > maxMessage {
			long = true
			buf = append(buf, part[:min(len(part), max(0, 256-len(buf)))]...)
			buf = buf[:min(len(buf), 256)]
		} else if !long {
			buf = append(buf, part...)
		}
		switch {
		case err == nil:
			return bytes.TrimSuffix(buf, []byte{0}), long, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, false, err
		}
	}
}

// refuse fails the call whose answer was too long.
func (p *pipe) refuse(start []byte) {
	var id int64
	if _, err := fmt.Sscanf(string(start), `{"id":%d,`, &id); err == nil {
		p.answer(id, answer{err: errors.New("the browser's answer is too long")})
	}
}

func (p *pipe) dispatch(raw []byte) {
	var m message
	if err := jsonv2.Unmarshal(raw, &m, jsonv2.AllowInvalidUTF8(true)); err != nil {
		return
	}
	if m.ID != 0 {
		a := answer{result: bytes.Clone(m.Result)}
		if m.Error != nil {
			a.err = errors.New(m.Error.Message)
		}
		p.answer(m.ID, a)
		return
	}
	p.mu.Lock()
	s := p.sessions[m.SessionID]
	p.mu.Unlock()
	if s != nil {
		s.push(event{method: m.Method, params: bytes.Clone(m.Params)})
	}
}

func (p *pipe) answer(id int64, a answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.calls[id]; c != nil {
		delete(p.calls, id)
		c <- a // has room for one
	}
}

// end fails the calls that wait and ends the sessions.
func (p *pipe) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	close(p.done)
	for id, c := range p.calls {
		delete(p.calls, id)
		c <- answer{err: errClosed}
	}
	for _, s := range p.sessions {
		s.close()
	}
}

// session opens the session with an id; "" is the browser's own.
func (p *pipe) session(id target.SessionID) *session {
	s := &session{pipe: p, id: id, wake: make(chan struct{}, 1)}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sessions[id] = s
	if p.closed {
		s.close()
	}
	return s
}

// forget ends a session and drops it.
func (p *pipe) forget(id target.SessionID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.sessions[id]; s != nil && id != "" {
		s.close()
		delete(p.sessions, id)
	}
}

// reserve takes bytes of an event from the budget of all sessions, and reports
// whether there are as many.
func (p *pipe) reserve(size, limit int64) bool {
	if p.waiting.Add(size) > limit {
		p.waiting.Add(-size)
		return false
	}
	return true
}

// send writes a command and returns the channel of its answer.
func (p *pipe) send(id target.SessionID, method string, params any) (int64, chan answer, error) {
	m := message{SessionID: id, Method: method}
	if params != nil {
		raw, err := jsonv2.Marshal(params)
		if err != nil {
			return 0, nil, fmt.Errorf("%s: %w", method, err)
		}
		m.Params = raw
	}
	c := make(chan answer, 1)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return 0, nil, errClosed
	}
	p.last++
	m.ID = p.last
	p.calls[m.ID] = c
	p.mu.Unlock()
	raw, err := jsonv2.Marshal(m)
	if err == nil {
		select {
		case p.out <- append(raw, 0):
		default:
			err = errBusy
		}
	}
	if err != nil {
		p.drop(m.ID)
		return 0, nil, fmt.Errorf("%s: %w", method, err)
	}
	return m.ID, c, nil
}

func (p *pipe) drop(id int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.calls, id)
}

// event is an event of a session.
type event struct {
	method string
	params jsonv2.Value
}

// session is a target of the browser: commands go to it, events come from it in
// their order.
type session struct {
	pipe *pipe
	id   target.SessionID
	wake chan struct{} // has an entry if events may wait

	quiet bool // its console is off; of its reader

	mu      sync.Mutex
	events  []event
	waiting int64 // bytes of events
	dropped int
	ended   bool
}

// essential are the events without which a check stops: the browser waits for an
// answer to them, or there are few. They are dropped only at twice the bounds of the
// others, of which a page causes any number.
var essential = []string{
	page.ScreencastFrame.Method, page.JavascriptDialogOpening.Method, page.JavascriptDialogClosed.Method,
	page.FrameNavigated.Method, page.LoadEventFired.Method, page.DomContentEventFired.Method,
	target.AttachedToTarget.Method, target.DetachedFromTarget.Method, fetch.RequestPaused.Method, inspector.TargetCrashed.Method,
}

func (s *session) push(e event) {
	share := 1
	if slices.Contains(essential, e.method) {
		share = 2
	}
	size := int64(len(e.params))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	defer s.signal()
	if len(s.events) >= share*maxQueued || !s.pipe.reserve(size, int64(share*maxWaiting)) {
		s.dropped++
		return
	}
	s.events = append(s.events, e)
	s.waiting += size
}

// release returns the bytes of the events that no longer wait. It must be called
// with mu held.
func (s *session) release() {
	s.pipe.waiting.Add(-s.waiting)
	s.waiting = 0
}

// close ends the session: no more events come, and take returns those that wait.
func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.signal()
}

func (s *session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take waits for events and returns them; ok is false when the session has ended
// and nothing is left, or ctx has.
func (s *session) take(ctx context.Context) (events []event, dropped int, ok bool) {
	for {
		s.mu.Lock()
		events, dropped, s.events, s.dropped = s.events, s.dropped, nil, 0
		s.release()
		ended := s.ended
		s.mu.Unlock()
		if len(events)+dropped > 0 {
			return events, dropped, true
		}
		if ended {
			return nil, 0, false
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return nil, 0, false
		}
	}
}

// discard ends a session that is read no longer, and drops what waits.
func (s *session) discard() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.events = true, nil
	s.release()
}

// call runs a command and returns its result.
func call[P, R any](ctx context.Context, s *session, c cdp.Command[P, R], params P) (result R, err error) {
	id, answers, err := s.pipe.send(s.id, c.Method, params)
	if err != nil {
		return result, err
	}
	select {
	case a := <-answers:
		if a.err != nil {
			return result, fmt.Errorf("%s: %w", c.Method, a.err)
		}
		err = jsonv2.Unmarshal(a.result, &result, jsonv2.AllowInvalidUTF8(true))
		return result, err
	case <-ctx.Done():
		s.pipe.drop(id)
		return result, fmt.Errorf("%s: %w", c.Method, context.Cause(ctx))
	}
}

// cast sends a command whose answer is of no interest.
func cast[P, R any](s *session, c cdp.Command[P, R], params P) {
	if id, _, err := s.pipe.send(s.id, c.Method, params); err == nil {
		s.pipe.drop(id)
	}
}
