package server

import (
	"context"
	"net"

	"golang.org/x/sys/unix"
)

// prepare makes the kernel end a connection whose client has acknowledged
// nothing for Limits.WriteTimeout. Without it, the service learns only after a
// quarter of an hour of retransmissions that a machine has vanished, and its
// jobs would run on for as long. It also hands the connection to trackHeaders.
func (s *Server) prepare(ctx context.Context, c net.Conn) context.Context {
	if counted, ok := c.(*headerConn); ok {
		ctx = context.WithValue(ctx, headerConnKey{}, counted)
		c = counted.TCPConn
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil { // else it is closed already
			_ = raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(s.limits.WriteTimeout.Milliseconds()))
			})
		}
	}
	return ctx
}
