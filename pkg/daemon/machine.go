package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/spending"
	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/egress"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/store/block"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/cgroup"
	"github.com/notef-neighbor/dreamcore/pkg/work/account"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
	"github.com/notef-neighbor/dreamcore/pkg/work/probe"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation"
	"github.com/notef-neighbor/dreamcore/pkg/work/webhook"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// Machine is everything that makes games on this machine.
type Machine struct {
	*Model
	Jobs    *job.Service
	Journal *journal.Store
	Prober  *probe.Prober

	agent      agent.Binary
	records    *record.Store // nil unless a service is started
	provider   *engine.Provider
	root       root
	history    *history.Store
	blocks     *block.Store
	accounts   *account.Service
	moves      *relocation.Service
	egress     *egress.Proxy // nil if no host is allowed
	workspaces *workspace.Pool
	spares     *workspace.Standby
	keepDays   atomic.Int64          // for how long the logs of jobs are kept
	unready    atomic.Pointer[error] // why no game can be made, or nil
	webhooks   *webhook.Service      // nil unless a service is started
	spending   *spending.Exchange    // nil unless a service shares limits with other cells
	browser    string                // path inside of the browser that plays games; "" without a browser
	playing    atomic.Pointer[playing]

	checkApplied atomic.Bool   // apply_files plays the game
	reconcile    chan struct{} // gets a value when the index of jobs has to follow the logs now
	undo         teardown
}

// OpenMachine opens a Machine that runs the agent in bin. The caller must close
// it before the state.
func OpenMachine(ctx context.Context, s *State, bin agent.Binary, log *slog.Logger) (*Machine, error) {
	return openMachine(ctx, s, bin, log, false)
}

// openMachine is OpenMachine. serves says that the machine is that of the one
// service of the state directory, which lists jobs and takes them up again.
func openMachine(ctx context.Context, s *State, bin agent.Binary, log *slog.Logger, serves bool) (_ *Machine, err error) {
	m := &Machine{agent: bin, reconcile: make(chan struct{}, 1)}
	m.keepDays.Store(int64(s.Config.JournalDays))
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if err = s.checkStart(); err != nil {
		return nil, err
	}
	// The root is opened in the provider's directory, and must be there until
	// the provider has ended the last sandbox.
	m.undo.addClose(func() error { m.root.close(); return nil })
	if m.provider, err = s.newProvider(ctx, log); err != nil {
		return nil, err
	}
	m.undo.add(m.provider.Close)
	if m.root, err = s.openRoot(ctx, m.provider.Dir(), log); err != nil {
		return nil, err
	}
	if err = m.openJournal(s, log, serves); err != nil {
		return nil, err
	}
	if m.history, err = s.OpenHistory(log); err != nil {
		return nil, err
	}
	if m.blocks, err = block.Open(s.Path(blocksDir)); err != nil {
		return nil, err
	}
	m.undo.addClose(m.blocks.Close)
	// Audit log and ledger record what follows: egress, jobs and calls of the
	// model.
	if m.Model, err = OpenModel(s, log); err != nil {
		return nil, err
	}
	m.undo.add(m.Model.undo.run)
	if serves {
		m.openMetrics()
		if err = m.openWebhooks(); err != nil {
			return nil, err
		}
	}
	if m.egress, err = m.openEgress(); err != nil {
		return nil, err
	}
	if m.egress != nil {
		m.undo.add(m.egress.Close)
	}
	m.spares = workspace.NewStandby(workspace.StandbyConfig{Create: observedSandboxes{m.provider, m.observer}.Create, Spec: sandbox.Spec{Root: m.root.Root, Limits: limits(s.Config)}, Logger: log})
	m.Prober = probe.New(probe.Config{
		Sandboxes: m.spares, Root: m.root.Root, Limits: limits(s.Config), UID: uint32(s.Config.UID), GID: uint32(s.Config.GID),
		Scratch: s.Volumes.Scratch, Logger: log, Deep: m.deepChecks(),
	})
	m.findBrowser(serves)
	// Jobs come last: they use everything above, and Close ends them first.
	if err = m.openJobs(serves); err != nil {
		return nil, err
	}
	m.openAccounts()
	if serves {
		if err = m.openMoves(); err != nil {
			return nil, err
		}
	}
	if err = m.checkRoot(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// checkStart refuses what can be refused before anything is started.
func (s *State) checkStart() error {
	if err := s.ballast.Adjust(); err != nil {
		return err
	}
	if err := s.CheckDisk(); err != nil {
		return err
	}
	return s.checkVariables(s.Config.SandboxEnv)
}

// openJournal opens the logs of jobs and, for the service, their index.
func (m *Machine) openJournal(s *State, log *slog.Logger, serves bool) (err error) {
	m.Journal, err = journal.Open(s.Path(JobsDir), journal.Options{MaxBytes: int64(s.Config.JobsMiB) << 20, Removed: func(jobs []string) {
		if m.records == nil {
			return // the service notices that the logs are gone
		}
		if err := m.records.Expire(jobs...); err != nil {
			log.Error("remove the records of old jobs", "error", err)
		}
	}})
	if err != nil {
		return err
	}
	m.undo.addClose(m.Journal.Close)
	if !serves {
		return nil
	}
	m.records, err = record.Open(filepath.Join(s.Path(JobsDir), IndexFile), record.Options{Damaged: func(cause error) {
		log.Error("the index of jobs was damaged and is made again from their logs", "error", cause)
		m.reconcileNow()
	}})
	if err != nil {
		return err
	}
	m.undo.addClose(m.records.Close)
	if !m.records.Fresh() {
		return nil
	}
	logs, err := m.Journal.Jobs()
	if err != nil || len(logs) > 0 {
		return err // keepJobs makes it complete
	}
	return m.records.Complete()
}

func (m *Machine) reconcileNow() {
	select {
	case m.reconcile <- struct{}{}:
	default:
	}
}

func (m *Machine) openJobs(serves bool) (err error) {
	sockets := filepath.Join(m.provider.Dir(), "sockets")
	if err := os.Mkdir(sockets, 0o711); err != nil {
		return err
	}
	settings := m.workspaceSettings(m.state.Config)
	settings.Standby = 0 // until this is the one service of the state directory
	if !serves {
		settings.WarmAgents = 0 // there is no next job
	}
	m.workspaces, err = workspace.New(workspace.Parts{
		Sandboxes: observedSandboxes{m.provider, m.observer}, Gateway: m.gateway, Volumes: m.state.Volumes, Egress: m.egress,
		Audit: m.audit, SocketDir: sockets, Logger: m.log,
		Late: m.provider.BindsLate(), Prime: agentConfig(m.state.Config).Prime,
	}, settings)
	if err != nil {
		return err
	}
	m.Jobs = job.New(job.Parts{
		Workspaces: m.workspaces, Volumes: m.state.Volumes, History: m.history, Journal: m.Journal,
		Logger: m.log, Ledger: m.ledger, Audit: m.audit, Ready: m.notReady, Admit: m.admit,
		Away: m.away, Lists: m.state.residence.Lists,
		Records: m.records, Redact: m.state.Redactor.Redact, Resume: serves, Ended: m.observer.jobEnded, AgentStarted: m.observer.agentStarted, Tell: m.teller(), CheckWebhook: m.webhookCheck(),
		Checker: player{m}, Play: m.CheckGame,
	}, m.settings(m.state.Config))
	return nil
}

// closeLimit bounds the teardown after the jobs have ended.
const closeLimit = 30 * time.Second

// Close ends the running jobs, within the configured grace, and everything
// else, so that nothing remains on the machine.
func (m *Machine) Close() error {
	var err error
	if m.accounts != nil {
		err = m.accounts.Close() // a deletion that runs is completed by the next process
	}
	if m.Jobs != nil {
		err = errors.Join(err, m.endJobs())
	}
	// Not a step of undo: a standby sandbox that hangs takes its own time, not that of
	// the others.
	if m.spares != nil {
		err = errors.Join(err, m.spares.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	if err = errors.Join(err, m.undo.run(ctx)); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// drain refuses new jobs and ends the running ones within the configured grace; a
// service leaves the others to the next process. It may be called more than once.
func (m *Machine) drain() {
	grace, cancel := context.WithTimeout(context.Background(), m.state.Config.Grace)
	defer cancel()
	m.Jobs.Close(grace)
}

// endJobs ends the jobs, then the workspaces. It may be called more than once.
func (m *Machine) endJobs() error {
	m.drain()
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	return m.workspaces.Close(ctx)
}

// notReady returns the reason why no game can be made, or nil.
func (m *Machine) notReady() error {
	if err := m.unready.Load(); err != nil {
		return *err
	}
	return nil
}

// Root names the root file system of sandboxes; "" for this machine's programs.
func (m *Machine) Root() string { return m.root.name }

// Sandboxes describes the sandboxes for people: their engine and root.
func (m *Machine) Sandboxes() string {
	if m.root.name == "" {
		return m.provider.Name()
	}
	return m.provider.Name() + ", " + m.root.name
}

func limits(c config.Config) sandbox.Limits {
	return sandbox.Limits{MemoryBytes: int64(c.MemoryMiB) << 20, CPUs: c.CPUs, Processes: c.Processes}
}

// gatewaySocket is the socket of the model gateway inside sandboxes.
var gatewaySocket = filepath.Join(rootfs.GatewayDir, gateway.SocketName)

// workspaceSettings returns the settings of the workspaces, which can change
// while they run.
func (m *Machine) workspaceSettings(c config.Config) workspace.Settings {
	return workspace.Settings{
		Limits: workspace.Limits{
			Max: mostSandboxes(c.MaxSandboxes), Idle: c.SandboxIdle, MaxAge: c.SandboxMaxAge, MinFree: int64(c.MinFreeMiB) << 20,
			WarmAgents: warmAgents(c.WarmAgents, cgroup.MemoryLimit()), Standby: c.Standby,
		},
		Env: c.SandboxEnviron(),
		Template: workspace.Template{
			Root: m.root.Root, Limits: limits(c), AgentFile: m.agent.Path, AgentPath: rootfs.AgentPath, CheckFile: m.provider.CheckFile(),
			Home: rootfs.HomeDir, Socket: gatewaySocket, UID: uint32(c.UID), GID: uint32(c.GID),
		},
	}
}

// settings returns the settings of jobs, which can change while they run.
func (m *Machine) settings(c config.Config) job.Settings {
	m.play(c)
	m.checkApplied.Store(c.AcceptanceOnApply)
	return job.Settings{
		Agent:     agentConfig(c),
		TimeLimit: c.Timeout, OutputLines: c.Lines, Running: runningJobs(c.MaxGenerations, mostSandboxes(c.MaxSandboxes), runtime.NumCPU(), cgroup.MemoryLimit(), m.plays(c)), Waiting: c.MaxWaiting,
		PerUser: c.MaxPerUser, DisconnectGrace: c.DisconnectGrace, RunOn: c.OnDisconnect == config.OnDisconnectContinue, Attempts: c.Attempts,
		CommitMessage: c.CommitMessage,
		Acceptance:    m.acceptance(c), AcceptanceRepairs: c.AcceptanceRepairs, AcceptanceLimit: c.AcceptanceLimit,
	}
}

func agentConfig(c config.Config) agent.Config {
	return agent.Config{
		Path: rootfs.AgentPath, Home: rootfs.HomeDir, Socket: gatewaySocket,
		UID: uint32(c.UID), GID: uint32(c.GID),
		Tools: c.Tools, Model: c.Model, Turns: c.MaxTurns, Given: c.SandboxEnviron(),
		Hosts: slices.Concat(c.AllowHosts, c.AllowPrivateHosts),
		Env:   agentEnv(c),
	}
}

// spareAge is the age at which a standby sandbox is replaced: a fault that keeps
// new ones from starting is noticed by then.
const spareAge = 15 * time.Minute

func spareLimits(c config.Config) workspace.StandbyLimits {
	return workspace.StandbyLimits{Count: c.Spares, MaxAge: spareAge, MinFree: int64(c.MinFreeMiB) << 20}
}

// deepChecks returns what the deep checks run with: users with the same bounds
// as all others, in a directory of their own.
func (m *Machine) deepChecks() *probe.Deep {
	c := m.state.Config
	return &probe.Deep{
		Dir:     m.state.Path(checksDir),
		Volumes: volume.Options{UID: c.UID, GID: c.GID, DiskBytes: int64(c.DiskMiB) << 20, Logger: m.log},
		Gateway: m.gateway,
		Secrets: m.state.guarded,
	}
}

// checkRoot makes sure that the agent runs in a root that is not this machine's
// (there, setup has proven it). Otherwise the agent would end without a message
// that names the missing library or program.
func (m *Machine) checkRoot(ctx context.Context) error {
	if m.root.name == "" {
		return nil
	}
	err := m.Prober.Agent(ctx, m.agent.Path)
	// A failure of the sandbox itself, or a timeout, is not the root's fault.
	if err == nil || ctx.Err() != nil || dreamcore.CodeOf(err) != dreamcore.CodeInternal ||
		errors.Is(err, sandbox.ErrLost) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return m.root.unfit(err)
}
