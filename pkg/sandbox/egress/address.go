package egress

import (
	"net"
	"net/netip"
)

// Reasons for refusing an address, for operators and logs.
const (
	addrLoopback  = "loopback"
	addrPrivate   = "a private network"
	addrShared    = "a carrier's shared network"
	addrOwn       = "an address of this host"
	addrLinkLocal = "link-local"
	addrMetadata  = "a cloud metadata service"
	addrMulticast = "multicast"
	addrReserved  = "reserved"
	addrEmbedding = "another address inside an IPv6 address"
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
	{prefix("169.254.169.254/32"), addrMetadata, false},
	{prefix("169.254.170.0/24"), addrMetadata, false}, // container tasks
	{prefix("100.100.100.200/32"), addrMetadata, false},
	{prefix("168.63.129.16/32"), addrMetadata, false}, // looks like a public address
	{prefix("192.0.0.192/32"), addrMetadata, false},
	{prefix("fd00:ec2::/32"), addrMetadata, false},
	{prefix("fd20:ce::/32"), addrMetadata, false},

	{prefix("0.0.0.0/8"), addrReserved, false}, // Linux connects 0.0.0.0 to the host itself
	{prefix("10.0.0.0/8"), addrPrivate, true},
	{prefix("100.64.0.0/10"), addrShared, true},
	{prefix("127.0.0.0/8"), addrLoopback, true},
	{prefix("169.254.0.0/16"), addrLinkLocal, false},
	{prefix("172.16.0.0/12"), addrPrivate, true},
	{prefix("192.0.0.0/24"), addrReserved, false},
	{prefix("192.0.2.0/24"), addrReserved, false},    // documentation
	{prefix("192.31.196.0/24"), addrReserved, false}, // AS112
	{prefix("192.52.193.0/24"), addrReserved, false}, // AMT
	{prefix("192.88.99.0/24"), addrEmbedding, false}, // relays of 6to4
	{prefix("192.168.0.0/16"), addrPrivate, true},
	{prefix("192.175.48.0/24"), addrReserved, false}, // AS112
	{prefix("198.18.0.0/15"), addrReserved, false},   // benchmarks
	{prefix("198.51.100.0/24"), addrReserved, false}, // documentation
	{prefix("203.0.113.0/24"), addrReserved, false},  // documentation
	{prefix("224.0.0.0/4"), addrMulticast, false},
	{prefix("240.0.0.0/4"), addrReserved, false}, // and broadcast

	{prefix("::1/128"), addrLoopback, true},
	{prefix("::ffff:0:0/96"), addrEmbedding, false}, // IPv4-mapped
	{prefix("::ffff:0:0:0/96"), addrEmbedding, false},
	{prefix("::/96"), addrEmbedding, false}, // IPv4-compatible, and unspecified
	{prefix("64:ff9b::/96"), addrEmbedding, false},
	{prefix("64:ff9b:1::/48"), addrEmbedding, false},
	{prefix("2001::/32"), addrEmbedding, false}, // Teredo
	{prefix("2001::/23"), addrReserved, false},
	{prefix("2001:db8::/32"), addrReserved, false},
	{prefix("2002::/16"), addrEmbedding, false}, // 6to4
	{prefix("2620:4f:8000::/48"), addrReserved, false},
	{prefix("3fff::/20"), addrReserved, false},
	{prefix("fc00::/7"), addrPrivate, true},
	{prefix("fe80::/10"), addrLinkLocal, false},
	{prefix("ff00::/8"), addrMulticast, false},
}

// global is the range of all assigned global IPv6 addresses.
var global = prefix("2000::/3")

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// checkAddr returns why a connection must not go to an address, or "" if it may.
// own are the host's addresses. private allows open blocks and own addresses.
func checkAddr(a netip.Addr, own []netip.Addr, private bool) string {
	if !a.IsValid() || a.Zone() != "" {
		return addrReserved
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
		return addrEmbedding
	}
	if a.Is6() && !global.Contains(a) {
		return addrReserved
	}
	for _, o := range own {
		if o == a && !private {
			return addrOwn
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

// ownAddresses returns the current addresses of the host's interfaces.
func ownAddresses() ([]netip.Addr, error) {
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
