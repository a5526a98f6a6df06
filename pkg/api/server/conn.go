package server

import (
	"context"
	"net"

	"golang.org/x/sys/unix"
)

// prepare makes the kernel close a connection whose client has acknowledged no
// data for Limits.WriteTimeout. Otherwise the service would notice a vanished
// client only after a quarter of an hour of retransmissions, and its jobs would
// continue that long. prepare also passes the connection to trackHeaders.
func (f Front) prepare(ctx context.Context, c net.Conn) context.Context {
	if counted, ok := c.(*headerConn); ok {
		ctx = context.WithValue(ctx, headerConnKey{}, counted)
		c = counted.TCPConn
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil { // an error means that it is already closed
			_ = raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(f.Limits.WriteTimeout.Milliseconds()))
			})
		}
	}
	return ctx
}
