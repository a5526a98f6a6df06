package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/egress"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
	"github.com/notef-neighbor/dreamcore/pkg/work/probe"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// Machine is everything that makes games on this machine.
type Machine struct {
	*Model
	Jobs    *job.Service
	Journal *journal.Store
	Prober  *probe.Prober

	agent    agent.Binary
	provider *engine.Provider
	root     root
	history  *history.Store
	egress   *egress.Proxy // nil if no host is allowed
	spares   *workspace.Standby
	keepDays atomic.Int64          // for how long the logs of jobs are kept
	unready  atomic.Pointer[error] // why no game can be made, or nil
	undo     teardown
}

// OpenMachine opens a Machine that runs the agent in bin. The caller must close
// it before the state.
func OpenMachine(ctx context.Context, s *State, bin agent.Binary, log *slog.Logger) (_ *Machine, err error) {
	m := &Machine{agent: bin}
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
	if m.Journal, err = journal.Open(s.Path(jobsDir), journal.Options{MaxBytes: int64(s.Config.JobsMiB) << 20}); err != nil {
		return nil, err
	}
	m.undo.addClose(m.Journal.Close)
	if m.history, err = s.OpenHistory(log); err != nil {
		return nil, err
	}
	// Audit log and ledger record what follows: egress, jobs and calls of the
	// model.
	if m.Model, err = OpenModel(s, log); err != nil {
		return nil, err
	}
	m.undo.add(m.Model.undo.run)
	if m.egress, err = m.openEgress(); err != nil {
		return nil, err
	}
	if m.egress != nil {
		m.undo.add(m.egress.Close)
	}
	m.spares, err = workspace.NewStandby(workspace.StandbyConfig{Create: m.provider.Create, Spec: sandbox.Spec{Root: m.root.Root, Limits: limits(s.Config)}, Logger: log})
	if err != nil {
		return nil, err
	}
	m.Prober = probe.New(probe.Config{
		Sandboxes: m.spares, Root: m.root.Root, Limits: limits(s.Config), UID: uint32(s.Config.UID), GID: uint32(s.Config.GID),
		Scratch: s.Volumes.Scratch, Logger: log, Deep: m.deepChecks(),
	})
	// Jobs come last: they use everything above, and Close ends them first.
	if err = m.openJobs(); err != nil {
		return nil, err
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

func (m *Machine) openJobs() (err error) {
	sockets := filepath.Join(m.provider.Dir(), "sockets")
	if err := os.Mkdir(sockets, 0o711); err != nil {
		return err
	}
	m.Jobs, err = job.New(job.Parts{
		Sandboxes: m.provider, Gateway: m.gateway, Volumes: m.state.Volumes, History: m.history, Journal: m.Journal,
		SocketDir: sockets, Egress: m.egress, Logger: m.log, Ledger: m.ledger, Audit: m.audit, Ready: m.notReady,
	}, m.settings(m.state.Config))
	return err
}

// closeLimit bounds the teardown after the jobs have ended.
const closeLimit = 30 * time.Second

// Close ends the running jobs, within the configured grace, and everything
// else, so that nothing remains on the machine.
func (m *Machine) Close() error {
	var err error
	if m.Jobs != nil {
		err = m.endJobs()
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

// endJobs ends the running jobs within the configured grace. It may be called
// more than once.
func (m *Machine) endJobs() error {
	ctx, cancel := context.WithTimeout(context.Background(), m.state.Config.Grace)
	defer cancel()
	return m.Jobs.Close(ctx)
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

// settings returns the settings of jobs, which can change while they run.
func (m *Machine) settings(c config.Config) job.Settings {
	return job.Settings{
		Root: m.root.Root, Limits: limits(c), AgentFile: m.agent.Path,
		Agent: agent.Config{
			Path: rootfs.AgentPath, Home: rootfs.HomeDir,
			Socket: filepath.Join(rootfs.GatewayDir, gateway.SocketName),
			UID:    uint32(c.UID), GID: uint32(c.GID),
			Tools: c.Tools, Model: c.Model, Turns: c.MaxTurns, Given: c.SandboxEnviron(),
			Hosts: slices.Concat(c.AllowHosts, c.AllowPrivateHosts),
			Env:   agentEnv(c),
		},
		TimeLimit: c.Timeout, OutputLines: c.Lines, Running: c.MaxGenerations, Waiting: c.MaxWaiting,
		PerUser: c.MaxPerUser, DisconnectGrace: c.DisconnectGrace, RunOn: c.OnDisconnect == config.OnDisconnectContinue,
		Pool: workspace.Limits{Max: c.MaxSandboxes, Idle: c.SandboxIdle, MaxAge: c.SandboxMaxAge, MinFree: int64(c.MinFreeMiB) << 20},

		CommitMessage: c.CommitMessage,
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
