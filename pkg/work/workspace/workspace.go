package workspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/egress"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// Sandboxes creates sandboxes; every sandbox.Provider does.
type Sandboxes interface {
	Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error)
}

// Parts are the components that workspaces are built from. The caller closes
// them after the workspaces.
type Parts struct {
	Sandboxes Sandboxes
	Gateway   *gateway.Gateway
	Volumes   *volume.Store
	Egress    *egress.Proxy // nil if no host is allowed
	Audit     *audit.Log    // may be nil
	SocketDir string        // where each workspace gets a directory for its sockets
	// Late says that the sandboxes implement sandbox.Binder, so that some can be started
	// ahead for users who have none.
	Late bool
	// Prime prepares such a sandbox for a fast start of the agent. Its programs run as
	// the user of the template. It may be nil.
	Prime  func(ctx context.Context, sb sandbox.Sandbox) error
	Logger *slog.Logger // may be nil
}

// audit records an action on a sandbox.
func (p *Parts) audit(event, sandbox string, user dreamcore.UserID, target string, err error) {
	e := audit.Entry{Event: event, Sandbox: sandbox, User: string(user), Target: target, Verdict: audit.Allowed}
	if err != nil {
		e.Verdict, e.Reason = audit.Failed, err.Error()
	}
	p.Audit.Record(e)
}

// Template holds the settings that the sandbox of a workspace is created from.
type Template struct {
	Root      sandbox.Root
	Limits    sandbox.Limits
	AgentFile string // the CLI on the host; "" leaves it out
	AgentPath string // the CLI inside
	CheckFile string // the program that checks games, on the host; "" leaves it out
	Home      string // inside, parent of the homes
	Socket    string // inside, of the model gateway
	UID, GID  uint32 // of the programs
}

// Workspace is the sandbox of one user with everything bound to it. It sees all
// projects of that user, and no file of another user. Its methods are safe for
// concurrent use.
type Workspace struct {
	sandbox.Sandbox
	parts    *Parts
	owner    dreamcore.UserID
	template Template
	current  *atomic.Pointer[Template] // of new workspaces; nil outside of a pool

	user    *volume.User
	dir     string // of the sockets, on the host
	gateway *gateway.Socket
	egress  *egress.Socket // nil without egress
	warm    atomic.Pointer[warm]

	mu   sync.Mutex
	jobs []string // the last rememberedJobs, the newest last; guarded by mu
	// users are those that programs have run as since the last cleaning, besides
	// that of the template; guarded by mu.
	users []sandbox.Owner

	released func() // is called by Close if the sandbox was a standby; may be nil
}

// Ahead reports whether the sandbox was started before its user came.
func (w *Workspace) Ahead() bool { return w.released != nil }

// rememberedJobs is the number of jobs that a workspace remembers.
const rememberedJobs = 16

// Open creates a workspace that is in no pool, for a check. The caller must
// Close it. On an error nothing is left behind.
func Open(ctx context.Context, parts Parts, t Template, user dreamcore.UserID) (*Workspace, error) {
	dirs, err := openDirs(ctx, &parts, user)
	if err != nil {
		return nil, err
	}
	w := &Workspace{parts: &parts, owner: user, user: dirs, template: t}
	if err := w.create(ctx); err != nil {
		return nil, err
	}
	return w, nil
}

// OpenSeparate is Open with the sandboxes and the template of the pool. The
// workspace is not in the pool.
func (p *Pool) OpenSeparate(ctx context.Context, parts Parts, user dreamcore.UserID) (*Workspace, error) {
	parts.Sandboxes = p.parts.Sandboxes
	return Open(ctx, parts, *p.template.Load(), user)
}

// SocketDir returns the directory in which each workspace gets one for its
// sockets.
func (p *Pool) SocketDir() string { return p.parts.SocketDir }

// openWorkspace creates the user's workspace. One that is returned with an error must
// be closed before the user gets another one.
func (p *Pool) openWorkspace(ctx context.Context, user dreamcore.UserID) (*Workspace, error) {
	dirs, err := openDirs(ctx, &p.parts, user)
	if err != nil {
		return nil, err
	}
	if w, err := p.takeStandby(ctx, user, dirs); w != nil || err != nil {
		return w, err
	}
	w := &Workspace{parts: &p.parts, owner: user, user: dirs, template: *p.template.Load(), current: &p.template}
	if err := w.create(ctx); err != nil {
		return nil, err
	}
	return w, nil
}

func openDirs(ctx context.Context, parts *Parts, user dreamcore.UserID) (*volume.User, error) {
	dirs, err := parts.Volumes.User(ctx, user)
	if err != nil {
		return nil, fmt.Errorf("open the user's directories: %w", err)
	}
	return dirs, nil
}

// create creates the sandbox, after everything that is bound to it. A workspace
// without an owner gets one by assign. After an error nothing is left.
func (w *Workspace) create(ctx context.Context) (err error) {
	created := false
	defer func() {
		if !created { // an error or a panic
			err = errors.Join(err, w.closeBound())
		}
	}()
	if err = w.openGateway(); err != nil {
		return fmt.Errorf("open the model gateway: %w", err)
	}
	relay, err := w.openRelay()
	if err != nil {
		return fmt.Errorf("open egress: %w", err)
	}
	spec := sandbox.Spec{Root: w.template.Root, Limits: w.template.Limits, Mounts: w.mounts(), Relay: relay}
	if w.user != nil {
		spec.Mounts = append(w.userMounts(w.owner, w.user), spec.Mounts...)
	} else {
		spec.Late = w.late()
	}
	w.Sandbox, err = w.parts.Sandboxes.Create(ctx, spec)
	if err != nil {
		w.parts.audit(audit.EventSandboxStart, "", w.owner, "", err)
		return err
	}
	created = true
	if w.user != nil {
		w.begin()
	}
	return nil
}

// begin tells the parts whose sandbox it is.
func (w *Workspace) begin() {
	w.gateway.SetOwner(gateway.Owner{User: string(w.owner), Sandbox: w.ID()})
	if w.egress != nil {
		w.egress.SetUser(string(w.owner))
	}
	w.parts.audit(audit.EventSandboxStart, w.ID(), w.owner, "", nil)
}

// openGateway opens a socket of the model gateway for this sandbox alone.
func (w *Workspace) openGateway() error {
	dir := filepath.Join(w.parts.SocketDir, uuid.NewString())
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	w.dir = dir
	if err := os.Chmod(dir, 0o755); err != nil { // despite the umask: the agent's user passes through it
		return err
	}
	var err error
	w.gateway, err = w.parts.Gateway.Listen(dir)
	return err
}

// openRelay opens the socket of the egress proxy next to that of the gateway,
// and returns the relay by which programs inside reach it.
func (w *Workspace) openRelay() (relay sandbox.Relay, err error) {
	if w.parts.Egress == nil {
		return relay, nil
	}
	if w.egress, err = w.parts.Egress.Listen(w.dir); err != nil {
		return relay, err
	}
	return sandbox.Relay{Port: egress.Port, Socket: filepath.Join(w.socketDir(), egress.SocketName)}, nil
}

// socketDir returns the directory of the sockets inside.
func (w *Workspace) socketDir() string { return filepath.Dir(w.template.Socket) }

// Grant issues a token for the model gateway that is valid only from this
// workspace. It sets the user and the sandbox of the options.
func (w *Workspace) Grant(o gateway.GrantOptions) *gateway.Grant {
	o.User, o.Sandbox = string(w.owner), w.ID()
	return w.gateway.Grant(o)
}

// Await makes the token of an agent that waits in the workspace known to the model
// gateway; see gateway.Socket.Await.
func (w *Workspace) Await(token string) { w.gateway.Await(token) }

// EgressEnv returns the environment by which programs find the egress proxy; it is
// empty if no host is allowed.
func (w *Workspace) EgressEnv() []string {
	if w.egress == nil {
		return nil
	}
	return w.egress.Environment(w.socketDir())
}

// OpenEgress lets a job out to the allowed hosts until the returned function is
// called.
func (w *Workspace) OpenEgress(job string) (end func()) {
	if w.egress == nil {
		return func() {}
	}
	return w.egress.Begin(job, w.ID()).End
}

// Begin records that a job runs in the workspace.
func (w *Workspace) Begin(job string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.jobs = append(w.jobs, job)
	if n := len(w.jobs); n > rememberedJobs {
		w.jobs = slices.Clone(w.jobs[n-rememberedJobs:])
	}
}

// probe checks that PID 1 still answers. It leaves no process running, except for an
// agent that waits.
func (w *Workspace) probe(ctx context.Context) error {
	if a := w.Agent(); a != nil && a.Alive(ctx) {
		return nil
	}
	w.TakeAgent()
	return w.EndAll(ctx)
}

// Start implements sandbox.Sandbox. An agent that waits ends first. The workspace
// remembers the user of the program, whose files clean removes.
func (w *Workspace) Start(ctx context.Context, cmd sandbox.Command) (sandbox.Process, error) {
	if err := w.EndAgent(ctx); err != nil {
		return nil, err
	}
	owner := sandbox.Owner{UID: cmd.UID, GID: cmd.GID}
	w.mu.Lock()
	if owner != w.owning() && !slices.Contains(w.users, owner) {
		w.users = append(w.users, owner)
	}
	w.mu.Unlock()
	return w.Sandbox.Start(ctx, cmd)
}

// owning returns the user that the programs of the template run as.
func (w *Workspace) owning() sandbox.Owner {
	return sandbox.Owner{UID: w.template.UID, GID: w.template.GID}
}

// clean ends every process and removes what the programs of a job can leave for
// the next one outside of projects and homes, and special files in homes. After
// an error the workspace must be closed.
func (w *Workspace) clean(ctx context.Context) error {
	w.mu.Lock()
	owners := append([]sandbox.Owner{w.owning()}, w.users...)
	w.mu.Unlock()
	w.TakeAgent() // it ends with the others
	special := []string{w.template.Home}
	if w.Ahead() {
		special = append(special, w.LateHome()) // an engine may keep these by their paths
	}
	err := w.Clean(ctx, sandbox.Residue{Owners: owners, Empty: []string{"/tmp", "/dev/shm"}, Special: special})
	if err == nil {
		w.mu.Lock()
		w.users = nil
		w.mu.Unlock()
	}
	return err
}

// stale reports whether new workspaces are created from another template.
func (w *Workspace) stale() bool { return !reflect.DeepEqual(w.template, *w.current.Load()) }

// Close ends the sandbox and removes every trace of the workspace. After an
// error it must be called again.
func (w *Workspace) Close(ctx context.Context) error {
	w.TakeAgent() // it ends with the sandbox
	err := w.Sandbox.Close(ctx)
	if w.owner != "" {
		w.parts.audit(audit.EventSandboxStop, w.ID(), w.owner, "", err)
	}
	if err != nil {
		return err // what the sandbox sees must stay for as long as it exists
	}
	if w.released != nil {
		w.released()
	}
	return w.closeBound()
}

// closeBound closes everything except the sandbox. It may be called more than
// once.
func (w *Workspace) closeBound() error {
	var errs []error
	if w.gateway != nil {
		errs = append(errs, w.gateway.Close())
	}
	if w.egress != nil {
		errs = append(errs, w.egress.Close())
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	if w.user != nil {
		errs = append(errs, w.user.Close())
	}
	return errors.Join(errs...)
}
