package egress

import (
	"errors"
	"fmt"
	"net/textproto"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/address"
)

// Policy holds the hosts that an operator allows. It is immutable.
type Policy struct {
	exact      map[Target]rule
	below      map[Target]rule // keyed by the parent of the allowed subdomains
	injections []Injection
}

type rule struct {
	private bool       // the host may be in a private network
	inject  *Injection // secret added to requests; may be nil
}

// Injection is a secret that is added to the requests to one host.
type Injection struct {
	Target Target
	Secret string // name of the sealed secret
	Key    string // key in the secret; "" if it has only one
	Header string
	Scheme string // precedes the value, with a space, such as "Bearer"; optional
}

// ParsePolicy parses the rules: hosts with an optional port, private hosts with
// their port, and injections. Its error has CodeInvalid and lists every fault.
func ParsePolicy(allow, private, inject []string) (*Policy, error) {
	p := &Policy{exact: map[Target]rule{}, below: map[Target]rule{}}
	var faults []string
	each := func(list []string, what string, add func(string) error) {
		for _, s := range list {
			if err := add(s); err != nil {
				faults = append(faults, fmt.Sprintf("%s: %q: %v", what, s, err))
			}
		}
	}
	each(allow, "allow_hosts", p.allow)
	each(private, "allow_private_hosts", p.allowPrivate)
	each(inject, "inject", p.addInjection)
	if len(faults) > 0 {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: strings.Join(faults, "; "),
			Hint: "write --allow-host api.example.com[:443], --allow-private-host db.internal:8443, --inject api.example.com=SECRET:Authorization:Bearer",
		}
	}
	return p, nil
}

// Empty reports whether nothing is allowed.
func (p *Policy) Empty() bool { return p == nil || len(p.exact) == 0 && len(p.below) == 0 }

// Injections returns all injections.
func (p *Policy) Injections() []Injection {
	if p == nil {
		return nil
	}
	return slices.Clone(p.injections)
}

// find returns the rule for a target.
func (p *Policy) find(t Target) (rule, bool) {
	if r, ok := p.exact[t]; ok {
		return r, true
	}
	if _, isAddr := t.addr(); isAddr {
		return rule{}, false
	}
	for name := t.Host; ; {
		_, parent, ok := strings.Cut(name, ".")
		if !ok {
			return rule{}, false
		}
		if r, ok := p.below[Target{parent, t.Port}]; ok {
			return r, true
		}
		name = parent
	}
}

// upgrade returns the injection that applies to a plain request to a host, so
// that the secret is never sent without TLS: one for the same port, or for https
// if the request is to port 80.
func (p *Policy) upgrade(t Target) *Injection {
	ports := []uint16{t.Port}
	if t.Port == 80 {
		ports = append(ports, DefaultPort)
	}
	for _, port := range ports {
		if r := p.exact[Target{t.Host, port}]; r.inject != nil {
			return r.inject
		}
	}
	return nil
}

// operatorTarget parses a target as operators write it: Unicode, with optional port.
func operatorTarget(s string) (t Target, hasPort bool, err error) {
	host, port, err := splitTarget(s)
	if err != nil {
		return t, false, err
	}
	if !isASCII(host) {
		if host, err = idna.Lookup.ToASCII(host); err != nil {
			return t, false, fmt.Errorf("not a host name: %w", err)
		}
	}
	if hasPort = port != ""; !hasPort {
		port = "443"
	}
	t, err = makeTarget(host, port)
	return t, hasPort, err
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

func (p *Policy) allow(s string) error {
	if rest, ok := strings.CutPrefix(s, "*."); ok {
		return p.allowBelow(rest)
	}
	t, _, err := operatorTarget(s)
	if err != nil {
		return err
	}
	if a, ok := t.addr(); ok {
		if why := address.Check(a, nil, false); why != "" {
			return fmt.Errorf("the address is %s (private addresses belong in allow_private_hosts)", why)
		}
	}
	if _, ok := p.exact[t]; !ok {
		p.exact[t] = rule{}
	}
	return nil
}

// allowBelow allows the subdomains of a name, at any depth, but not the name
// itself. It refuses names below which anyone can register a subdomain.
func (p *Policy) allowBelow(s string) error {
	t, _, err := operatorTarget(s)
	if err != nil {
		return err
	}
	if _, isAddr := t.addr(); isAddr {
		return errors.New("an address has no subdomains")
	}
	suffix, _ := publicsuffix.PublicSuffix(t.Host)
	if suffix == t.Host {
		return errors.New("anyone can register a name below it: list the hosts instead")
	}
	p.below[t] = rule{}
	return nil
}

func (p *Policy) allowPrivate(s string) error {
	t, hasPort, err := operatorTarget(s)
	if err != nil {
		return err
	}
	if !hasPort {
		return errors.New("a private host needs its port")
	}
	if a, ok := t.addr(); ok {
		if why := address.Check(a, nil, true); why != "" {
			return fmt.Errorf("the address is %s, which cannot be allowed", why)
		}
	}
	p.exact[t] = rule{private: true}
	return nil
}

// injectForm matches HOST[:PORT]=SECRET[/KEY]:HEADER[:SCHEME]. It is compiled on
// first use, because compiling takes two milliseconds.
var injectForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([^=]+)=([a-z0-9][a-z0-9-]*)(?:/([A-Za-z_][A-Za-z0-9_]*))?:([^:]+)(?::([A-Za-z][A-Za-z0-9._-]*))?$`)
})

func (p *Policy) addInjection(s string) error {
	m := injectForm().FindStringSubmatch(s)
	if m == nil {
		return errors.New("it must have the form HOST[:PORT]=SECRET[/KEY]:HEADER[:SCHEME]")
	}
	t, _, err := operatorTarget(m[1])
	if err != nil {
		return err
	}
	r, ok := p.exact[t]
	switch {
	case !ok:
		return fmt.Errorf("the host must be allowed by its exact name: add --allow-host %s", t)
	case r.inject != nil:
		return errors.New("the host already has an injection")
	case !httpguts.ValidHeaderFieldName(m[4]) || isReserved(m[4]):
		return fmt.Errorf("the header %q cannot be set", m[4])
	}
	i := Injection{Target: t, Secret: m[2], Key: m[3], Header: textproto.CanonicalMIMEHeaderKey(m[4]), Scheme: m[5]}
	r.inject = &i
	p.exact[t] = r
	p.injections = append(p.injections, i)
	return nil
}

// isReserved reports whether the proxy itself sets a header.
func isReserved(name string) bool {
	switch textproto.CanonicalMIMEHeaderKey(name) {
	case "Host", "Content-Length", "Content-Encoding", "Accept-Encoding", "Transfer-Encoding", "Connection", "Keep-Alive",
		"Te", "Trailer", "Upgrade", "Range", "If-Range", "Expect", "Proxy-Authorization", "Proxy-Connection":
		return true
	}
	return false
}
