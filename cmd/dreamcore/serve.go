package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/daemon/crash"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

func newServeCmd(a *app) *cobra.Command {
	var dev, unlimited bool
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the HTTP service",
		Long: "Serves the HTTP contract until SIGINT or SIGTERM, then lets running generations end.\n" +
			"It refuses to start without what setup makes, and without a sandbox that works.\n\n" +
			"With --dev it takes up skills, the model script and, of the configuration, what is said\n" +
			"of the model, the agent, the size and number of sandboxes, budgets and prices. The\n" +
			"rest needs a restart, and a change of it is named in the log.",
		Example: "  sudo dreamcore serve --listen 0.0.0.0:8080\n" +
			"  sudo dreamcore serve --model-script demo --dev\n" +
			"  sudo dreamcore serve --allow-host api.example.com --inject api.example.com=SECRET:Authorization:Bearer",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("allow-unlimited") {
				a.flags["allow_unlimited"] = unlimited
			}
			return runServe(c.Context(), a, dev)
		},
	}
	c.Flags().BoolVar(&dev, "dev", false, "take up changes of the configuration, the model script and skills while running")
	c.Flags().BoolVar(&unlimited, "allow-unlimited", false, "serve without root, which cannot limit the memory, CPU, processes and disk of sandboxes")
	a.addSettings(c, listenSetting, modelScriptSetting, rootfsSetting, imageSetting, runtimeSetting, toolsSetting, modelSetting, languageSetting, logLevelSetting)
	a.addEgress(c)
	return c
}

func runServe(ctx context.Context, a *app, dev bool) error {
	guard, err := a.startGuard()
	if err != nil {
		return err
	}
	defer guard.Close()
	s, err := a.open()
	if err != nil {
		return err
	}
	if err := a.checkUnlimited(s.cfg.AllowUnlimited); err != nil {
		return errors.Join(err, s.close())
	}
	log := a.logger(s.cfg.LogLevel)
	limitMemory(s, log)
	shareProcessors(s)
	unlock, err := lockState(s)
	if err != nil {
		return errors.Join(err, s.close())
	}
	defer unlock()
	srv, err := startService(ctx, a, s, log, true)
	if err != nil {
		return err
	}
	if err := crash.Harden(); err != nil {
		return errors.Join(err, srv.stop())
	}
	url := "http://" + srv.address()
	if err := noteAddress(s, url); err != nil {
		log.Warn("note the address", "error", err)
	}
	p := a.io.Stderr()
	p.Success("Serving on "+url, "model: "+srv.model(), "sandboxes: "+srv.machine.sandboxes())
	s.showEgress(p)
	if srv.previews != nil {
		p.Info("Games are shown at "+srv.previews.service.Place().String(), "links: dreamcore preview PROJECT")
	}
	if s.cfg.ModelScript != "" {
		p.Warning("A script stands in for the model: it answers every prompt with its own games")
	}
	p.Hint("run: dreamcore gate --all --endpoint " + url)
	var watcher func()
	if dev {
		watcher = srv.watch(a, log)
	}
	select {
	case <-ctx.Done():
		p.Info("Stopping", fmt.Sprintf("running generations have %v to end", s.cfg.Grace))
	case <-srv.failed:
	}
	if watcher != nil {
		watcher()
	}
	if err := srv.stop(); err != nil {
		// Not as the interruption that it may have begun with.
		a.io.RenderError(redacted{err, a.redactor})
		return errors.Join(errReported, err)
	}
	return nil
}

// startGuard keeps secrets out of what is printed when the service dies of a
// fault of ours. What is printed else goes past the guard: it is clean, and
// may be half a line.
//
// The memory of the service is kept from others too. For root that is so from
// the start. Without root the kernel lets nobody make user namespaces for
// children then, which is tried at the start; so it comes after it.
func (a *app) startGuard() (*crash.Guard, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	guard, err := crash.Start(exe, a.redactor)
	if err != nil {
		return nil, err
	}
	a.io.MoveErr(guard.Stderr)
	return guard, nil
}

// lockState keeps a second server off the state directory.
func lockState(s state) (func(), error) {
	f, err := os.OpenFile(s.path("serve.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, notWritable(s.cfg.State, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock the state directory: %w", err)
		}
		who, _ := os.ReadFile(f.Name())
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeConflict, Message: "another server uses the state directory " + s.cfg.State + inUse(string(who)),
			Hint: "stop that server, or name another directory with --state DIR",
		}
	}
	return func() {
		_ = f.Truncate(0)
		_ = f.Close()
	}, nil
}

func inUse(who string) string {
	if who = strings.TrimSpace(who); who == "" {
		return ""
	}
	return " (" + who + ")"
}

// noteAddress writes into the lock who has it, for the error of the second.
func noteAddress(s state, url string) error {
	return os.WriteFile(s.path("serve.lock"), fmt.Appendf(nil, "process %d, %s\n", os.Getpid(), url), 0o600)
}

// service is a running HTTP service.
type service struct {
	machine  *machine
	bin      agent.Binary
	listener net.Listener
	secret   string       // the current internal secret
	keepDays atomic.Int64 // logs of jobs are kept so long
	pruned   sync.WaitGroup
	control  *control.Server // nil for a server that is started only to be checked
	previews *previews       // nil: none
	prompts  *prompt.Service
	cancel   context.CancelFunc
	failed   chan struct{} // closed when serving has ended
	err      error         // of serving; read after failed
}

// startService makes the machine ready and serves, in an order in which each
// refusal comes before what it would waste: secrets, agent, sandboxes, the
// port. sole says that this process has the state directory's server lock. The
// state is closed with the service, or after an error.
func startService(ctx context.Context, a *app, s state, log *slog.Logger, sole bool) (_ *service, err error) {
	values, bin, err := s.needed(sole)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	m, err := openMachine(ctx, s, bin, log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close(context.WithoutCancel(ctx)))
		}
	}()
	if err = m.ready(ctx, sole); err != nil {
		if !sole || s.volumes.CheckFree() == nil {
			return nil, err
		}
		// A disk that is full is no reason to show nobody their games.
		log.Error("no game can be made until there is space on the disk of the state directory", "error", err, "hint", dreamcore.HintOf(err))
		m.unready.Store(&err)
		err = nil
	}
	ln, shown, err := s.openListeners(sole, log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ln.Close())
			shown.close()
		}
	}()
	prompts, err := m.promptService()
	if err != nil {
		return nil, err
	}
	srv, err := server.New(server.Config{
		Version: version, Generator: m.service, Journal: m.journal, Prober: m.prober, Projects: s.volumes, Audit: m.audit,
		Editor: project.New(s.volumes, m.history), Skills: s.volumes, Previews: shown.onService(), Prompts: prompts,
		Secrets:         (&internalSecrets{state: s, log: log, values: values, read: time.Now()}).current,
		DefaultLanguage: dreamcore.Language(s.cfg.Language), Logger: log, Health: m.health,
		Limits: server.Limits{GraceLimit: s.cfg.Grace + streamGrace},
	})
	if err != nil {
		return nil, err
	}
	var commands *control.Server
	if sole {
		if commands, err = control.Listen(s.path(runDir), kept{m.service, m.spares}, m.journal, shown.links(), log); err != nil {
			return nil, err
		}
		if err = m.spares.Apply(spareLimits(s.cfg)); err != nil {
			return nil, errors.Join(err, commands.Close())
		}
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	svc := &service{prompts: prompts, control: commands, previews: shown, machine: m, bin: bin, listener: ln, secret: values[0], cancel: cancel, failed: make(chan struct{})}
	svc.keepDays.Store(int64(s.cfg.JournalDays))
	if sole {
		svc.pruned.Go(func() { svc.prune(run, log) })
		svc.pruned.Go(func() { m.watchDisk(run) })
	}
	shown.start(run, log)
	go func() {
		defer close(svc.failed)
		svc.err = srv.Serve(run, ln)
	}()
	return svc, nil
}

// kept are all sandboxes that the service keeps.
type kept struct {
	*job.Service
	spares *workspace.Spares
}

// Sandboxes implements control.Sandboxes.
func (k kept) Sandboxes() []workspace.Info { return append(k.Service.Sandboxes(), k.spares.List()...) }

// StopSandbox implements control.Sandboxes.
func (k kept) StopSandbox(ctx context.Context, name string) error {
	if err := notSpare(name); err != nil {
		return err
	}
	return k.Service.StopSandbox(ctx, name)
}

// Exec implements control.Sandboxes.
func (k kept) Exec(ctx context.Context, name string, cmd sandbox.Command) (sandbox.Exit, error) {
	if err := notSpare(name); err != nil {
		return sandbox.Exit{}, err
	}
	return k.Service.Exec(ctx, name, cmd)
}

// SandboxJobs implements control.Sandboxes.
func (k kept) SandboxJobs(name string) ([]string, error) {
	if err := notSpare(name); err != nil {
		return nil, err
	}
	return k.Service.SandboxJobs(name)
}

// notSpare refuses the name that spare sandboxes have in lists.
func notSpare(name string) error {
	if name != workspace.SpareName {
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeNotFound, Message: "a spare sandbox is nobody's yet",
		Hint: "name one of a user; to keep no spare ones, set spare_sandboxes to 0",
	}
}

// openListeners opens that of the service and the previews, which a server that
// is started only to be checked does without.
func (s state) openListeners(sole bool, log *slog.Logger) (net.Listener, *previews, error) {
	ln, err := listen(s.cfg.Listen, "name another address with --listen HOST:PORT")
	if err != nil || !sole {
		return ln, nil, err
	}
	shown, err := s.openPreviews(ln.Addr(), log)
	if err != nil {
		return nil, nil, errors.Join(err, ln.Close())
	}
	return ln, shown, nil
}

// needed returns what setup has made and the service does not start without:
// the internal secrets and the agent, and a key unless a script stands in for
// the model. A server that is started only to be checked does without the
// agent: whether sandboxes work must be seen before it is proven in one.
func (s state) needed(sole bool) (secrets []string, bin agent.Binary, err error) {
	store, err := s.secrets()
	if err != nil {
		return nil, bin, err
	}
	if secrets, err = store.InternalValues(); err != nil {
		return nil, bin, err
	}
	s.redactor.Add(secrets...)
	if s.cfg.ModelScript == "" {
		if err := s.checkModel(); err != nil && len(s.cfg.Upstreams) > 0 {
			return nil, bin, err
		} else if err != nil {
			return nil, bin, &dreamcore.Error{
				Code: dreamcore.CodeSetup, Message: "there is no key for the model API", Err: err,
				Hint: "run: dreamcore setup --anthropic-key-file FILE (or serve --model-script demo)",
			}
		}
	}
	if bin, err = agent.Recorded(s.path(agentDir)); err != nil && sole {
		return nil, bin, err
	}
	return secrets, bin, nil
}

// pruneInterval is how often old logs of jobs are removed while the service
// runs. At its start they are, too.
const pruneInterval = time.Hour

// prune removes old logs of jobs, and old versions that others than jobs have
// left beyond their bounds, until ctx ends.
func (s *service) prune(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(pruneInterval)
	defer tick.Stop()
	for {
		if _, err := s.machine.history.PruneAll(ctx); err != nil && ctx.Err() == nil {
			log.Error("remove old versions", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		removed, err := s.machine.journal.Prune(ctx, oldest(int(s.keepDays.Load())), 0)
		if err != nil && ctx.Err() == nil {
			log.Error("remove old logs of jobs", "error", err)
		}
		if removed > 0 {
			log.Info("removed old logs of jobs", "count", removed)
		}
	}
}

// oldest is when the oldest log that is kept was last written.
func oldest(days int) time.Time { return time.Now().AddDate(0, 0, -days) }

// internalSecrets are the internal secrets as they are now, so that a rotation
// needs no restart. They are read again after secretAge at the latest; when
// they cannot be read, the last ones stay.
type internalSecrets struct {
	state state
	log   *slog.Logger

	mu     sync.Mutex
	values []string
	read   time.Time
}

const secretAge = 2 * time.Second

func (i *internalSecrets) current() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Since(i.read) < secretAge {
		return i.values
	}
	i.read = time.Now()
	store, err := i.state.secrets()
	if err == nil {
		var values []string
		if values, err = store.InternalValues(); err == nil {
			for _, v := range values {
				if i.state.redactor.Redact(v) == v {
					i.state.redactor.Add(v)
				}
			}
			i.values = values
			return values
		}
	}
	i.log.Error("read the internal secret", "error", err)
	return i.values
}

// ready checks that sandboxes work and ends what an earlier run left.
func (m *machine) ready(ctx context.Context, sole bool) error {
	io, err := m.prober.SandboxIO(ctx)
	if err == nil && !io.Match {
		err = fmt.Errorf("a sandbox answered %q to %q", io.Output, io.Input)
	}
	if err != nil {
		e := &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "sandboxes do not work on this machine", Err: err,
			Hint: engineNeeds(m.cfg.Runtime),
		}
		if m.root.name != "" { // a sandbox has worked with it already
			e.Message = "the service's checks cannot run in the " + m.root.name
			e.Hint = "use one with /bin/cat and /bin/sh, such as debian:12"
		}
		return e
	}
	if !sole {
		return nil
	}
	if err := m.volumes.SweepDisks(ctx); err != nil {
		return err
	}
	if err := project.New(m.volumes, m.history).Recover(ctx); err != nil {
		m.log.Warn("what an earlier run left of changes could not be put right", "error", err)
	}
	if m.cfg.DiskMiB > 0 {
		if err := disk.Check(ctx, m.cfg.State); err != nil {
			return err
		}
	}
	if err := m.service.Recover(); err != nil {
		return err
	}
	_, err = m.journal.Prune(ctx, oldest(m.cfg.JournalDays), 0)
	return err
}

func (s *service) address() string { return s.listener.Addr().String() }

// model says what answers the agent.
func (s *service) model() string {
	if script := s.machine.cfg.ModelScript; script != "" {
		return "script " + script
	}
	return modelName(s.machine.cfg)
}

// streamGrace is how much longer than jobs the streams may take: those who
// watch a job that is stopped see its last event.
const streamGrace = 10 * time.Second

// stop ends serving gracefully, then the machine. The grace of the jobs and
// that of the streams run at the same time.
func (s *service) stop() error {
	var err error
	if s.control != nil {
		err = s.control.Close()
	}
	jobs := make(chan error, 1)
	go func() { jobs <- s.machine.endJobs(context.Background()) }()
	s.cancel()
	<-s.failed
	s.previews.wait()
	s.pruned.Wait()
	return errors.Join(err, s.err, <-jobs, s.machine.close(context.Background()))
}
