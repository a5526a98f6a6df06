package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// PreviewOff is the value of preview_domain that turns previews off.
const PreviewOff = "off"

// PreviewDomain is preview_domain, split into its parts.
type PreviewDomain struct {
	Scheme string // http or https
	Name   string
	Port   string // empty if unset
}

// localhost is the only domain whose default scheme is http.
const localhost = "localhost"

// Domain returns the parts of preview_domain; ok is false if it names no domain.
func (c Config) Domain() (d PreviewDomain, ok bool) {
	if c.PreviewDomain == "" || c.PreviewDomain == PreviewOff {
		return d, false
	}
	return parseDomain(c.PreviewDomain)
}

func parseDomain(s string) (d PreviewDomain, ok bool) {
	scheme, rest, given := strings.Cut(s, "://")
	if !given {
		scheme, rest = "", s
	}
	d.Scheme, d.Name = scheme, rest
	if host, port, cut := strings.Cut(rest, ":"); cut {
		if !isAddress(rest) || port == "0" {
			return d, false
		}
		d.Name, d.Port = host, port
	}
	if !given {
		d.Scheme = "https"
		if d.Name == localhost {
			d.Scheme = "http"
		}
	}
	return d, (d.Scheme == "http" || d.Scheme == "https") && isDomain(d.Name)
}

// previewFaults returns the faults of the settings of previews.
func (c Config) previewFaults() (faults []string) {
	_, ok := c.Domain()
	if !ok && c.PreviewDomain != "" && c.PreviewDomain != PreviewOff {
		faults = append(faults, fmt.Sprintf("preview_domain: %q must be [http[s]://]DOMAIN[:PORT] in lower case, or off", c.PreviewDomain))
	}
	if c.PreviewListen != "" && c.PreviewDomain == PreviewOff {
		faults = append(faults, "preview_listen sets an address for previews, but preview_domain turns them off")
	}
	for _, h := range c.PreviewHosts {
		if !isSource(h, "https", "http", "wss", "ws") {
			faults = append(faults, fmt.Sprintf("preview_hosts: %q must be [SCHEME://]HOST[:PORT], such as https://cdn.example.com", h))
		}
	}
	for _, a := range c.PreviewAncestors {
		if !strings.Contains(a, "://") || !isSource(a, "https", "http") {
			faults = append(faults, fmt.Sprintf("preview_frame_ancestors: %q must be the origin of a page, such as https://app.example.com", a))
		}
	}
	return faults
}

// maxDomain leaves room for the label of a game in a host name of 253 bytes.
const maxDomain = 253 - 27

// isDomain reports whether s is a lower-case DNS name and not an IP address.
func isDomain(s string) bool {
	if s == "" || len(s) > maxDomain || net.ParseIP(s) != nil {
		return false
	}
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	// Browsers treat a name whose last label is a number as an address.
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// isSource reports whether s is a source of a content security policy:
// [SCHEME://][*.]HOST[:PORT]. It becomes part of a header, so nothing else is
// accepted.
func isSource(s string, schemes ...string) bool {
	scheme, rest, given := strings.Cut(s, "://")
	if !given {
		rest = s
	} else if !slices.Contains(schemes, scheme) {
		return false
	}
	host, _, port := strings.Cut(rest, ":")
	if port && !isAddress(rest) {
		return false
	}
	host = strings.TrimPrefix(host, "*.")
	u, err := url.Parse("https://" + rest)
	return err == nil && u.Host == rest && (isDomain(host) || net.ParseIP(host).To4() != nil)
}
