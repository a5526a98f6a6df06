package pid1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Bounds of a relay. Programs inside decide how many connections there are. Each
// takes two descriptors of the supervisor, which also needs some to start
// programs.
const (
	relayConns  = 512
	relayBuffer = 8 << 10
	// relayLinger is how long a program may go on sending after the host has
	// finished.
	relayLinger = 30 * time.Second
	// relayPause is the wait after a failed accept, which may be caused by a lack
	// of descriptors.
	relayPause = 50 * time.Millisecond
)

// relay copies connections between a loopback port and a socket of the host. It
// is part of the supervisor rather than a program, because programs end with
// each job.
type relay struct {
	listener *net.TCPListener
	socket   net.UnixAddr
	slots    chan struct{}
	running  sync.WaitGroup
	ctx      context.Context // ends when close begins
	cancel   context.CancelFunc
}

// startRelay starts listening. It returns nil if r is the zero value.
func startRelay(r sandbox.Relay) (*relay, error) {
	if r == (sandbox.Relay{}) {
		return nil, nil
	}
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(r.Port)})
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	y := &relay{listener: l, socket: net.UnixAddr{Name: r.Socket, Net: "unix"}, slots: make(chan struct{}, relayConns)}
	y.ctx, y.cancel = context.WithCancel(context.Background())
	y.running.Go(y.accept)
	return y, nil
}

// close closes all connections and waits for their goroutines.
func (y *relay) close() {
	if y == nil {
		return
	}
	_ = y.listener.Close()
	y.cancel()
	y.running.Wait()
}

func (y *relay) accept() {
	for {
		conn, err := y.listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(relayPause)
			continue
		}
		select {
		case y.slots <- struct{}{}:
		default: // a queue here would keep connections beyond the end of their job
			_ = conn.Close()
			continue
		}
		y.running.Go(func() {
			defer func() { <-y.slots }()
			y.join(conn)
		})
	}
}

// join copies in both directions until both have ended.
func (y *relay) join(inside *net.TCPConn) {
	defer inside.Close()
	defer context.AfterFunc(y.ctx, func() { _ = inside.Close() })()
	host, err := net.DialUnix("unix", nil, &y.socket)
	if err != nil {
		return
	}
	defer host.Close()
	defer context.AfterFunc(y.ctx, func() { _ = host.Close() })()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		move(host, inside)
	}()
	move(inside, host)
	_ = inside.SetReadDeadline(time.Now().Add(relayLinger))
	<-sent
}

// halfCloser is a connection whose write side can be closed separately.
type halfCloser interface {
	io.Writer
	CloseWrite() error
	Close() error
}

// move copies src to dst until EOF and closes dst for writing; on an error it
// closes dst entirely. It prevents splicing, which would use pipes and so more
// descriptors.
func move(dst halfCloser, src io.Reader) {
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, relayBuffer))
	if err != nil || dst.CloseWrite() != nil {
		_ = dst.Close()
	}
}
