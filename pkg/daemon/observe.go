package daemon

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/api/metrics"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/model/upstream"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// observer sees what sandboxes and the model API do. It feeds the metrics, if there
// are any, and knows what works.
type observer struct {
	metrics   *metrics.Metrics // set before anything is observed; nil counts nothing
	sandboxes condition
	upstream  condition
	list      atomic.Pointer[upstream.List] // to probe; nil with a model script
	draining  atomic.Bool
}

// condition is whether something works, as far as its last uses tell.
type condition struct {
	mu       sync.Mutex
	failures int       // guarded by mu; in a row
	err      error     // guarded by mu; the last one of them
	seen     time.Time // guarded by mu; when it was last used
}

// note records a use.
func (c *condition) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = time.Now()
	if c.err = err; err == nil {
		c.failures = 0
	} else {
		c.failures++
	}
}

// failed returns the last error after so many failures in a row, or nil.
func (c *condition) failed(failures int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failures < failures {
		return nil
	}
	return c.err
}

// stale reports whether a probe is due: the last use failed, or was long ago.
func (c *condition) stale(after time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failures > 0 || time.Since(c.seen) > after
}

// observedUpstream is an upstream whose answers are observed.
type observedUpstream struct {
	gateway.Upstream
	observer *observer
}

// Send implements gateway.Upstream.
func (u observedUpstream) Send(ctx context.Context, call gateway.Call) (*gateway.Answer, error) {
	begun := time.Now()
	answer, err := u.Upstream.Send(ctx, call)
	name := ""
	if err == nil {
		name = answer.Upstream
	}
	outcome := modelOutcome(ctx, answer, err)
	u.observer.metrics.ModelRequest(name, outcome, time.Since(begun))
	switch outcome {
	case metrics.ModelUnreachable:
		u.observer.upstream.note(err)
	case metrics.ModelCancelled: // says nothing about the upstream
	default:
		u.observer.upstream.note(nil)
	}
	return answer, err
}

func modelOutcome(ctx context.Context, answer *gateway.Answer, err error) metrics.ModelOutcome {
	const overloaded = 529 // of the vendor
	switch {
	case errors.Is(err, gateway.ErrNoCredential):
		return metrics.ModelRefused
	case err != nil && errors.Is(context.Cause(ctx), context.Canceled):
		return metrics.ModelCancelled
	case err != nil:
		return metrics.ModelUnreachable
	case answer.Good():
		return metrics.ModelAnswered
	case answer.StatusCode == http.StatusTooManyRequests, answer.StatusCode == overloaded:
		return metrics.ModelOverloaded
	case answer.StatusCode >= 400 && answer.StatusCode < 500:
		return metrics.ModelRefused
	}
	return metrics.ModelFailed
}

// observedSandboxes are sandboxes whose starts are observed.
type observedSandboxes struct {
	workspace.Sandboxes
	observer *observer
}

// Create implements workspace.Sandboxes.
func (s observedSandboxes) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	begun := time.Now()
	sb, err := s.Sandboxes.Create(ctx, spec)
	if err != nil && ctx.Err() != nil {
		return sb, err // a start that was cancelled says nothing
	}
	s.observer.metrics.SandboxStarted(time.Since(begun), err)
	s.observer.sandboxes.note(err)
	return sb, err
}

// spent counts a record of the ledger.
func (o *observer) spent(r usage.Record) {
	const nanos = 1e9
	o.metrics.ModelSpent(metrics.Spent{
		Input: r.Input, Output: r.Output, CacheRead: r.CacheRead, CacheWrite: r.CacheWrite + r.CacheWrite1h, Dollars: float64(r.Cost) / nanos,
	})
}

// jobEnded counts a job that has ended.
func (o *observer) jobEnded(j dreamcore.Job) {
	since := func(from, to time.Time) time.Duration {
		if from.IsZero() || to.IsZero() {
			return -1
		}
		return max(to.Sub(from), 0)
	}
	o.metrics.JobEnded(metrics.Job{
		State: string(j.State), Code: string(j.Code),
		Waited: since(j.Created, j.Started), FirstWord: since(j.Created, j.FirstWord), Lasted: since(j.Started, j.Ended),
	})
}

// agentStarted counts how a job got its agent.
func (o *observer) agentStarted(how job.AgentStart) { o.metrics.AgentStarted(string(how)) }

// openMetrics makes the metrics of a service. It is called before anything runs.
func (m *Machine) openMetrics() {
	m.observer.metrics = metrics.New(metrics.Sources{
		Jobs: func() (queued, running int) {
			load := m.Jobs.Load()
			return load.Queued, load.Running
		},
		Sandboxes: m.countSandboxes, WarmAgents: func() int { return m.workspaces.Agents() }, DiskFree: m.state.freeForJobs, Webhooks: m.backlog, Ready: m.readiness,
		Exchanged: func() (time.Time, bool) {
			if m.spending == nil {
				return time.Time{}, false
			}
			return m.spending.Last(), true
		},
	})
}

// countSandboxes returns the number of sandboxes in each state.
func (m *Machine) countSandboxes() map[string]int {
	n := map[string]int{}
	for _, s := range []workspace.State{workspace.StateStarting, workspace.StateIdle, workspace.StateLeased, workspace.StateClosing, workspace.StateStandby, workspace.StateUnowned} {
		n[string(s)] = 0
	}
	for _, i := range (sandboxes{m.workspaces, m.spares}).List() {
		n[string(i.State)]++
	}
	return n
}

// freeForJobs returns the space that jobs can use on the disk of the state
// directory.
func (s *State) freeForJobs() (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.Config.State, &fs); err != nil {
		return 0, err
	}
	return max(int64(fs.Bavail)*fs.Bsize+s.ballast.Bytes()-int64(s.Config.MinFreeDiskMiB)<<20, 0), nil
}

// metricsHeaderLimit is how long a client of the metrics' own address may take.
const metricsHeaderLimit = 10 * time.Second

// metricsOnServer answers Prometheus at the address of the service; nil if metrics
// have an address of their own, and in a trial.
func (s *Service) metricsOnServer(o Options) http.Handler {
	if s.observer.metrics == nil {
		return nil
	}
	s.observer.metrics.SetVersion(o.Version)
	if s.metrics != nil {
		return nil
	}
	return s.observer.metrics.Handler()
}
