package main

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/egress"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// addEgress gives a command the flags that let sandboxes out. They add up
// among themselves and replace what the configuration says.
func (a *app) addEgress(c *cobra.Command) {
	flags := []setting{
		{flag: "allow-host", key: "allow_hosts", usage: "host that sandboxes reach: HOST[:PORT] or *.DOMAIN[:PORT]; may be repeated (default: none)"},
		{flag: "allow-private-host", key: "allow_private_hosts", usage: "the same for a host on a private network or this machine: HOST:PORT"},
		{flag: "inject", key: "inject", usage: "secret for the requests to an allowed host: HOST[:PORT]=SECRET[/KEY]:HEADER[:SCHEME]; may be repeated"},
	}
	values := make([]*[]string, len(flags))
	for i, s := range flags {
		values[i] = c.Flags().StringArray(s.flag, nil, s.usage)
	}
	before := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error {
		for i, s := range flags {
			if c.Flags().Changed(s.flag) {
				a.flags[s.key] = *values[i]
			}
		}
		if before != nil {
			return before(c, args)
		}
		return nil
	}
}

// openEgress makes the way out of sandboxes to the hosts of the configuration;
// nil where there are none. A secret that is missing is an error now, not at
// the first request.
func (m *machine) openEgress() (*egress.Proxy, error) {
	s := m.state
	policy, err := egress.ParsePolicy(s.cfg.AllowHosts, s.cfg.AllowPrivateHosts, s.cfg.Inject)
	if err != nil || policy.Empty() {
		return nil, err
	}
	secrets := &egressSecrets{state: s, values: map[egress.Injection]egressSecret{}}
	return egress.New(egress.Config{
		Policy: policy, Secret: secrets.value, Logger: m.log, Observe: m.recordEgress,
		CAFile: egress.FindBundle(s.env.CAFile), CALife: 2 * (s.cfg.SandboxMaxAge + s.cfg.Timeout + time.Hour),
		MaxBytes: int64(s.cfg.EgressMiB) << 20,
	})
}

// recordEgress writes an attempt of a sandbox into the audit log.
func (m *machine) recordEgress(a egress.Attempt) {
	e := audit.Entry{
		Time: a.Time, Event: audit.EventEgress, Job: a.Job, User: a.User, Sandbox: a.Sandbox,
		Method: a.Method, Target: net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port))), Status: a.Status,
		BytesIn: a.Down, BytesOut: a.Up, Verdict: audit.Verdict(a.Verdict), Reason: a.Reason,
	}
	if a.Address.IsValid() {
		e.Upstream = a.Address.String()
	}
	m.audit.Record(e)
}

// egressSecrets are the values of injections as they are now, so that a new
// one needs no restart. They are read again after secretAge at the latest.
type egressSecrets struct {
	state state

	mu     sync.Mutex
	values map[egress.Injection]egressSecret // guarded by mu
}

type egressSecret struct {
	value string
	read  time.Time
}

func (e *egressSecrets) value(i egress.Injection) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v, ok := e.values[i]; ok && time.Since(v.read) < secretAge {
		return v.value, nil
	}
	v, err := e.state.injected(i)
	if err != nil {
		return "", err
	}
	e.values[i] = egressSecret{v, time.Now()}
	return v, nil
}

// injected reads the secret of an injection, and keeps it out of everything
// that is printed from now on.
func (s state) injected(i egress.Injection) (string, error) {
	store, err := s.secrets()
	if err != nil {
		return "", err
	}
	values, err := store.Get(i.Secret)
	if err != nil {
		return "", &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: fmt.Sprintf("the secret %s for %s cannot be read", i.Secret, i.Target), Err: err,
			Hint: fmt.Sprintf("create it: dreamcore secret create %s KEY=value (or leave out --inject for %s)", i.Secret, i.Target),
		}
	}
	key := i.Key
	if key == "" && len(values) == 1 {
		for key = range values {
		}
	}
	v, ok := values[key]
	if !ok {
		return "", &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: fmt.Sprintf("the secret %s for %s has several keys, or not the one that is named", i.Secret, i.Target),
			Hint: fmt.Sprintf("see its keys: dreamcore secret list; then name one: --inject %s=%s/KEY:%s", i.Target, i.Secret, i.Header),
		}
	}
	if s.redactor.Redact(v) == v {
		s.redactor.Add(v)
	}
	return v, nil
}

// showEgress says where sandboxes may go, which is nowhere unless said so.
func (s state) showEgress(p *term.Printer) {
	if hosts := slices.Concat(s.cfg.AllowHosts, s.cfg.AllowPrivateHosts); len(hosts) > 0 {
		p.Info("Sandboxes reach " + strings.Join(hosts, ", "))
	}
	if len(s.cfg.AllowPrivateHosts) > 0 {
		p.Warning("Private hosts are open to sandboxes: " + strings.Join(s.cfg.AllowPrivateHosts, ", "))
	}
}
