package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/server"
)

// How unused parts are probed, and how many failures in a row count.
const (
	probeInterval    = 15 * time.Second // between two probes of what fails
	unusedLimit      = 5 * time.Minute  // after which it is probed
	probeLimit       = 30 * time.Second // of one probe
	upstreamFailures = 3
	sandboxFailures  = 2
)

// checks are the conditions for games to be made. The numbers are in the metrics.
func (m *Machine) checks() []server.Check {
	o := m.observer
	return []server.Check{
		{Name: "disk", Fault: "the disk is nearly full", Err: m.state.Volumes.CheckFree()},
		{Name: "sandbox", Fault: "sandboxes do not start", Err: m.sandboxFault()},
		{Name: "upstream", Fault: "the model API cannot be reached", Err: o.upstream.failed(upstreamFailures)},
		{Name: "queue", Fault: "the queue is full", Err: m.queueFault()},
		{Name: "draining", Fault: "the service is stopping", Err: m.drainFault()},
	}
}

func (m *Machine) sandboxFault() error {
	if err := m.notReady(); err != nil {
		return err
	}
	return m.observer.sandboxes.failed(sandboxFailures)
}

func (m *Machine) queueFault() error {
	l := m.Jobs.Load()
	if l.Running < l.MaxRunning || l.Queued < l.MaxQueued {
		return nil
	}
	return fmt.Errorf("%d jobs are waiting", l.Queued)
}

func (m *Machine) drainFault() error {
	if !m.observer.draining.Load() {
		return nil
	}
	return errors.New("a stop was requested")
}

// readiness returns whether each check passes.
func (m *Machine) readiness() map[string]bool {
	ok := map[string]bool{}
	for _, c := range m.checks() {
		ok[c.Name] = c.Err == nil
	}
	return ok
}

// watchReadiness probes sandboxes and the model API until ctx ends: what fails, so
// that it is noticed when it works again although load balancers send no requests,
// and parts that were not used for a while.
func (m *Machine) watchReadiness(ctx context.Context) {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		m.probe(ctx)
	}
}

// probe probes the parts that are due. A service that is not ready yet is made ready by
// watchDisk.
func (m *Machine) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	o := m.observer
	if o.sandboxes.stale(unusedLimit) && m.notReady() == nil {
		err := m.checkSandboxes(ctx)
		if ctx.Err() == nil || err == nil {
			o.sandboxes.note(err)
		}
	}
	if list := o.list.Load(); list != nil && o.upstream.stale(unusedLimit) {
		err := list.Reach(ctx)
		if ctx.Err() == nil || err == nil {
			o.upstream.note(err)
		}
	}
}
