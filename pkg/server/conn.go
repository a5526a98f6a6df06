package server

import (
	"context"
	"net"

	"golang.org/x/sys/unix"
)

// dropVanished makes the kernel end a connection whose client has acknowledged
// nothing for Limits.WriteTimeout. Without it, the service learns only after a
// quarter of an hour of retransmissions that a machine has vanished, and its
// jobs would run on for as long.
func (s *Server) dropVanished(ctx context.Context, c net.Conn) context.Context {
	if tcp, ok := c.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil { // else it is closed already
			_ = raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(s.limits.WriteTimeout.Milliseconds()))
			})
		}
	}
	return ctx
}
