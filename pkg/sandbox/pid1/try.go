package pid1

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// TryRole is the argument that makes the program inside a sandbox try to open the
// socket that follows, for the service's self-check, and print its name, a colon,
// and sandbox.Opened or the error. Unlike system tools, it is the same in every
// root file system.
const TryRole = "try"

// connectLimit bounds one connection attempt, in milliseconds.
const connectLimit = 2000

// Try opens a socket that an endpoint of sandbox.Sandbox.Reach names.
func Try(endpoint string, out io.Writer) error {
	result := sandbox.Opened
	if err := try(endpoint); err != nil {
		result = err.Error()
	}
	_, err := fmt.Fprintf(out, "%s: %s\n", endpoint, result)
	return err
}

func try(name string) error {
	kind, address, _ := strings.Cut(name, "=")
	switch kind {
	case sandbox.Loopback:
		return tryLoopback()
	case "packet":
		return openOnly(unix.AF_PACKET, unix.SOCK_RAW, 0)
	case "icmp":
		return openOnly(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	case "raw":
		return openOnly(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	case "vsock":
		return connect(unix.AF_VSOCK, unix.SOCK_STREAM, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: 1024})
	case "tcp", "udp":
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return tryAddress(kind, to)
	}
	return fmt.Errorf("unknown socket %q", name)
}

func openOnly(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func tryAddress(kind string, to netip.AddrPort) error {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	if kind == "udp" {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, []byte("\x00"), 0, sa)
	}
	return connect(family, unix.SOCK_STREAM, sa)
}

func connect(family, kind int, to unix.Sockaddr) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, to); err != unix.EINPROGRESS {
		return err
	}
	ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(ready, connectLimit)
	if err == nil && n == 0 {
		err = unix.ETIMEDOUT
	}
	if err != nil {
		return err
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

// tryLoopback connects to a listener of its own on an abstract Unix socket,
// because a sandbox may not even have a loopback interface.
func tryLoopback() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@dreamcore-try"}); err != nil {
		return err
	}
	if err := unix.Listen(fd, 1); err != nil {
		return err
	}
	return connect(unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: "@dreamcore-try"})
}
