package config

import (
	"fmt"
	"net"
	"net/url"
	"strings"
)

// corsFaults returns the faults of cors_origins.
func (c Config) corsFaults() (faults []string) {
	for _, o := range c.CORSOrigins {
		if !isOrigin(o) {
			faults = append(faults, fmt.Sprintf("cors_origins: %q must be the exact origin of a page, as browsers send it, such as https://app.example.com", o))
		}
	}
	return faults
}

// isOrigin reports whether s is an origin as browsers send it: in lower case, with a
// port only where it is not the scheme's own, and without a wildcard. Any other
// spelling would never match.
func isOrigin(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || s != u.Scheme+"://"+u.Host {
		return false
	}
	port := map[string]string{"https": "443", "http": "80"}[u.Scheme]
	host := u.Hostname()
	if strings.HasSuffix(u.Host, ":") || u.Port() == port || u.Port() != "" && !isAddress(u.Host) {
		return false
	}
	ip := net.ParseIP(host)
	return isDomain(host) || ip != nil && ip.String() == host
}
