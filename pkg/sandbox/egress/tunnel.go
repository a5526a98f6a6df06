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

// takeOver tells the sandbox that its tunnel is open and reads the TLS hello
// that must come first. The caller closes the connection.
func takeOver(w http.ResponseWriter, a *attempt, t Target) (*replay, []byte, *refusal) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, fail("the connection cannot be taken over", err)
	}
	early := make([]byte, buffered.Reader.Buffered())
	_, _ = io.ReadFull(buffered.Reader, early) // it is in memory
	_ = conn.SetWriteDeadline(time.Now().Add(helloLimit))
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		_ = conn.Close()
		return nil, nil, fail("the sandbox has gone", err)
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

// pipe moves bytes both ways, after the first ones, until both have ended, or
// one is broken, silent for too long, or too much.
func (a *attempt) pipe(guest *replay, host *hostConn, first []byte) *refusal {
	ctx, cancel := a.session.limited(a.session.socket.proxy.cfg.TotalLimit)
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
	var last atomic.Int64 // when anything moved
	last.Store(time.Now().UnixNano())
	up := make(chan error, 1)
	go func() { up <- a.move(host, guest, &a.up, &last, cut) }()
	down := a.move(guest, host, &a.down, &last, cut)
	return a.broken(ctx, errors.Join(down, <-up))
}

// end is a side of a tunnel.
type end interface {
	net.Conn
	CloseWrite() error
}

// move copies one way until its end, of which it tells the other side.
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
			if werr != nil { // also a deadline: what was not written is lost
				cut()
				return errors.Join(werr, err)
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) && dst.CloseWrite() == nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Since(time.Unix(0, last.Load())) < idle:
			// The other way is not silent.
		default:
			cut()
			return err
		}
	}
}

// broken says why a tunnel ended, nil where it ended as tunnels do: clients
// and servers often just go away.
func (a *attempt) broken(ctx context.Context, err error) *refusal {
	switch {
	case a.session.spent():
		return &refusal{verdict: Refused, reason: errBudget.Error()}
	case a.session.ctx.Err() != nil:
		return fail(errEnded.Error(), nil)
	case ctx.Err() != nil:
		return fail("the connection was open for too long", nil)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fail("the connection was silent for too long", nil)
	}
	return nil
}
