package server

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// RequestHeader carries the id of a request, in both directions.
const RequestHeader = "X-Request-Id"

// maxRequestID bounds the id that a client may choose, in bytes.
const maxRequestID = 128

// clientRequestID returns the id that the client has given its request, or "" if it
// has none that can be taken over: one value of at most 128 letters, digits and
// punctuation that no log and no shell interprets.
func clientRequestID(h http.Header) string {
	values := h.Values(RequestHeader)
	if len(values) != 1 || values[0] == "" || len(values[0]) > maxRequestID {
		return ""
	}
	foreign := strings.ContainsFunc(values[0], func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune("-_.:/+=@", r)
	})
	if foreign {
		return ""
	}
	return values[0]
}

// ParseProxies parses networks of proxies, such as 10.0.0.0/8, and single
// addresses.
func ParseProxies(list []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if a, addrErr := netip.ParseAddr(s); addrErr == nil {
			p, err = a.Prefix(a.BitLen())
		}
		if err != nil || p.Masked() != p || p.Addr().Is4In6() {
			return nil, fmt.Errorf("%q is not a network such as 10.0.0.0/8 or an address", s)
		}
		all = append(all, p)
	}
	return all, nil
}

// maxHops bounds the proxies between a client and the service.
const maxHops = 16

// clientAddress returns the address of the client behind r. X-Forwarded-For counts
// as far as trusted proxies have written it: its addresses are read from the last
// one, which the nearest proxy has added, to the first that is not a trusted proxy.
func clientAddress(r *http.Request, trusted []netip.Prefix) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	client, ok := parseHop(host)
	if !ok {
		return host
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for range maxHops {
		isProxy := slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(client) })
		if !isProxy || len(hops) == 0 {
			break
		}
		next, ok := parseHop(strings.TrimSpace(hops[len(hops)-1]))
		if !ok {
			break
		}
		client, hops = next, hops[:len(hops)-1]
	}
	return client.String()
}

// parseHop parses an address, which some proxies write with a port.
func parseHop(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().WithZone(""), true
	}
	ap, err := netip.ParseAddrPort(s)
	return ap.Addr().Unmap().WithZone(""), err == nil
}
