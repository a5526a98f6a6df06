package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/daemon/crash"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
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
	// Reload reads the settings again. If it is set, changes of ConfigFile, the
	// model script and the skills are applied while the service runs.
	Reload     func() (config.Config, error)
	ConfigFile string
}

// Service is a running HTTP service.
type Service struct {
	*Machine
	listener net.Listener
	secret   string    // the current internal secret
	previews *previews // nil if disabled
	prompts  *prompt.Service
	failed   chan struct{} // closed when serving has ended
	err      error         // of serving; read after failed
	undo     teardown

	closeControl func() error // nil in a trial
	cancel       context.CancelFunc
	background   sync.WaitGroup // pruning, watching the disk, previews
	stopWatching func()         // ends and awaits the watcher of settings
}

// streamGrace is how much longer than jobs the streams may take, so that those
// who follow a job that is stopped receive its last event.
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
	// The lock comes first: prepare removes what ended processes have left, and
	// must not meet a service that runs.
	if !o.Trial {
		if err = svc.lock(s); err != nil {
			return nil, err
		}
		limitMemory(s, o.Logger)
		shareProcessors(s)
	}
	// What setup has to provide is checked before a sandbox is started.
	values, bin, err := s.needed(o.Trial)
	if err != nil {
		return nil, err
	}
	svc.secret = values[0]
	if svc.Machine, err = OpenMachine(ctx, s, bin, o.Logger); err != nil {
		return nil, err
	}
	svc.undo.addClose(svc.Machine.Close)
	if err = svc.prepare(ctx, o.Trial); err != nil {
		return nil, err
	}
	// The port is opened only now: a client that connects is served.
	if err = svc.listen(s, o); err != nil {
		return nil, err
	}
	srv, err := svc.server(s, o, values)
	if err != nil {
		return nil, err
	}
	if !o.Trial {
		if err = svc.claim(s, o.Logger); err != nil {
			return nil, err
		}
	}
	svc.run(ctx, srv, o)
	return svc, nil
}

// claim makes this the one service of the state directory, for the commands on
// this machine.
func (s *Service) claim(state *State, log *slog.Logger) error {
	if err := s.startControl(state, log); err != nil {
		return err
	}
	if err := s.spares.Apply(spareLimits(state.Config)); err != nil {
		return err
	}
	// After a sandbox was tried: without root, the kernel refuses user namespaces
	// to the children of a process that is hardened.
	if err := crash.Harden(); err != nil {
		return err
	}
	if err := s.noteAddress(state); err != nil {
		log.Warn("note the address of the service", "error", err)
	}
	return nil
}

// run starts everything that goes on until Close.
func (s *Service) run(ctx context.Context, srv *server.Server, o Options) {
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if !o.Trial {
		s.background.Go(func() { s.prune(ctx) })
		s.background.Go(func() { s.watchDisk(ctx) })
	}
	s.stopWatching = s.watch(o)
	if s.previews != nil && s.previews.listener != nil {
		s.background.Go(func() { s.previews.serve(ctx, o.Logger) })
	}
	go func() {
		defer close(s.failed)
		s.err = srv.Serve(ctx, s.listener)
	}()
}

// watch applies changed settings, if o says so, until stop is called.
func (s *Service) watch(o Options) (stop func()) {
	if o.Reload == nil {
		return func() {}
	}
	w := &watcher{service: s, file: o.ConfigFile, load: o.Reload, cfg: s.state.Config}
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

// Close stops serving gracefully, then closes the machine. The grace of jobs and
// that of streams run at the same time.
func (s *Service) Close() error {
	s.stopWatching() // first: a reload opens an upstream
	var err error
	if s.closeControl != nil { // before the jobs: a program of an operator holds its sandbox
		err = s.closeControl()
	}
	jobs := make(chan error, 1)
	go func() { jobs <- s.endJobs() }()
	s.cancel()
	<-s.failed
	s.background.Wait()
	return errors.Join(err, s.err, <-jobs, s.undo.run(context.Background()))
}

// URL returns the address of the service.
func (s *Service) URL() string { return "http://" + s.listener.Addr().String() }

// Secret returns the internal secret that the service accepts.
func (s *Service) Secret() string { return s.secret }

// PreviewsAt returns where browsers find games, or "" if there are no previews.
func (s *Service) PreviewsAt() string {
	if s.previews == nil {
		return ""
	}
	return s.previews.service.Place().String()
}

// lock keeps a second service off the state directory.
func (s *Service) lock(state *State) error {
	f, err := os.OpenFile(state.Path(lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return notWritable(state.Config.State, err)
	}
	if err := statefile.TryLock(f); err != nil {
		defer f.Close()
		if !errors.Is(err, statefile.ErrLocked) {
			return fmt.Errorf("lock the state directory: %w", err)
		}
		holder := ""
		if note, _ := os.ReadFile(f.Name()); len(note) > 0 {
			holder = " (" + strings.TrimSpace(string(note)) + ")"
		}
		return &dreamcore.Error{
			Code: dreamcore.CodeConflict, Reason: ReasonState, Message: "another server uses the state directory " + state.Config.State + holder,
			Hint: "stop that server, or use another directory",
		}
	}
	// Released by the close of the state: until then, disks of users are mounted.
	state.unlock = func() {
		_ = f.Truncate(0)
		_ = f.Close()
	}
	return nil
}

// noteAddress writes into the lock file which process holds it, for the error
// of a second service.
func (s *Service) noteAddress(state *State) error {
	return os.WriteFile(state.Path(lockFile), fmt.Appendf(nil, "process %d, %s\n", os.Getpid(), s.URL()), 0o600)
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

// listen opens the listener of the service and its previews.
func (s *Service) listen(state *State, o Options) (err error) {
	if s.listener, err = listen(state.Config.Listen, ReasonListen, "use another address"); err != nil {
		return err
	}
	s.undo.addClose(func() error { _ = s.listener.Close(); return nil }) // usually closed already
	if o.Trial {
		return nil
	}
	if s.previews, err = state.openPreviews(s.listener.Addr(), o.Logger); err != nil {
		return err
	}
	s.undo.addClose(s.previews.close)
	return nil
}

// server returns the HTTP server.
func (s *Service) server(state *State, o Options, secrets []string) (_ *server.Server, err error) {
	if s.prompts, err = s.Prompts(); err != nil {
		return nil, err
	}
	return server.New(server.Config{
		Version: o.Version, Generator: s.Jobs, Journal: s.Journal, Prober: s.Prober, Projects: state.Volumes, Audit: s.audit,
		Editor: project.New(state.Volumes, s.history), Skills: state.Volumes, Previews: s.previews.onService(), Prompts: s.prompts,
		Secrets:         (&internalSecrets{state: state, log: o.Logger, values: secrets, read: time.Now()}).current,
		DefaultLanguage: dreamcore.Language(state.Config.Language), Logger: o.Logger, Health: s.health,
		Limits: server.Limits{GraceLimit: state.Config.Grace + streamGrace},
	})
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

// prune removes old logs of jobs, and old versions that other processes have
// left beyond their bounds, until ctx ends.
func (m *Machine) prune(ctx context.Context) {
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
		removed, err := m.Journal.Prune(ctx, m.oldestLog(), 0)
		if err != nil && ctx.Err() == nil {
			m.log.Error("remove old logs of jobs", "error", err)
		}
		if removed > 0 {
			m.log.Info("removed old logs of jobs", "count", removed)
		}
	}
}

// oldestLog returns the time before which logs of jobs are removed.
func (m *Machine) oldestLog() time.Time { return time.Now().AddDate(0, 0, -int(m.keepDays.Load())) }
