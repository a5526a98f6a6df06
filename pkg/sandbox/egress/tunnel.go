package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// hijack confirms the tunnel to the sandbox and reads the TLS hello that must
// come first. The caller must close the connection.
func hijack(w http.ResponseWriter, a *attempt, t Target) (*replay, []byte, *refusal) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, fail("cannot hijack the connection", err)
	}
	early := make([]byte, buffered.Reader.Buffered())
	_, _ = io.ReadFull(buffered.Reader, early) // already in memory
	_ = conn.SetWriteDeadline(time.Now().Add(helloLimit))
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		_ = conn.Close()
		return nil, nil, fail("the sandbox closed the connection", err)
	}
	guest := newReplay(conn, early)
	h, err := peek(a.session.ctx, guest)
	_ = conn.SetDeadline(time.Time{})
	refused := (*refusal)(nil)
	if err != nil {
		refused = &refusal{status: http.StatusForbidden, verdict: Refused, reason: "the tunnel does not begin with TLS", err: err}
		if a.session.ctx.Err() != nil {
			refused = fail(errEnded.Error(), nil)
		}
	} else {
		refused = h.check(t)
	}
	if refused != nil {
		_ = conn.Close()
		return nil, nil, refused
	}
	return guest, h.raw, nil
}

// pipe copies bytes in both directions, beginning with first, until both have
// ended or one fails, is idle for too long or exceeds the limit.
func (a *attempt) pipe(guest *replay, host *hostConn, first []byte) *refusal {
	ctx, cancel := context.WithTimeout(a.session.ctx, a.session.socket.proxy.cfg.TotalLimit)
	defer cancel()
	cut := func() {
		_ = guest.Close()
		_ = host.Close()
	}
	defer context.AfterFunc(ctx, cut)()
	n, err := host.Write(first)
	a.up.Add(int64(n))
	if err != nil {
		return a.broken(ctx, err)
	}
	var last atomic.Int64 // time of the last transfer in either direction
	last.Store(time.Now().UnixNano())
	up := make(chan error, 1)
	go func() { up <- a.move(host, guest, &a.up, &last, cut) }()
	down := a.move(guest, host, &a.down, &last, cut)
	return a.broken(ctx, errors.Join(down, <-up))
}

// end is one side of a tunnel.
type end interface {
	net.Conn
	CloseWrite() error
}

// move copies one direction until EOF, then shuts down the sending side of dst.
func (a *attempt) move(dst, src end, count, last *atomic.Int64, cut func()) error {
	idle := a.session.socket.proxy.cfg.IdleLimit
	buf := make([]byte, 32<<10)
	for {
		_ = src.SetReadDeadline(time.Now().Add(idle))
		n, err := src.Read(buf)
		if n > 0 {
			last.Store(time.Now().UnixNano())
			_ = dst.SetWriteDeadline(time.Now().Add(idle))
			written, werr := dst.Write(buf[:n])
			count.Add(int64(written))
			if werr != nil { // including a deadline: unwritten bytes are lost
				cut()
				return errors.Join(werr, err)
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) && dst.CloseWrite() == nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Since(time.Unix(0, last.Load())) < idle:
			// The other direction is active.
		default:
			cut()
			return err
		}
	}
}

// broken returns why a tunnel ended abnormally, or nil: it is normal that
// clients and servers just close their connections.
func (a *attempt) broken(ctx context.Context, err error) *refusal {
	switch {
	case a.session.spent():
		return &refusal{verdict: Refused, reason: errBudget.Error()}
	case a.session.ctx.Err() != nil:
		return fail(errEnded.Error(), nil)
	case ctx.Err() != nil:
		return fail("the connection was open for too long", nil)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fail("the connection was idle for too long", nil)
	}
	return nil
}
