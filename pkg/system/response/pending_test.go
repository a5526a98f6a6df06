package response

import (
	"context"
	"net"
	"net/http"
	"testing"
)

func TestPendingWaitsForRequests(t *testing.T) {
	var p Pending
	fresh, busy, idle := &net.TCPConn{}, &net.TCPConn{}, &net.TCPConn{}
	for _, c := range []net.Conn{fresh, busy, idle} {
		p.Follow(c, http.StateNew)
	}
	p.Follow(busy, http.StateActive)
	p.Follow(idle, http.StateActive)
	p.Follow(idle, http.StateIdle)
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		if err := p.Shutdown(context.Background(), &http.Server{}); err != nil {
			t.Error(err)
		}
	}()
	p.Follow(fresh, http.StateActive)
	p.Follow(busy, http.StateClosed)
	select {
	case <-waited:
		t.Error("it did not wait for the request that came last")
	default:
	}
	p.Follow(fresh, http.StateIdle)
	<-waited
}

func TestPendingEndsWithItsContext(t *testing.T) {
	var p Pending
	p.Follow(&net.TCPConn{}, http.StateActive)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.wait(ctx, http.StateActive) // returns
}
