package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/daemon/crash"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

// Options are how a Service is started.
type Options struct {
	Version string // reported by /health
	Logger  *slog.Logger
	// Trial starts a server only to check it: it leaves everything alone that
	// belongs to the one service of a state directory, has no control socket, no
	// previews and no standby sandboxes, and does not need the agent.
	Trial bool
	// Reload reads the settings again, for each value of Reloads, and with Watch for
	// each change of ConfigFile, the model script and the skills; may be nil.
	Reload     func() (config.Config, error)
	Reloads    <-chan struct{}
	Watch      bool
	ConfigFile string
	// Inherited are listening sockets that the parent process has opened for the
	// service and its previews, and keeps open when the service ends. Start closes
	// them. With one of them, Start waits for another service of the state directory
	// to end, because clients can wait too.
	Inherited []*os.File
}

// Service is a running HTTP service.
type Service struct {
	*Machine
	listeners listeners
	server    *server.Server
	secret    string       // the current internal secret
	previews  *previews    // nil if disabled
	metrics   net.Listener // nil if metrics are at the address of the service
	prompts   *prompt.Service
	failed    chan struct{} // closed when serving has ended
	err       error         // of serving; read after failed
	undo      teardown

	drainControl func()       // nil in a trial
	closeControl func() error // nil in a trial
	cancel       context.CancelFunc
	background   sync.WaitGroup // pruning, watching the disk, previews
	stopWatching func()         // ends and awaits the watcher of settings
}

// streamGrace is the least time that streams have after the end of the jobs, so that
// those who follow one receive its last event.
const streamGrace = 10 * time.Second

// Start starts a service on the state directory. The steps are ordered so that a
// fault is found before work is done in vain. The caller must close the service
// before the state.
func Start(ctx context.Context, s *State, o Options) (_ *Service, err error) {
	svc := &Service{failed: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, svc.undo.run(context.WithoutCancel(ctx)))
			s.release()
		}
	}()
	if svc.listeners, err = inheritListeners(ctx, o.Inherited, s.Config); err != nil {
		return nil, err
	}
	svc.undo.addClose(func() error { svc.listeners.close(); return nil })
	// The lock comes before everything else: prepare removes what ended processes
	// have left, and must not meet a service that runs.
	if !o.Trial {
		if err = svc.takeOver(ctx, s, o.Logger); err != nil {
			return nil, err
		}
		limitMemory(s, o.Logger)
		warnOfFewSandboxes(s.Config.MaxSandboxes, o.Logger)
		shareProcessors(s)
	}
	// What setup has to provide is checked before a sandbox is started.
	values, bin, err := s.needed(o.Trial)
	if err != nil {
		return nil, err
	}
	svc.secret = values[0]
	if svc.Machine, err = openMachine(ctx, s, bin, o.Logger, !o.Trial); err != nil {
		return nil, err
	}
	svc.undo.addClose(svc.Machine.Close)
	if s.Config.ShareSpending && !o.Trial {
		if err = svc.shareSpending(s); err != nil {
			return nil, err
		}
	}
	if err = svc.prepare(ctx, o.Trial); err != nil {
		return nil, err
	}
	// The port is opened only now: a client that connects is served. An inherited one
	// is open already, and its clients have waited.
	if err = svc.openListeners(s, o); err != nil {
		return nil, err
	}
	if err = svc.openServer(s, o, values); err != nil {
		return nil, err
	}
	if !o.Trial {
		if err = svc.claim(s, o.Logger); err != nil {
			return nil, err
		}
	}
	svc.run(ctx, o)
	return svc, nil
}

// claim makes this the one service of the state directory, for the commands on
// this machine.
func (s *Service) claim(state *State, log *slog.Logger) error {
	if err := s.startControl(state, log); err != nil {
		return err
	}
	s.spares.Apply(spareLimits(state.Config))
	s.workspaces.Apply(s.workspaceSettings(state.Config))
	// After a sandbox was tried: without root, the kernel refuses user namespaces
	// to the children of a process that is hardened.
	if err := crash.Harden(); err != nil {
		return err
	}
	if err := s.noteHolder(state, ""); err != nil {
		log.Warn("note the address of the service", "error", err)
	}
	return nil
}

// run starts everything that goes on until Close.
func (s *Service) run(ctx context.Context, o Options) {
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if !o.Trial {
		s.background.Go(func() { s.pruneHistory(ctx) })
		takeUp := func() {} // makeReady does it later
		if s.notReady() == nil {
			takeUp = s.takeUpJobs() // before anything is served
		}
		s.background.Go(func() {
			takeUp()
			s.keepJobs(ctx)
		})
		s.background.Go(func() { s.eraseAgain(ctx) })
		if s.spending != nil {
			s.background.Go(func() { s.spending.Run(ctx) })
		}
		s.background.Go(func() { s.watchDisk(ctx) })
		s.background.Go(func() { s.watchReadiness(ctx) })
	}
	s.stopWatching = s.watch(o)
	if s.previews != nil && s.previews.listener != nil {
		s.background.Go(func() { s.previews.serve(ctx, o.Logger) })
	}
	if s.metrics != nil {
		s.background.Go(func() { serveMetrics(ctx, s.metrics, s.observer.metrics.Handler(), s.log) })
	}
	go func() {
		defer close(s.failed)
		s.err = s.server.Serve(ctx, s.listeners.service)
	}()
}

// watch applies changed settings as o says until stop is called.
func (s *Service) watch(o Options) (stop func()) {
	if o.Reload == nil {
		return func() {}
	}
	w := &watcher{service: s, file: o.ConfigFile, load: o.Reload, cfg: s.state.Config, polls: o.Watch, requests: o.Reloads}
	w.begin()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// Failed returns a channel that is closed when the service no longer serves.
// Close returns the reason.
func (s *Service) Failed() <-chan struct{} { return s.failed }

// Close ends the jobs, stops serving gracefully, and closes the machine. While jobs
// end, everything is answered but new generations.
func (s *Service) Close() error {
	s.stopWatching() // first: a reload opens an upstream
	s.server.Drain()
	s.observer.draining.Store(true)
	// A command that deletes a user waits for it on the control socket. The next
	// process completes the deletion.
	err := s.accounts.Close()
	if s.closeControl != nil { // before the jobs: a program of an operator holds its sandbox
		s.drainControl()
		if err := s.noteHolder(s.state, ", stopping"); err != nil {
			s.log.Warn("note that the service is stopping", "error", err)
		}
	}
	s.drain()
	if s.closeControl != nil {
		err = errors.Join(err, s.closeControl())
	}
	s.cancel()
	<-s.failed
	s.background.Wait()
	return errors.Join(err, s.err, s.undo.run(context.Background()))
}

// URL returns the address of the service.
func (s *Service) URL() string { return "http://" + s.listeners.service.Addr().String() }

// Secret returns the internal secret that the service accepts.
func (s *Service) Secret() string { return s.secret }

// PreviewsAt returns where browsers find games, or "" if there are no previews.
func (s *Service) PreviewsAt() string {
	if s.previews == nil {
		return ""
	}
	return s.previews.service.Place().String()
}

// needed returns what the service needs from setup: the internal secrets and the
// agent. It also checks the key, unless a script replaces the model. In a trial
// the agent may be missing, so that sandboxes can be checked before setup has
// installed it.
func (s *State) needed(trial bool) (secrets []string, bin agent.Binary, err error) {
	store, err := s.OpenSecrets()
	if err != nil {
		return nil, bin, err
	}
	if secrets, err = store.InternalValues(); err != nil {
		return nil, bin, err
	}
	s.Redactor.Add(secrets...)
	if s.Config.ModelScript == "" {
		if err := s.CheckModel(); err != nil && len(s.Config.Upstreams) > 0 {
			return nil, bin, err
		} else if err != nil {
			return nil, bin, &dreamcore.Error{
				Code: dreamcore.CodeSetup, Reason: ReasonNoKey, Message: "there is no key for the model API", Err: err,
				Hint: "store a key, or use the model script " + replay.DemoName,
			}
		}
	}
	if bin, err = s.Agent(); err != nil && !trial {
		return nil, bin, err
	}
	return secrets, bin, nil
}

// openListeners opens the listener of the service, unless it was inherited, and its
// previews.
func (s *Service) openListeners(state *State, o Options) (err error) {
	if s.listeners.service == nil {
		if s.listeners.service, err = listen(state.Config.Listen, ReasonListen, "use another address"); err != nil {
			return err
		}
	}
	if o.Trial {
		return nil
	}
	if s.previews, err = state.openPreviews(s.listeners.service.Addr(), s.listeners.previews, o.Logger); err != nil {
		return err
	}
	s.undo.addClose(s.previews.close)
	if state.Config.MetricsListen == "" {
		return nil
	}
	if s.metrics, err = listen(state.Config.MetricsListen, "", "set metrics_listen to another address"); err != nil {
		return err
	}
	s.undo.addClose(func() error { _ = s.metrics.Close(); return nil }) // usually closed already
	return nil
}

// openServer creates the HTTP server.
func (s *Service) openServer(state *State, o Options, secrets []string) (err error) {
	if s.prompts, err = s.Prompts(s.admit); err != nil {
		return err
	}
	links, err := state.linkKey(o.Trial)
	if err != nil {
		return err
	}
	proxies, err := server.ParseProxies(state.Config.TrustedProxies)
	if err != nil {
		return err
	}
	s.server, err = server.New(server.Config{
		Ready: s.checks, Metrics: s.metricsOnServer(o), Observe: s.observer.metrics.Request, Proxies: proxies,
		LinkKey: links, CORSOrigins: state.Config.CORSOrigins,
		Version: o.Version, Generator: s.Jobs, Jobs: s.Jobs, Workspaces: s.workspaces, Journal: s.Journal, Prober: s.Prober, Projects: state.Volumes, Audit: s.audit,
		Editor: project.New(state.Volumes, s.history), Skills: state.Volumes, Previews: s.previews.onService(), Prompts: s.prompts, Accounts: s.accounts, Moves: s.movesOf(o),
		Games: s.Jobs, CheckApplied: s.checkApplied.Load,
		Secrets:         (&internalSecrets{state: state, log: o.Logger, values: secrets, read: time.Now()}).current,
		DefaultLanguage: dreamcore.Language(state.Config.Language), Logger: o.Logger, Health: s.health,
		Limits: server.Limits{GraceLimit: max(state.Config.Grace, streamGrace)},
	})
	return err
}

// internalSecrets returns the internal secrets that are valid at the moment, so
// that a rotation needs no restart. They are read again after secretAge at the
// latest; while they cannot be read, the last ones stay valid.
type internalSecrets struct {
	state *State
	log   *slog.Logger

	mu     sync.Mutex
	values []string  // guarded by mu
	read   time.Time // guarded by mu
}

const secretAge = 2 * time.Second

func (i *internalSecrets) current() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Since(i.read) < secretAge {
		return i.values
	}
	i.read = time.Now()
	store, err := i.state.OpenSecrets()
	if err == nil {
		var values []string
		if values, err = store.InternalValues(); err == nil {
			for _, v := range values {
				i.state.hide(v)
			}
			i.values = values
			return values
		}
	}
	i.log.Error("read the internal secret", "error", err)
	return i.values
}

// pruneInterval is how often old logs of jobs are removed while the service
// runs. They are also removed when it starts.
const pruneInterval = time.Hour

// pruneHistory removes the old versions that other processes have left beyond their
// bounds, until ctx ends.
func (m *Machine) pruneHistory(ctx context.Context) {
	tick := time.NewTicker(pruneInterval)
	defer tick.Stop()
	for {
		if _, err := m.history.PruneAll(ctx); err != nil && ctx.Err() == nil {
			m.log.Error("remove old versions", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// keepJobs removes old logs of jobs and makes the index follow the logs, until ctx
// ends. Both look at every log.
func (m *Machine) keepJobs(ctx context.Context) {
	tick := time.NewTicker(pruneInterval)
	defer tick.Stop()
	for {
		removed, err := m.Journal.Prune(ctx, m.oldestLog(), 0)
		if err != nil && ctx.Err() == nil {
			m.log.Error("remove old logs of jobs", "error", err)
		}
		if removed > 0 {
			m.log.Info("removed old logs of jobs", "count", removed)
		}
		if m.notReady() == nil { // it takes up jobs
			if err := m.Jobs.Reconcile(ctx); err != nil && ctx.Err() == nil {
				m.log.Error("make the index of jobs follow their logs", "error", err)
			}
		}
		if err := m.Jobs.PruneDamaged(ctx, m.oldestLog()); err != nil && ctx.Err() == nil {
			m.log.Error("remove damaged logs of jobs", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-m.reconcile:
		case <-tick.C:
		}
	}
}

// oldestLog returns the time before which logs of jobs are removed.
func (m *Machine) oldestLog() time.Time { return time.Now().AddDate(0, 0, -int(m.keepDays.Load())) }
