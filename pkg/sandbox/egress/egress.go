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

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
)

// Resolver finds the addresses of a name; *net.Resolver does.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Config of a Proxy. A zero field has the default that its comment names.
type Config struct {
	Policy *Policy
	// Secret returns the value of an injection's secret as it is now. It is
	// asked for each request. Needed where the policy has injections.
	Secret func(Injection) (string, error)
	// Observe is told of every attempt once it has ended; nil is nobody. The
	// sandbox's connection waits for it.
	Observe func(Attempt)
	Logger  *slog.Logger // nil discards

	Resolver Resolver       // the machine's
	Roots    *x509.CertPool // that hosts with injections are verified by: the machine's
	CAFile   string         // certificates of authorities that sandboxes trust, in PEM; "" is none but ours
	CALife   time.Duration  // of the certificate that sandboxes trust for injections (48 h); sockets must not be older than half of it

	MaxConns    int           // connections of one sandbox at one time (128)
	MaxBytes    int64         // both ways together, of one session (1 GiB)
	MaxAttempts int64         // of one session (10,000)
	DialLimit   time.Duration // for finding and reaching a host (15 s)
	IdleLimit   time.Duration // silence of a connection (2 min)
	TotalLimit  time.Duration // of one connection or request (1 h)
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Observe == nil {
		c.Observe = func(Attempt) {}
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	c.CALife = cmp.Or(c.CALife, 48*time.Hour)
	c.MaxConns = cmp.Or(c.MaxConns, 128)
	c.MaxBytes = cmp.Or(c.MaxBytes, 1<<30)
	c.MaxAttempts = cmp.Or(c.MaxAttempts, 10000)
	c.DialLimit = cmp.Or(c.DialLimit, 15*time.Second)
	c.IdleLimit = cmp.Or(c.IdleLimit, 2*time.Minute)
	c.TotalLimit = cmp.Or(c.TotalLimit, time.Hour)
	return c
}

// Proxy owns the sockets. Its methods may be called at the same time.
type Proxy struct {
	cfg    Config
	bundle []byte // of the machine's authorities, PEM
	own    func() ([]netip.Addr, error)

	sockets socket.Set[*Socket]

	mu        sync.Mutex
	authority *authority // guarded by mu; nil without injections
}

// New returns a Proxy without sockets. The secrets of all injections must be
// there. The caller calls Close at the end.
func New(cfg Config) (*Proxy, error) {
	p := &Proxy{cfg: cfg.withDefaults(), own: ownAddresses}
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
		return nil, fmt.Errorf("egress: make the certificate of the proxy: %w", err)
	}
	return p, nil
}

// currentAuthority returns the authority for a new sandbox, nil where there are
// no injections. One that has lived half of its life is replaced: sandboxes
// keep the one that they began with.
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

// Close closes every socket as Socket.Close does and refuses new ones. When
// ctx ends first it returns ctx's error while the closing goes on.
func (p *Proxy) Close(ctx context.Context) error {
	if err := p.sockets.Close(ctx); err != nil {
		return fmt.Errorf("close egress: %w", err)
	}
	return nil
}

func (p *Proxy) add(s *Socket) error {
	if !p.sockets.Add(s) {
		return &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "the egress proxy is closed"}
	}
	return nil
}
