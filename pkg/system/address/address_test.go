package address

import (
	"errors"
	"net"
	"net/netip"
	"strings"
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

		{"127.0.0.1", Loopback, ""},
		{"127.255.255.254", Loopback, ""},
		{"::1", Loopback, ""},
		{"10.0.0.1", Private, ""},
		{"10.9.8.7", Private, ""},
		{"172.16.0.1", Private, ""},
		{"172.31.255.255", Private, ""},
		{"172.32.0.1", "", ""},
		{"192.168.1.1", Private, ""},
		{"fd12:3456::1", Private, ""},
		{"100.64.0.1", Shared, ""},
		{"100.128.0.1", "", ""},
		{"93.184.216.99", OwnHost, ""},

		{"169.254.169.254", Metadata, Metadata},
		{"169.254.170.2", Metadata, Metadata},
		{"fd00:ec2::254", Metadata, Metadata},
		{"fd20:ce::254", Metadata, Metadata},
		{"100.100.100.200", Metadata, Metadata},
		{"168.63.129.16", Metadata, Metadata},
		{"192.0.0.192", Metadata, Metadata},
		{"169.254.1.1", LinkLocal, LinkLocal},
		{"fe80::1", LinkLocal, LinkLocal},
		{"224.0.0.251", Multicast, Multicast},
		{"ff02::1", Multicast, Multicast},
		{"0.0.0.0", Reserved, Reserved},
		{"0.1.2.3", Reserved, Reserved},
		{"::", Embedding, Embedding},
		{"255.255.255.255", Reserved, Reserved},
		{"240.0.0.1", Reserved, Reserved},
		{"192.0.2.1", Reserved, Reserved},
		{"198.51.100.1", Reserved, Reserved},
		{"203.0.113.1", Reserved, Reserved},
		{"2001:db8::1", Reserved, Reserved},
		{"3fff::1", Reserved, Reserved},
		{"198.18.0.1", Reserved, Reserved},
		{"198.19.255.255", Reserved, Reserved},
		{"2001:2::1", Reserved, Reserved},
		{"192.0.0.1", Reserved, Reserved},
		{"fec0::1", Reserved, Reserved},
		{"4000::1", Reserved, Reserved},
		{"100::1", Reserved, Reserved},
		{"5f00::1", Reserved, Reserved},

		{"::ffff:127.0.0.1", Embedding, Embedding},
		{"::ffff:93.184.216.34", Embedding, Embedding},
		{"::127.0.0.1", Embedding, Embedding},
		{"::ffff:0:127.0.0.1", Embedding, Embedding},
		{"64:ff9b::7f00:1", Embedding, Embedding},
		{"64:ff9b:1::a00:1", Embedding, Embedding},
		{"2002:7f00:1::", Embedding, Embedding},
		{"2001:0:1::1", Embedding, Embedding},
		{"192.88.99.1", Embedding, Embedding},
		{"2606:4700::5efe:7f00:1", Embedding, Embedding},
		{"2606:4700::200:5efe:a00:1", Embedding, Embedding},
		{"fe80::1%eth0", Reserved, Reserved},
	}
	for _, test := range tests {
		a := netip.MustParseAddr(test.addr)
		if got := Check(a, own, false); got != test.reason {
			t.Errorf("%s: %q, want %q", test.addr, got, test.reason)
		}
		if got := Check(a, own, true); got != test.reasonPrivate {
			t.Errorf("%s for a private host: %q, want %q", test.addr, got, test.reasonPrivate)
		}
	}
	if Check(netip.Addr{}, nil, true) == "" {
		t.Error("the zero address is allowed")
	}
}

func TestOwnAddressesAreRefused(t *testing.T) {
	own, err := Own()
	if err != nil || len(own) == 0 {
		t.Fatal(own, err)
	}
	for _, a := range own {
		if Check(a, own, false) == "" {
			t.Errorf("%s is allowed", a)
		}
	}
}

func TestControlRefusesAtTheSocket(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, test := range []struct {
		name    string
		own     func() ([]netip.Addr, error)
		private bool
		says    string // "" if the connection is opened
	}{
		{"a public host", Own, false, Loopback},
		{"a private host", Own, true, ""},
		{"unknown own addresses", func() ([]netip.Addr, error) { return nil, errors.New("no interfaces") }, true, "no interfaces"},
	} {
		// A name that resolves to loopback is refused as the address itself is.
		for _, host := range []string{"127.0.0.1", "localhost"} {
			d := net.Dialer{ControlContext: Control(test.own, test.private)}
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			conn, err := d.DialContext(t.Context(), "tcp4", net.JoinHostPort(host, port))
			if err == nil {
				conn.Close()
			}
			if ok := err == nil; ok != (test.says == "") || !ok && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s at %s: %v", test.name, host, err)
			}
		}
	}
}
