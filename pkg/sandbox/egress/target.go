package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// DefaultPort is the port of https.
const DefaultPort = 443

// maxHost is DNS's bound on a name with its final dot, in bytes.
const maxHost = 254

// Target is the destination of a connection: a host in its canonical form (see
// canonicalHost) and a port.
type Target struct {
	Host string
	Port uint16
}

func (t Target) String() string { return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))) }

// addr returns the address of a target that is not a name.
func (t Target) addr() (netip.Addr, bool) {
	a, err := netip.ParseAddr(t.Host)
	return a, err == nil
}

// parseTarget parses HOST:PORT as sandboxes write it: ASCII, with a port and
// nothing else.
func parseTarget(s string) (Target, error) {
	host, port, err := splitTarget(s)
	if err != nil {
		return Target{}, err
	}
	if port == "" {
		return Target{}, errors.New("the port is missing")
	}
	return makeTarget(host, port)
}

func makeTarget(host, port string) (Target, error) {
	h, err := canonicalHost(host)
	if err != nil {
		return Target{}, err
	}
	p, err := parsePort(port)
	return Target{h, p}, err
}

// splitTarget separates host and port; port is "" if missing. IPv6 addresses,
// and only those, must have brackets.
func splitTarget(s string) (host, port string, err error) {
	if len(s) > maxHost+len(":65535")+len("[]") {
		return "", "", errors.New("it is too long")
	}
	if rest, ok := strings.CutPrefix(s, "["); ok {
		host, port, ok = strings.Cut(rest, "]")
		if !ok || port != "" && port[0] != ':' || !strings.Contains(host, ":") {
			return "", "", errors.New("brackets are for an IPv6 address, like [2606:4700::1]:443")
		}
		if port == ":" {
			return "", "", errors.New("the port after the colon is missing")
		}
		return host, strings.TrimPrefix(port, ":"), nil
	}
	host, port, found := strings.Cut(s, ":")
	switch {
	case strings.Contains(port, ":"):
		return "", "", errors.New("an IPv6 address needs brackets, like [2606:4700::1]:443")
	case found && port == "":
		return "", "", errors.New("the port after the colon is missing")
	}
	return host, port, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("invalid port %q", s)
	}
	return uint16(n), nil
}

// canonicalHost returns the canonical form of a host: an address as netip writes
// it, or a DNS name in lower case without a final dot. It refuses anything else
// that a resolver might take for an address.
func canonicalHost(s string) (string, error) {
	if s == "" || len(s) > maxHost {
		return "", errors.New("a host has 1 to 253 characters")
	}
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" || a.Is4In6() {
			return "", fmt.Errorf("%q is not a plain address", s)
		}
		return a.String(), nil
	}
	name := strings.ToLower(strings.TrimSuffix(s, "."))
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if !isLabel(l) {
			return "", fmt.Errorf("%q is not a host name", s)
		}
	}
	if last := labels[len(labels)-1]; looksLikeNumber(last) {
		return "", fmt.Errorf("%q looks like an address but is not one", s)
	}
	if ascii, err := idna.Lookup.ToASCII(name); err != nil || ascii != name {
		return "", fmt.Errorf("%q is not a host name", s)
	}
	return name, nil
}

// isLabel reports whether l is one part of an ASCII host name. Operators may use
// other letters, which idna converts first.
func isLabel(l string) bool {
	if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
		return false
	}
	return strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// looksLikeNumber applies the browsers' rule, because the C library resolves
// 2130706433, 0x7f.1 and 127.1 to addresses.
func looksLikeNumber(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}
