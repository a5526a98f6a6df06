package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// listeners are what the service and its previews accept connections on. A nil one
// is opened when the service is ready. The others were opened by the parent process,
// which keeps them open: over a restart, connections wait there instead of being
// refused.
type listeners struct{ service, previews net.Listener }

// inherited reports whether the parent process has opened any of them.
func (l listeners) inherited() bool { return l.service != nil || l.previews != nil }

func (l listeners) close() {
	for _, ln := range []net.Listener{l.service, l.previews} {
		if ln != nil {
			_ = ln.Close() // usually closed already
		}
	}
}

// inheritListeners finds the use of each socket that the parent process has passed,
// by its address, and closes files. A socket that is bound to no configured address
// is an error: the service would listen where its operator does not expect it, or
// not where clients look for it.
func inheritListeners(ctx context.Context, files []*os.File, cfg config.Config) (l listeners, err error) {
	defer func() {
		for _, f := range files { // a listener has a duplicate
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			l.close()
		}
	}()
	uses := []struct {
		address string
		to      *net.Listener
	}{{cfg.Listen, &l.service}, {cfg.PreviewListen, &l.previews}}
	for _, f := range files {
		ln, err := inheritListener(f)
		if err != nil {
			return l, err
		}
		found := false
		for _, use := range uses {
			if use.address == "" || *use.to != nil || found {
				continue
			}
			if found, err = boundTo(ctx, ln.Addr(), use.address); err != nil {
				return l, errors.Join(err, ln.Close())
			} else if found {
				*use.to = ln
			}
		}
		if !found {
			return l, errors.Join(wrongAddress(ln.Addr(), cfg), ln.Close())
		}
	}
	return l, nil
}

func wrongAddress(have net.Addr, cfg config.Config) error {
	want := "listen is " + cfg.Listen
	if cfg.PreviewListen != "" {
		want += " and preview_listen is " + cfg.PreviewListen
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Reason: ReasonInherited, Message: fmt.Sprintf("the inherited socket is bound to %s, but %s", have, want),
		Hint: "let the settings and the supervisor that opens the socket name the same address",
	}
}

// inheritListener returns the listener of a passed socket.
func inheritListener(f *os.File) (net.Listener, error) {
	fault := func(err error) error {
		return &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Reason: ReasonInherited, Message: "the inherited descriptor " + f.Name() + " is not a listening TCP socket", Err: err,
			Hint: "pass only sockets of the addresses in listen and preview_listen",
		}
	}
	accepts, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || accepts == 0 {
		return nil, fault(err)
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fault(err)
	}
	if _, ok := ln.(*net.TCPListener); !ok {
		return nil, errors.Join(fault(nil), ln.Close())
	}
	return ln, nil
}

// boundTo reports whether a listener at that address of this machine serves
// address, which is HOST:PORT. All addresses of this machine are one host,
// whichever way they are written.
func boundTo(ctx context.Context, have net.Addr, address string) (bool, error) {
	at, ok := have.(*net.TCPAddr)
	host, port, err := net.SplitHostPort(address)
	if !ok || err != nil {
		return false, err
	}
	// The settings were checked: a port is a number. Port 0 is any port.
	if n, err := strconv.Atoi(port); err != nil || n != 0 && n != at.Port {
		return false, err
	}
	ips := []net.IP{net.IPv6unspecified}
	if host != "" {
		name, _, _ := strings.Cut(host, "%") // the zone of a link-local address
		if ips, err = net.DefaultResolver.LookupIP(ctx, "ip", name); err != nil {
			return false, fmt.Errorf("look up %s: %w", host, err)
		}
	}
	return slices.ContainsFunc(ips, func(ip net.IP) bool {
		return ip.Equal(at.IP) || ip.IsUnspecified() && at.IP.IsUnspecified()
	}), nil
}

// listen listens on TCP; hint is the alternative to freeing the port.
func listen(address string, reason dreamcore.Reason, hint string) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: reason, Message: "cannot listen on " + address, Err: err,
			Hint: "stop the program that listens there, or " + hint,
		}
	}
	return ln, nil
}
