package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/image"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/admission"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

// Directories and files in the state directory.
const (
	SecretsDir = "secrets"
	VolumesDir = "volumes"
	UsageDir   = "usage"
	AuditDir   = "audit"
	RunDir     = "run"
	AgentDir   = "agent"
	ImagesDir  = "images"
	JobsDir    = "jobs"
	IndexFile  = "index.db" // of the jobs, in their directory

	homesDir    = "homes"
	historyDir  = "history"
	webhooksDir = "webhooks"
	blocksDir   = "blocked" // users that the operator has blocked
	movesDir    = "moves"   // users that are moving between cells

	arrivalsDir = "arrivals" // archives of users that are being taken in
	checksDir   = "checks"   // users of the deep checks, while a check runs

	ballastFile = "reserve"    // keeps min_free_disk_mib of the disk for this program
	lockFile    = "serve.lock" // held by the service that uses the state directory
)

// State is the opened state directory: everything that needs no sandbox.
type State struct {
	// Config holds the settings. A command may change its copy until it opens a
	// Machine or a Service; afterwards it is read by several goroutines.
	Config   config.Config
	Redactor *secret.Redactor // removes secrets from everything that this process prints
	Volumes  *volume.Store
	Pull     Puller // downloads an image that is missing; if nil, that is an error

	residence *residence.Store // which users live in other cells

	env     config.Environment
	look    bool // LookAtState has opened it
	ballast *disk.Ballast
	unlock  func() // set by Start; nil if the lock is not held
}

// OpenState opens the state directory of cfg. The caller must close it, after
// every Machine and Service that was opened with it.
func OpenState(cfg config.Config, env config.Environment, r *secret.Redactor) (*State, error) {
	return openState(cfg, env, r, false)
}

// LookAtState is OpenState for a command that only reads: it creates nothing in the
// directory, and missing parts are empty.
func LookAtState(cfg config.Config, env config.Environment, r *secret.Redactor) (*State, error) {
	return openState(cfg, env, r, true)
}

func openState(cfg config.Config, env config.Environment, r *secret.Redactor, look bool) (*State, error) {
	if euid := os.Geteuid(); euid != 0 { // only root may give files to another user, or run as one in a sandbox
		cfg.UID, cfg.GID = euid, os.Getegid()
		cfg.DiskMiB = 0 // only root can mount; reported with the other limits that are missing
	}
	s := &State{Config: cfg, Redactor: r, env: env, look: look}
	s.ballast = disk.NewBallast(s.Path(ballastFile), int64(cfg.MinFreeDiskMiB)<<20)
	if err := checkIdentity(cfg, env); err != nil {
		return nil, err
	}
	if !look {
		if err := os.MkdirAll(cfg.State, 0o700); err != nil {
			return nil, notWritable(cfg.State, err)
		}
	}
	var err error
	openMoves := residence.Open
	if look {
		openMoves = residence.Look
	}
	if s.residence, err = openMoves(s.Path(movesDir)); err != nil {
		return nil, err
	}
	s.Volumes, err = volume.Open(s.Path(VolumesDir), volume.Options{
		HomesDir: s.Path(homesDir), Look: look, UID: cfg.UID, GID: cfg.GID, DiskBytes: int64(cfg.DiskMiB) << 20,
		MinFreeBytes: int64(cfg.MinFreeDiskMiB) << 20, Ballast: s.ballast,
		ProjectBytes: int64(cfg.ProjectMiB) << 20, ProjectFiles: cfg.ProjectFiles, Admit: s.residence.Admit,
	})
	if err != nil {
		return nil, errors.Join(err, s.residence.Close())
	}
	return s, nil
}

// Path returns the path of a file or directory in the state directory.
func (s *State) Path(name string) string { return filepath.Join(s.Config.State, name) }

// Close closes the state and then releases the lock of a service, if there is one.
// It may be called more than once.
func (s *State) Close() error {
	err := errors.Join(s.Volumes.Close(), s.residence.Close())
	s.release()
	return err
}

// release releases the lock of a service, if it is held.
func (s *State) release() {
	if s.unlock != nil {
		s.unlock()
		s.unlock = nil
	}
}

// Agent returns the agent that setup has installed.
func (s *State) Agent() (agent.Binary, error) { return agent.Recorded(s.Path(AgentDir)) }

// minFree is the free space in bytes below which no work is started: it has to
// hold logs, versions and a game.
const minFree = 32 << 20

// CheckDisk refuses to start work on a disk that is full or read-only.
func (s *State) CheckDisk() error {
	f, err := os.CreateTemp(s.Config.State, ".writable-")
	if err != nil {
		return notWritable(s.Config.State, err)
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return notWritable(s.Config.State, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.Config.State, &fs); err != nil {
		return fmt.Errorf("look at the disk: %w", err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < minFree {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: ReasonState, Message: fmt.Sprintf("no space left for the state directory %s: %s free, %s needed", s.Config.State, term.Size(free), term.Size(minFree)),
			Hint: "free some space on that disk, or use a directory on another one",
		}
	}
	return nil
}

func notWritable(dir string, err error) error {
	hint := "use a directory on a disk with free space"
	if errors.Is(err, fs.ErrPermission) {
		hint = "run the command with sudo, or use a directory of your own"
	}
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Reason: ReasonState, Message: "the state directory " + dir + " cannot be written", Err: err, Hint: hint}
}

// OpenHistory opens the versions of projects. log may be nil.
func (s *State) OpenHistory(log *slog.Logger) (*history.Store, error) {
	return history.Open(s.Path(historyDir), history.Options{Look: s.look, Logger: log, Limits: historyLimits(s.Config), Heavy: admission.New(admission.Limits{})})
}

func historyLimits(c config.Config) history.Limits {
	return history.Limits{ProjectBytes: int64(c.HistoryMiB) << 20, UserBytes: int64(c.HistoryUserMiB) << 20}
}

// OpenImages opens the store of images. The caller must close it.
func (s *State) OpenImages(log *slog.Logger) (*image.Store, error) {
	return image.Open(s.Path(ImagesDir), image.Options{Proxy: http.ProxyFromEnvironment, Logger: log, Look: s.look})
}

// OpenPrompts opens the prompt endpoints. log may be nil.
func (s *State) OpenPrompts(log *slog.Logger) (*prompt.Set, error) {
	return prompt.Open(prompt.Source{Open: s.openGlobal, Reserved: server.ReservedNames(), Logger: log})
}

func (s *State) openGlobal() (*os.Root, error) { return s.Volumes.OpenVolume(volume.Global) }

// auditFiles is the number of files that the audit log is divided into.
const auditFiles = 32

// OpenAudit opens the audit log. The caller must close it. log may be nil.
func (s *State) OpenAudit(log *slog.Logger) (*audit.Log, error) {
	return audit.Open(s.Path(AuditDir), audit.Options{
		Redact: s.Redactor.Redact, Logger: log,
		MaxBytes: int64(s.Config.AuditMiB) << 20 / auditFiles, MaxFiles: auditFiles,
	})
}

// AuditRotation records in the audit log which secrets the operator has
// replaced.
func (s *State) AuditRotation(names []string) error {
	if len(names) == 0 {
		return nil
	}
	log, err := s.OpenAudit(nil)
	if err != nil {
		return err
	}
	for _, name := range names {
		log.Record(audit.Entry{Event: audit.EventSecret, Target: "rotate " + name, Verdict: audit.Allowed})
	}
	return log.Close()
}
