package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/system/address"
)

// maxAddresses bounds how many addresses of a name are tried.
const maxAddresses = 4

// dial connects to a target that a rule allows. The connection ends with the
// session. Only checked addresses are dialled: the name is not resolved again.
func (x *Session) dial(t Target, r rule) (*hostConn, *refusal) {
	p := x.socket.proxy
	ctx, cancel := context.WithTimeout(x.ctx, p.cfg.DialLimit)
	defer cancel()
	addrs, refused := x.addresses(ctx, t, r)
	if refused != nil {
		return nil, refused
	}
	var errs []error
	for _, a := range addrs {
		d := net.Dialer{Timeout: p.cfg.DialLimit / 2, ControlContext: address.Control(p.own, r.private)}
		conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(a, t.Port).String())
		if err == nil {
			return x.newHostConn(conn.(*net.TCPConn)), nil
		}
		errs = append(errs, err)
	}
	if x.ctx.Err() != nil {
		return nil, fail(context.Cause(x.ctx).Error(), nil)
	}
	return nil, fail("the host cannot be reached", errors.Join(errs...))
}

// addresses returns the addresses of a target that may be dialled.
func (x *Session) addresses(ctx context.Context, t Target, r rule) ([]netip.Addr, *refusal) {
	p := x.socket.proxy
	found := []netip.Addr{}
	if a, ok := t.addr(); ok {
		found = append(found, a)
	} else {
		name := t.Host
		if strings.Contains(name, ".") {
			name += "." // the host's search list must not apply
		}
		var err error
		if found, err = p.cfg.Resolver.LookupNetIP(ctx, "ip", name); err != nil {
			return nil, fail("the name cannot be resolved", err)
		}
	}
	own, err := p.own()
	if err != nil {
		return nil, fail("the host's addresses are unknown", err)
	}
	var good []netip.Addr
	why := ""
	for _, a := range found {
		a = a.Unmap() // resolvers return IPv4 in this form
		if reason := address.Check(a, own, r.private); reason != "" {
			why = fmt.Sprintf("the name resolves to %s (%s)", reason, a)
			continue
		}
		good = append(good, a)
	}
	switch {
	case len(good) == 0 && why != "":
		return nil, refuse(http.StatusForbidden, why)
	case len(good) == 0:
		return nil, fail("the name has no address", nil)
	}
	return good[:min(len(good), maxAddresses)], nil
}

// hostConn is a connection to a host. Its traffic is charged to the session, and
// it ends with the session.
type hostConn struct {
	net.Conn // not embedded as *net.TCPConn, whose ReadFrom and WriteTo would bypass Read and Write
	session  *Session
	stop     func() bool
}

func (x *Session) newHostConn(conn *net.TCPConn) *hostConn {
	return &hostConn{Conn: conn, session: x, stop: context.AfterFunc(x.ctx, func() { _ = conn.Close() })}
}

func (c *hostConn) Read(b []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(c.session.socket.proxy.cfg.IdleLimit))
	n, err := c.Conn.Read(b)
	return n, c.spend(n, err)
}

func (c *hostConn) Write(b []byte) (int, error) {
	if c.session.spent() {
		return 0, errBudget
	}
	_ = c.SetWriteDeadline(time.Now().Add(c.session.socket.proxy.cfg.IdleLimit))
	n, err := c.Conn.Write(b)
	return n, c.spend(n, err)
}

func (c *hostConn) spend(n int, err error) error {
	if over := c.session.spend(n); over != nil {
		return over
	}
	return err
}

// CloseWrite shuts down the sending side.
func (c *hostConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// Close implements net.Conn.
func (c *hostConn) Close() error {
	c.stop()
	return c.Conn.Close()
}

// remote returns the address that a connection goes to.
func remote(c net.Conn) netip.AddrPort {
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
