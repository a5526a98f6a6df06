package egress

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/system/address"
	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
)

// Resolver resolves names; *net.Resolver implements it.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Config configures a Proxy. Zero fields have the defaults in their comments.
type Config struct {
	Policy *Policy
	// Secret returns the current value of an injection's secret. It is called
	// for each request. It is required if the policy has injections.
	Secret func(Injection) (string, error)
	// Observe is called with every attempt once it has ended; may be nil. The
	// sandbox's connection waits for it to return.
	Observe func(Attempt)
	Logger  *slog.Logger // nil discards

	Resolver Resolver       // default: the host's
	Roots    *x509.CertPool // verify hosts with injections; default: the host's
	CAFile   string         // PEM file of authorities that sandboxes trust in addition to the proxy's; optional
	CALife   time.Duration  // lifetime of the certificate for injections (48 h); sockets must not live longer than half of it

	MaxConns    int           // concurrent connections of one sandbox (128)
	MaxBytes    int64         // per session, both directions together (1 GiB)
	MaxAttempts int64         // per session (10,000)
	DialLimit   time.Duration // resolving and connecting (15 s)
	IdleLimit   time.Duration // inactivity of a connection (2 min)
	TotalLimit  time.Duration // duration of one connection or request (1 h)
}

func (c Config) withDefaults() Config {
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	if c.Observe == nil {
		c.Observe = func(Attempt) {}
	}
	c.Resolver = cmp.Or[Resolver](c.Resolver, net.DefaultResolver)
	c.CALife = cmp.Or(c.CALife, 48*time.Hour)
	c.MaxConns = cmp.Or(c.MaxConns, 128)
	c.MaxBytes = cmp.Or(c.MaxBytes, 1<<30)
	c.MaxAttempts = cmp.Or(c.MaxAttempts, 10000)
	c.DialLimit = cmp.Or(c.DialLimit, 15*time.Second)
	c.IdleLimit = cmp.Or(c.IdleLimit, 2*time.Minute)
	c.TotalLimit = cmp.Or(c.TotalLimit, time.Hour)
	return c
}

// Proxy owns the sockets. Its methods are safe for concurrent use.
type Proxy struct {
	cfg    Config
	bundle []byte // the host's authorities, PEM
	own    func() ([]netip.Addr, error)

	sockets socket.Set[*Socket]

	mu        sync.Mutex
	authority *authority // guarded by mu; nil without injections
}

// New returns a Proxy without sockets. The secrets of all injections must exist.
// The caller must Close it.
func New(cfg Config) (*Proxy, error) {
	p := &Proxy{cfg: cfg.withDefaults(), own: address.Own}
	for _, i := range p.cfg.Policy.Injections() {
		if p.cfg.Secret == nil {
			return nil, errors.New("egress: injections without secrets")
		}
		if _, err := p.credential(i); err != nil {
			return nil, err
		}
	}
	var err error
	if p.bundle, err = readBundle(p.cfg.CAFile); err != nil {
		return nil, err
	}
	if _, err := p.currentAuthority(); err != nil {
		return nil, fmt.Errorf("egress: create the proxy's certificate: %w", err)
	}
	return p, nil
}

// currentAuthority returns the authority for a new sandbox, or nil without
// injections. It replaces an authority after half of its lifetime; existing
// sandboxes keep the one that they started with.
func (p *Proxy) currentAuthority() (*authority, error) {
	injections := p.cfg.Policy.Injections()
	if len(injections) == 0 {
		return nil, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.authority == nil || time.Until(p.authority.cert.NotAfter) < p.cfg.CALife/2 {
		a, err := newAuthority(injections, p.cfg.CALife)
		if err != nil {
			return nil, err
		}
		p.authority = a
	}
	return p.authority, nil
}

// Close closes every socket as Socket.Close does and refuses new ones. If ctx
// ends first, it returns ctx's cause while closing continues.
func (p *Proxy) Close(ctx context.Context) error {
	if err := p.sockets.Close(ctx); err != nil {
		return fmt.Errorf("close egress: %w", err)
	}
	return nil
}
