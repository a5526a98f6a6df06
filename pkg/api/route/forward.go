package route

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/system/response"
)

// Limits of connections to cells.
const (
	dialLimit   = 2 * time.Second
	answerLimit = 10 * time.Minute // for the header of an answer
	idleLimit   = 30 * time.Second // less than a cell keeps idle connections
	idleConns   = 64               // of each cell
	maxHeader   = 256 << 10        // of an answer
	missLimit   = 64 << 10         // of the answer of a cell without the requested job or project
	maxPause    = 2 * time.Second  // between two questions to a cell whose user is moving
	// A request that was held and has a connection goes on waiting for this long: a cell
	// says at once that its user is moving, and a job must not count as held while it runs.
	movingLimit = time.Second
)

// dialError is the error of a connection that could not be made: nothing was sent.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

// dial makes a connection to a cell.
type dial func(ctx context.Context, network, address string) (net.Conn, error)

func newDial() dial {
	d := net.Dialer{Timeout: dialLimit, KeepAlive: idleLimit}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, dialError{err}
		}
		return c, nil
	}
}

// newPool returns a transport that uses connections again. The cell may close one at
// the moment of a request, which is then sent once more: this is for reads.
func newPool(d dial) *http.Transport {
	return &http.Transport{
		DialContext: d, MaxIdleConnsPerHost: idleConns, IdleConnTimeout: idleLimit, DisableCompression: true,
		ResponseHeaderTimeout: answerLimit, MaxResponseHeaderBytes: maxHeader,
	}
}

// exchange is one request of a client and its answer. It is also the ResponseWriter.
type exchange struct {
	*response.Writer
	r        *http.Request
	want     want
	body     *body
	bodyRead bool
	stranger bool          // it has shown no valid secret
	repeated int           // times that it was sent again after a closed connection
	alone    bool          // its connection to the cell is used for nothing else
	held     func()        // ends its wait, also if it is called again; nil unless it waits
	leaving  *time.Timer   // calls held; nil unless it waits and has a connection
	pause    time.Duration // before the cell is asked again; 0 unless it said that the user is moving
	until    time.Time     // how long it may wait
	cell     string        // that was asked last
	err      error         // for the log
}

// nameOf returns the name of a cell for the client, "" if it may not know it.
func (x *exchange) nameOf(c Cell) string {
	if x.stranger {
		return ""
	}
	return c.Name
}

// leave ends the wait of a request, if it waits.
func (x *exchange) leave() {
	x.stay()
	if x.held != nil {
		x.held()
		x.held = nil
	}
}

// leaveSoon ends the wait of a request, unless stay is called within movingLimit.
func (x *exchange) leaveSoon() {
	x.stay()
	if x.held != nil {
		x.leaving = time.AfterFunc(movingLimit, x.held)
	}
}

// stay lets a request wait further, if its wait has not ended yet.
func (x *exchange) stay() {
	if x.leaving != nil && !x.leaving.Stop() {
		x.held = nil
	}
	x.leaving = nil
}

// maxRepeats is how often a read is repeated whose connection was closed: a read that
// ends its cell must not end it again and again.
const maxRepeats = 2

// repeats reports whether the request may be sent once more after err: a read, which
// changes nothing, if the cell has closed the connection, which a cell that ends does at
// any moment.
func (x *exchange) repeats(err error) bool {
	read := x.r.Method == http.MethodGet || x.r.Method == http.MethodHead
	closed := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	if !read || !closed || x.repeated == maxRepeats {
		return false
	}
	x.repeated++
	return true
}

type exchangeKey struct{}

// contextWith returns a context for the requests of x.
func contextWith(ctx context.Context, x *exchange) context.Context {
	return context.WithValue(ctx, exchangeKey{}, x)
}

// RoundTrip implements http.RoundTripper for the requests of an exchange: it chooses a
// cell and asks it. It asks once more only where no connection could be made, where
// exchange.repeats allows it, or where the cell says that the user lives elsewhere, and
// asks the next cell only if one does not have the requested job or project.
func (rt *Router) RoundTrip(r *http.Request) (*http.Response, error) {
	x, ok := r.Context().Value(exchangeKey{}).(*exchange)
	if !ok {
		return nil, errors.New("route: a request without an exchange")
	}
	defer x.leave()
	var tried []string
	for {
		ch, err := rt.await(r.Context(), x, tried)
		if err != nil {
			return nil, err
		}
		x.cell = ch.cell.Name
		resp, err := rt.ask(r, x, ch.cell)
		if dial := (dialError{}); errors.As(err, &dial) && r.Context().Err() == nil {
			if rt.cfg.Table.reached(ch.cell.Name, ch.cell.Address, false) {
				rt.log.Warn("a cell cannot be reached", "cell", ch.cell.Name, "address", ch.cell.Address, "error", dial)
			}
			rt.metrics.redials.Inc()
			continue
		}
		if err != nil && r.Context().Err() == nil && x.repeats(err) {
			rt.metrics.redials.Inc()
			x.stay()
			ch.fault, ch.again = faultAway, redialPause
			if err := rt.wait(r.Context(), x, ch); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, errLost(x.nameOf(ch.cell), err)
		}
		if rt.cfg.Table.reached(ch.cell.Name, ch.cell.Address, true) {
			rt.log.Info("a cell can be reached again", "cell", ch.cell.Name, "address", ch.cell.Address)
		}
		if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get(server.MovingHeader) != "" {
			// The cell knows of a move before the map does, and has done nothing.
			_, _ = io.CopyN(io.Discard, resp.Body, missLimit)
			_ = resp.Body.Close()
			x.stay()
			x.pause = min(max(2*x.pause, redialPause), maxPause)
			ch.fault, ch.again = faultMoving, x.pause
			if err := rt.wait(r.Context(), x, ch); err != nil {
				return nil, err
			}
			continue
		}
		x.leave()
		if x.want.kind != oneOfAll || ch.last || resp.StatusCode != http.StatusNotFound {
			x.body.release()
			x.body = noBody // its memory is free, also while the answer lasts
			return resp, nil
		}
		_, _ = io.CopyN(io.Discard, resp.Body, missLimit) // so that the connection can be used again
		_ = resp.Body.Close()
		tried = append(tried, ch.cell.Name)
	}
}

// ask sends a request to one cell.
func (rt *Router) ask(r *http.Request, x *exchange, c Cell) (*http.Response, error) {
	u := *r.URL
	u.Scheme, u.Host = "http", c.Address
	// Only the end of a stream that is silent needs this context.
	ctx, cancel := context.WithCancelCause(r.Context())
	if x.held != nil {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { x.leaveSoon() }})
	}
	out := r.WithContext(ctx)
	out.URL, out.Body = &u, x.body.reader()
	out.ContentLength = int64(len(x.body.bytes))
	var transport http.RoundTripper = rt.pooled
	if x.alone {
		transport = rt.once
	}
	resp, err := transport.RoundTrip(out)
	if err != nil {
		cancel(err)
		return nil, err
	}
	if kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); kind == "text/event-stream" && resp.StatusCode == http.StatusOK {
		resp.Body = rt.newStream(x, resp, ctx, cancel)
	} else {
		resp.Body = answerBody{resp.Body, cancel}
	}
	return resp, nil
}

// answerBody is the body of an answer that ends its context.
type answerBody struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (b answerBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// await returns the next cell to ask, when it can be asked. The error is that of the
// fault that has lasted longer than the request may be held.
func (rt *Router) await(ctx context.Context, x *exchange, tried []string) (choice, error) {
	for {
		ch := rt.cfg.Table.choose(x.want, tried)
		if ch.fault == "" {
			return ch, nil
		}
		if err := rt.wait(ctx, x, ch); err != nil {
			return ch, err
		}
	}
}

// wait holds a request until its cell may be asked again. The error is that of the
// fault, if it has lasted too long.
func (rt *Router) wait(ctx context.Context, x *exchange, ch choice) error {
	if x.held == nil {
		leave, ok := rt.holds.enter(x.stranger, int64(len(x.body.bytes)))
		if !ok {
			rt.metrics.refused.WithLabelValues(string(faultFull)).Inc()
			return errFault(faultFull, "")
		}
		began := time.Now()
		x.held = sync.OnceFunc(func() {
			leave()
			rt.metrics.heldTime.Observe(time.Since(began).Seconds())
		})
	}
	left := time.Until(x.until)
	if left <= 0 {
		rt.metrics.refused.WithLabelValues(string(ch.fault)).Inc()
		return errFault(ch.fault, x.nameOf(ch.cell))
	}
	again := time.NewTimer(min(ch.again, left))
	defer again.Stop()
	select {
	case <-ch.changed:
	case <-again.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}
