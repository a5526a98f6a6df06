package egress

import (
	"net/netip"
	"testing"
)

func TestCheckAddr(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("93.184.216.99"), netip.MustParseAddr("10.9.8.7")}
	tests := []struct {
		addr          string
		reason        string // "" if allowed
		reasonPrivate string // the same for a private host
	}{
		{"93.184.216.34", "", ""},
		{"1.1.1.1", "", ""},
		{"223.255.255.255", "", ""},
		{"2606:4700:4700::1111", "", ""},
		{"2a00:1450:4001:830::200e", "", ""},

		{"127.0.0.1", addrLoopback, ""},
		{"127.255.255.254", addrLoopback, ""},
		{"::1", addrLoopback, ""},
		{"10.0.0.1", addrPrivate, ""},
		{"10.9.8.7", addrPrivate, ""},
		{"172.16.0.1", addrPrivate, ""},
		{"172.31.255.255", addrPrivate, ""},
		{"172.32.0.1", "", ""},
		{"192.168.1.1", addrPrivate, ""},
		{"fd12:3456::1", addrPrivate, ""},
		{"100.64.0.1", addrShared, ""},
		{"100.128.0.1", "", ""},
		{"93.184.216.99", addrOwn, ""},

		{"169.254.169.254", addrMetadata, addrMetadata},
		{"169.254.170.2", addrMetadata, addrMetadata},
		{"fd00:ec2::254", addrMetadata, addrMetadata},
		{"fd20:ce::254", addrMetadata, addrMetadata},
		{"100.100.100.200", addrMetadata, addrMetadata},
		{"168.63.129.16", addrMetadata, addrMetadata},
		{"192.0.0.192", addrMetadata, addrMetadata},
		{"169.254.1.1", addrLinkLocal, addrLinkLocal},
		{"fe80::1", addrLinkLocal, addrLinkLocal},
		{"224.0.0.251", addrMulticast, addrMulticast},
		{"ff02::1", addrMulticast, addrMulticast},
		{"0.0.0.0", addrReserved, addrReserved},
		{"0.1.2.3", addrReserved, addrReserved},
		{"::", addrEmbedding, addrEmbedding},
		{"255.255.255.255", addrReserved, addrReserved},
		{"240.0.0.1", addrReserved, addrReserved},
		{"192.0.2.1", addrReserved, addrReserved},
		{"198.51.100.1", addrReserved, addrReserved},
		{"203.0.113.1", addrReserved, addrReserved},
		{"2001:db8::1", addrReserved, addrReserved},
		{"3fff::1", addrReserved, addrReserved},
		{"198.18.0.1", addrReserved, addrReserved},
		{"198.19.255.255", addrReserved, addrReserved},
		{"2001:2::1", addrReserved, addrReserved},
		{"192.0.0.1", addrReserved, addrReserved},
		{"fec0::1", addrReserved, addrReserved},
		{"4000::1", addrReserved, addrReserved},
		{"100::1", addrReserved, addrReserved},
		{"5f00::1", addrReserved, addrReserved},

		{"::ffff:127.0.0.1", addrEmbedding, addrEmbedding},
		{"::ffff:93.184.216.34", addrEmbedding, addrEmbedding},
		{"::127.0.0.1", addrEmbedding, addrEmbedding},
		{"::ffff:0:127.0.0.1", addrEmbedding, addrEmbedding},
		{"64:ff9b::7f00:1", addrEmbedding, addrEmbedding},
		{"64:ff9b:1::a00:1", addrEmbedding, addrEmbedding},
		{"2002:7f00:1::", addrEmbedding, addrEmbedding},
		{"2001:0:1::1", addrEmbedding, addrEmbedding},
		{"192.88.99.1", addrEmbedding, addrEmbedding},
		{"2606:4700::5efe:7f00:1", addrEmbedding, addrEmbedding},
		{"2606:4700::200:5efe:a00:1", addrEmbedding, addrEmbedding},
		{"fe80::1%eth0", addrReserved, addrReserved},
	}
	for _, test := range tests {
		a := netip.MustParseAddr(test.addr)
		if got := checkAddr(a, own, false); got != test.reason {
			t.Errorf("%s: %q, want %q", test.addr, got, test.reason)
		}
		if got := checkAddr(a, own, true); got != test.reasonPrivate {
			t.Errorf("%s for a private host: %q, want %q", test.addr, got, test.reasonPrivate)
		}
	}
	if checkAddr(netip.Addr{}, nil, true) == "" {
		t.Error("the zero address is allowed")
	}
}

func TestOwnAddressesAreRefused(t *testing.T) {
	own, err := ownAddresses()
	if err != nil || len(own) == 0 {
		t.Fatal(own, err)
	}
	for _, a := range own {
		if checkAddr(a, own, false) == "" {
			t.Errorf("%s is allowed", a)
		}
	}
}
