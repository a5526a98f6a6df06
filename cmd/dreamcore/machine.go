package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/model/upstream"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/egress"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/admission"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
	"github.com/notef-neighbor/dreamcore/pkg/work/probe"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// Directories of the state directory.
const (
	secretsDir = "secrets"
	volumesDir = "volumes"
	homesDir   = "homes"
	historyDir = "history"
	jobsDir    = "jobs"
	runDir     = "run"
	agentDir   = "agent"
	usageDir   = "usage"
	auditDir   = "audit"

	ballastFile = "reserve" // keeps min_free_disk_mib of the disk for this program
)

// state is the state directory with what needs no sandbox.
type state struct {
	cfg      config.Config
	env      config.Environment
	redactor *secret.Redactor // of what this process prints
	volumes  *volume.Store
	ballast  *disk.Ballast
	pull     puller // brings an image that is not here; nil: none is brought
}

func (s state) path(name string) string { return filepath.Join(s.cfg.State, name) }

// secrets opens the sealed secrets.
func (s state) secrets() (*secret.Store, error) {
	if s.env.Identity != "" {
		return secret.OpenGiven(s.path(secretsDir), s.env.Identity)
	}
	return secret.Open(s.path(secretsDir), s.identityFile())
}

// initSecrets makes the secrets ready that are not there yet, and tells
// whether an identity was made.
func (s state) initSecrets() (created bool, err error) {
	if s.env.Identity != "" {
		return false, secret.InitGiven(s.path(secretsDir), s.env.Identity)
	}
	return secret.Init(s.path(secretsDir), s.identityFile())
}

// openSecrets is initSecrets and then secrets, for setup.
func (s state) openSecrets() (store *secret.Store, created bool, err error) {
	if created, err = s.initSecrets(); err != nil {
		return nil, false, err
	}
	store, err = s.secrets()
	return store, created, err
}

// checkIdentity refuses two identities of which each could be meant.
func (s state) checkIdentity() error {
	if s.env.Identity == "" || s.cfg.IdentityFile == "" {
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: "the identity of the secrets is given twice: as DREAMCORE_IDENTITY and as the setting identity_file",
		Hint: "leave one of them: unset DREAMCORE_IDENTITY, or take identity_file out of the configuration",
	}
}

// identityFile is the file with the identity, "" for the one beside the
// secrets: what the operator has named goes before what systemd gives.
func (s state) identityFile() string {
	if s.cfg.IdentityFile != "" {
		return s.cfg.IdentityFile
	}
	return s.env.IdentityFile
}

// openState opens the state directory. The caller must close the state, or
// the machine that it opens with it.
func openState(cfg config.Config, env config.Environment, r *secret.Redactor) (state, error) {
	if euid := os.Geteuid(); euid != 0 { // only root may give files to somebody else, or be him inside
		cfg.UID, cfg.GID = euid, os.Getegid()
		cfg.DiskMiB = 0 // nor mount; said with what else is not limited
	}
	s := state{cfg: cfg, env: env, redactor: r}
	s.ballast = disk.NewBallast(s.path(ballastFile), int64(cfg.MinFreeDiskMiB)<<20)
	if err := s.checkIdentity(); err != nil {
		return s, err
	}
	if err := os.MkdirAll(cfg.State, 0o700); err != nil {
		return s, notWritable(cfg.State, err)
	}
	var err error
	s.volumes, err = volume.Open(s.path(volumesDir), volume.Options{
		HomesDir: s.path(homesDir), UID: cfg.UID, GID: cfg.GID, DiskBytes: int64(cfg.DiskMiB) << 20,
		MinFreeBytes: int64(cfg.MinFreeDiskMiB) << 20, Ballast: s.ballast,
		ProjectBytes: int64(cfg.ProjectMiB) << 20, ProjectFiles: cfg.ProjectFiles,
	})
	return s, err
}

// close closes the state. It may be called more than once.
func (s state) close() error { return s.volumes.Close() }

// minFree is what the disk must have left before work is begun: enough for
// logs, versions and a game.
const minFree = 32 << 20

// checkDisk refuses to begin work that a full or read-only disk would ruin.
func (s state) checkDisk() error {
	f, err := os.CreateTemp(s.cfg.State, ".writable-")
	if err != nil {
		return notWritable(s.cfg.State, err)
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return notWritable(s.cfg.State, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.cfg.State, &fs); err != nil {
		return fmt.Errorf("look at the disk: %w", err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < minFree {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: fmt.Sprintf("no space left for the state directory %s: %s free, %s needed", s.cfg.State, term.Size(free), term.Size(minFree)),
			Hint: "free some space on that disk, or name a directory on another one with --state DIR",
		}
	}
	return nil
}

func notWritable(dir string, err error) error {
	hint := "name a directory on a disk with free space with --state DIR"
	if errors.Is(err, fs.ErrPermission) {
		hint = "run the command with sudo, or name a directory of yours with --state DIR"
	}
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "the state directory " + dir + " cannot be written", Err: err, Hint: hint}
}

// machine is everything that makes games on this machine. Its parts are opened
// in the order of the fields and closed in reverse, the state with them.
type machine struct {
	state
	log      *slog.Logger
	provider *engine.Provider
	root     root
	journal  *journal.Store
	audit    *audit.Log
	books    *usage.Book
	gateway  *gateway.Gateway
	egress   *egress.Proxy // nil: no host is allowed
	history  *history.Store
	service  *job.Service
	spares   *workspace.Spares // none until a service is ready
	prober   *probe.Prober
	upstream *upstream.List        // nil with a model script
	unready  atomic.Pointer[error] // why no game can be made; nil: they can
}

// able returns the reason why no game can be made, or nil.
func (m *machine) able() error {
	if err := m.unready.Load(); err != nil {
		return *err
	}
	return nil
}

// openMachine prepares sandboxes and the model. The agent must have been
// installed by setup, unless bin names one. The caller must close the machine,
// which closes the state; after an error both are closed.
func openMachine(ctx context.Context, s state, bin agent.Binary, log *slog.Logger) (_ *machine, err error) {
	m := &machine{state: s, log: log}
	defer func() {
		if err != nil {
			_ = m.close(context.WithoutCancel(ctx))
		}
	}()
	if err = s.ballast.Adjust(); err != nil {
		return nil, err
	}
	if err = s.checkDisk(); err != nil {
		return nil, err
	}
	if err = s.checkVariables(s.cfg.SandboxEnv); err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if m.provider, err = newProvider(ctx, s, exe, log); err != nil {
		return nil, err
	}
	if m.root, err = s.openRoot(ctx, m.provider.Dir(), log); err != nil {
		return nil, err
	}
	if m.journal, err = journal.Open(s.path(jobsDir), journal.Options{MaxBytes: int64(s.cfg.JobsMiB) << 20}); err != nil {
		return nil, err
	}
	if m.history, err = history.Open(s.path(historyDir), history.Options{Logger: log, Bounds: historyBounds(s.cfg), Heavy: admission.New(admission.Limits{})}); err != nil {
		return nil, err
	}
	if err = m.openBooks(); err != nil {
		return nil, err
	}
	m.gateway = gateway.New(gateway.Config{Logger: log, IdleLimit: s.cfg.ModelIdle, ServerTools: s.cfg.ServerTools, Audit: m.audit})
	if err = m.setModel(s.cfg); err != nil {
		return nil, err
	}
	if m.egress, err = m.openEgress(); err != nil {
		return nil, err
	}
	sockets := filepath.Join(m.provider.Dir(), "sockets")
	if err = os.Mkdir(sockets, 0o711); err != nil {
		return nil, err
	}
	m.service, err = job.New(job.Parts{
		Sandboxes: m.provider, Gateway: m.gateway, Volumes: s.volumes, History: m.history,
		Journal: m.journal, SocketDir: sockets, Egress: m.egress, Logger: log, Books: m.books, Audit: m.audit, Ready: m.able,
	}, m.settings(s.cfg, bin))
	if err != nil {
		return nil, err
	}
	m.spares, err = workspace.NewSpares(workspace.SpareConfig{
		Create: m.provider.Create, Spec: sandbox.Spec{Root: m.root.Root, Limits: limits(s.cfg)}, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	m.prober = probe.New(probe.Config{
		Sandboxes: m.spares, Root: m.root.Root, Limits: limits(s.cfg), UID: uint32(s.cfg.UID), GID: uint32(s.cfg.GID),
		Scratch: s.volumes.Scratch, Logger: log, Deep: m.deepChecks(),
	})
	if err = m.checkRoot(ctx, bin); err != nil {
		return nil, err
	}
	return m, nil
}

func historyBounds(c config.Config) history.Bounds {
	return history.Bounds{ProjectBytes: int64(c.HistoryMiB) << 20, UserBytes: int64(c.HistoryUserMiB) << 20}
}

func limits(c config.Config) sandbox.Limits {
	return sandbox.Limits{MemoryBytes: int64(c.MemoryMiB) << 20, CPUs: c.CPUs, Processes: c.Processes}
}

// settings are those of the configuration that a running service can take up.
func (m *machine) settings(c config.Config, bin agent.Binary) job.Settings {
	return job.Settings{
		Root: m.root.Root, Limits: limits(c), AgentFile: bin.Path,
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

// spareAge is how old a spare sandbox gets: what keeps new ones from starting is
// noticed by then.
const spareAge = 15 * time.Minute

func spareLimits(c config.Config) workspace.SpareLimits {
	return workspace.SpareLimits{Count: c.Spares, MaxAge: spareAge, MinFree: int64(c.MinFreeMiB) << 20}
}

// setModel makes the gateway answer from the script of the configuration or
// from the model API.
func (m *machine) setModel(c config.Config) error {
	if c.ModelScript != "" {
		script, err := replay.Load(c.ModelScript)
		if err != nil {
			return err
		}
		m.gateway.SetUpstream(gateway.HandlerUpstream(replay.New(script)))
		return nil
	}
	up, err := upstream.New(upstreams(c), upstream.Options{
		Secret: m.sealed, Hide: m.hide, Unhide: func(v string) { m.redactor.Remove(v) }, Proxy: http.ProxyFromEnvironment, Logger: m.log,
	})
	if err != nil {
		return err
	}
	for _, e := range c.Upstreams {
		if err := e.Check(m.sealed); err != nil {
			m.log.Warn("an upstream cannot be used as it is", "upstream", e.Name, "err", err, "hint", dreamcore.HintOf(err))
		}
	}
	for _, err := range unmapped(c) {
		m.log.Warn("an upstream cannot be asked for the agent's model: "+err.Error(), "hint", dreamcore.HintOf(err))
	}
	m.gateway.SetUpstream(up)
	if m.upstream != nil {
		_ = m.upstream.Close()
	}
	m.upstream = up
	return nil
}

// closeLimit bounds the end of everything after the jobs have ended.
const closeLimit = 30 * time.Second

// endJobs ends the jobs that run, within the grace that the configuration
// gives them. It may be called more than once.
func (m *machine) endJobs(ctx context.Context) error {
	if m.service == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Grace)
	defer cancel()
	return m.service.Close(ctx)
}

// close ends what runs and leaves nothing on the machine.
func (m *machine) close(ctx context.Context) error {
	errs := []error{m.endJobs(ctx)}
	if m.spares != nil {
		errs = append(errs, m.spares.Close())
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	if m.gateway != nil {
		errs = append(errs, m.gateway.Close(ctx))
	}
	if m.egress != nil {
		errs = append(errs, m.egress.Close(ctx))
	}
	if m.upstream != nil {
		errs = append(errs, m.upstream.Close())
	}
	if m.journal != nil {
		errs = append(errs, m.journal.Close())
	}
	if m.provider != nil {
		errs = append(errs, m.provider.Close(ctx))
	}
	if m.books != nil {
		errs = append(errs, m.books.Close())
	}
	m.root.close() // not before the sandboxes that use it have ended
	errs = append(errs, m.audit.Close(), m.state.close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}
