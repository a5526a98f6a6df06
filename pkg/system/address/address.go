// Package address decides which network addresses a program of others may make
// this host connect to: never its own, private ones only where the operator names
// them. The check is made on the resolved address, at the socket itself, so that a
// name cannot change its address between the check and the connection.
package address

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// Reasons for refusing an address, for operators and logs.
const (
	Loopback  = "loopback"
	Private   = "a private network"
	Shared    = "a carrier's shared network"
	OwnHost   = "an address of this host"
	LinkLocal = "link-local"
	Metadata  = "a cloud metadata service"
	Multicast = "multicast"
	Reserved  = "reserved"
	Embedding = "another address inside an IPv6 address"
)

// block is a range of addresses that are refused. Ranges with open set are
// allowed for private hosts.
type block struct {
	prefix netip.Prefix
	reason string
	open   bool
}

// blocks are, in order of precedence, the special-purpose ranges of the IANA
// registries (RFC 6890 and its successors), the metadata services of clouds, and
// the forms in which an IPv6 address embeds an IPv4 address that a router may
// extract.
var blocks = []block{
	// Instance metadata: credentials of the host for any client.
	{prefix("169.254.169.254/32"), Metadata, false},
	{prefix("169.254.170.0/24"), Metadata, false}, // container tasks
	{prefix("100.100.100.200/32"), Metadata, false},
	{prefix("168.63.129.16/32"), Metadata, false}, // looks like a public address
	{prefix("192.0.0.192/32"), Metadata, false},
	{prefix("fd00:ec2::/32"), Metadata, false},
	{prefix("fd20:ce::/32"), Metadata, false},

	{prefix("0.0.0.0/8"), Reserved, false}, // Linux connects 0.0.0.0 to the host itself
	{prefix("10.0.0.0/8"), Private, true},
	{prefix("100.64.0.0/10"), Shared, true},
	{prefix("127.0.0.0/8"), Loopback, true},
	{prefix("169.254.0.0/16"), LinkLocal, false},
	{prefix("172.16.0.0/12"), Private, true},
	{prefix("192.0.0.0/24"), Reserved, false},
	{prefix("192.0.2.0/24"), Reserved, false},    // documentation
	{prefix("192.31.196.0/24"), Reserved, false}, // AS112
	{prefix("192.52.193.0/24"), Reserved, false}, // AMT
	{prefix("192.88.99.0/24"), Embedding, false}, // relays of 6to4
	{prefix("192.168.0.0/16"), Private, true},
	{prefix("192.175.48.0/24"), Reserved, false}, // AS112
	{prefix("198.18.0.0/15"), Reserved, false},   // benchmarks
	{prefix("198.51.100.0/24"), Reserved, false}, // documentation
	{prefix("203.0.113.0/24"), Reserved, false},  // documentation
	{prefix("224.0.0.0/4"), Multicast, false},
	{prefix("240.0.0.0/4"), Reserved, false}, // and broadcast

	{prefix("::1/128"), Loopback, true},
	{prefix("::ffff:0:0/96"), Embedding, false}, // IPv4-mapped
	{prefix("::ffff:0:0:0/96"), Embedding, false},
	{prefix("::/96"), Embedding, false}, // IPv4-compatible, and unspecified
	{prefix("64:ff9b::/96"), Embedding, false},
	{prefix("64:ff9b:1::/48"), Embedding, false},
	{prefix("2001::/32"), Embedding, false}, // Teredo
	{prefix("2001::/23"), Reserved, false},
	{prefix("2001:db8::/32"), Reserved, false},
	{prefix("2002::/16"), Embedding, false}, // 6to4
	{prefix("2620:4f:8000::/48"), Reserved, false},
	{prefix("3fff::/20"), Reserved, false},
	{prefix("fc00::/7"), Private, true},
	{prefix("fe80::/10"), LinkLocal, false},
	{prefix("ff00::/8"), Multicast, false},
}

// global is the range of all assigned global IPv6 addresses.
var global = prefix("2000::/3")

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// Check returns why a connection must not go to an address, or "" if it may.
// own are the host's addresses. private allows open blocks and own addresses.
func Check(a netip.Addr, own []netip.Addr, private bool) string {
	if !a.IsValid() || a.Zone() != "" {
		return Reserved
	}
	for _, b := range blocks {
		if b.prefix.Contains(a) {
			if b.open && private {
				return ""
			}
			return b.reason
		}
	}
	if a.Is6() && isISATAP(a) {
		return Embedding
	}
	if a.Is6() && !global.Contains(a) {
		return Reserved
	}
	for _, o := range own {
		if o == a && !private {
			return OwnHost
		}
	}
	return ""
}

// isISATAP reports whether the interface identifier embeds an IPv4 address for
// a tunnel, after 0000:5efe or 0200:5efe.
func isISATAP(a netip.Addr) bool {
	b := a.As16()
	return b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}

// Own returns the current addresses of the host's interfaces.
func Own() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var own []netip.Addr
	for _, a := range list {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if addr, ok := netip.AddrFromSlice(n.IP); ok {
			own = append(own, addr.Unmap())
		}
	}
	return own, nil
}

// Control returns a net.Dialer.ControlContext that checks the address of every
// connection before it is opened. It fails closed: an address that cannot be
// checked is refused. own returns the addresses of the host, as Own does.
func Control(own func() ([]netip.Addr, error), private bool) func(context.Context, string, string, syscall.RawConn) error {
	return func(_ context.Context, _, target string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(target)
		if err != nil {
			return err
		}
		addrs, err := own()
		if err != nil {
			return err
		}
		if why := Check(to.Addr(), addrs, private); why != "" {
			return fmt.Errorf("%s is %s", to, why)
		}
		return nil
	}
}
