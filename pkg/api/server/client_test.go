package server

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

func TestClientsAreFoundBehindTrustedProxiesOnly(t *testing.T) {
	trusted, err := ParseProxies([]string{"10.0.0.0/8", "192.0.2.7", "2001:db8::/32"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, remote string
		forwarded    []string
		want         string
	}{
		{"direct", "198.51.100.9:1234", nil, "198.51.100.9"},
		{"a client that claims to be another", "198.51.100.9:1234", []string{"203.0.113.5"}, "198.51.100.9"},
		{"behind a proxy", "10.0.0.2:80", []string{"203.0.113.5"}, "203.0.113.5"},
		{"behind a single address", "192.0.2.7:80", []string{"203.0.113.5"}, "203.0.113.5"},
		{"its neighbour is not trusted", "192.0.2.8:80", []string{"203.0.113.5"}, "192.0.2.8"},
		{"what the client wrote before the proxy", "10.0.0.2:80", []string{"1.1.1.1, 203.0.113.5"}, "203.0.113.5"},
		{"two proxies", "10.0.0.2:80", []string{"1.1.1.1, 203.0.113.5, 10.9.9.9"}, "203.0.113.5"},
		{"in two headers", "10.0.0.2:80", []string{"1.1.1.1, 203.0.113.5", "10.9.9.9"}, "203.0.113.5"},
		{"only proxies", "10.0.0.2:80", []string{"10.9.9.9"}, "10.9.9.9"},
		{"no header", "10.0.0.2:80", nil, "10.0.0.2"},
		{"no address", "10.0.0.2:80", []string{"unknown"}, "10.0.0.2"},
		{"no address before a proxy", "10.0.0.2:80", []string{"<script>, 10.9.9.9"}, "10.9.9.9"},
		{"with a port", "10.0.0.2:80", []string{"203.0.113.5:4711"}, "203.0.113.5"},
		{"IPv6", "[2001:db8::1]:80", []string{"[2a00::5]:4711"}, "2a00::5"},
		{"IPv4 in IPv6", "[::ffff:10.0.0.2]:80", []string{"::ffff:203.0.113.5"}, "203.0.113.5"},
		{"a socket", "@", []string{"203.0.113.5"}, "@"},
		{"too many", "10.0.0.2:80", []string{"203.0.113.5" + strings.Repeat(", 10.0.0.3", 100)}, "10.0.0.3"},
	} {
		r := &http.Request{RemoteAddr: test.remote, Header: http.Header{"X-Forwarded-For": test.forwarded}}
		if got := clientAddress(r, trusted); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	r := &http.Request{RemoteAddr: "10.0.0.2:80", Header: http.Header{"X-Forwarded-For": {"203.0.113.5"}}}
	if got := clientAddress(r, nil); got != "10.0.0.2" {
		t.Errorf("without trusted proxies: %s", got)
	}
}

func TestParseProxies(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "127.0.0.1": "127.0.0.1/32", "::1": "::1/128", "fd00::/8": "fd00::/8",
		"": "", "10.0.0.1/8": "", "10.0.0.0/33": "", "proxy.example.com": "", "::ffff:10.0.0.1": "",
	} {
		got, err := ParseProxies([]string{text})
		if (err != nil) != (want == "") || err == nil && got[0] != netip.MustParsePrefix(want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func TestRequestIDsOfClients(t *testing.T) {
	for value, ok := range map[string]bool{
		"6f1b0f0e-0000-4000-8000-000000000001": true, "req_1.2:3/4+5=6@7": true, strings.Repeat("x", maxRequestID): true,
		"": false, strings.Repeat("x", maxRequestID+1): false, "a b": false, "a\"b": false, "a\x1b[31m": false, "ä": false, "a\nb": false, "$(id)": false,
	} {
		if got := clientRequestID(http.Header{RequestHeader: {value}}); (got == value && value != "") != ok || !ok && got != "" {
			t.Errorf("%q: %q", value, got)
		}
	}
	if got := clientRequestID(http.Header{RequestHeader: {"a", "b"}}); got != "" {
		t.Errorf("two headers: %q", got)
	}
}

func FuzzClientAddress(f *testing.F) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	f.Add("10.0.0.1:80", "1.1.1.1, 10.0.0.2")
	f.Add("[::1]:80", "unknown, [fe80::1%eth0]:1")
	f.Fuzz(func(t *testing.T, remote, forwarded string) {
		r := &http.Request{RemoteAddr: remote, Header: http.Header{"X-Forwarded-For": {forwarded}}}
		got := clientAddress(r, trusted)
		if direct := clientAddress(r, nil); got != direct {
			if a, err := netip.ParseAddr(got); err != nil || a.Zone() != "" {
				t.Errorf("%q is taken from a header", got)
			}
		}
	})
}
