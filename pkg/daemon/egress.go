package daemon

import (
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/egress"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
)

// openEgress opens the proxy through which sandboxes reach the configured hosts.
// It returns nil if no host is configured. A missing secret is an error at the
// start, not at the first request.
func (m *Machine) openEgress() (*egress.Proxy, error) {
	c := m.state.Config
	policy, err := egress.ParsePolicy(c.AllowHosts, c.AllowPrivateHosts, c.Inject)
	if err != nil || policy.Empty() {
		return nil, err
	}
	secrets := &egressSecrets{state: m.state, values: map[egress.Injection]egressSecret{}}
	return egress.New(egress.Config{
		Policy: policy, Secret: secrets.value, Logger: m.log, Observe: m.recordEgress,
		CAFile: egress.FindBundle(m.state.env.CAFile), CALife: 2 * (c.SandboxMaxAge + c.Timeout + time.Hour),
		MaxBytes: int64(c.EgressMiB) << 20,
	})
}

// recordEgress writes a connection attempt of a sandbox to the audit log.
func (m *Machine) recordEgress(a egress.Attempt) {
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

// egressSecrets returns the current values of injections, so that a new value
// needs no restart. Values are read again after secretAge at the latest.
type egressSecrets struct {
	state *State

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
