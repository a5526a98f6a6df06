package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/egress"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// desk is where the agent works for one user: a sandbox that sees all projects
// of that user and nothing of another, with a socket of the model gateway of
// its own. It stays for the next job. It implements workspace.Member.
type desk struct {
	sandbox.Sandbox
	service *Service
	owner   dreamcore.UserID
	made    outfit
	socket  *gateway.Socket
	egress  *egress.Socket // nil: there is no way out
	dir     string         // of the sockets
	user    *volume.User

	mu   sync.Mutex
	jobs []string // the last ones that ran here; guarded by mu
}

// keptJobs is how many jobs a desk remembers.
const keptJobs = 16

// outfit is what of the settings a sandbox is made with.
type outfit struct {
	Root      sandbox.Root
	Limits    sandbox.Limits
	AgentFile string
	Path      string // of the agent inside
	Home      string
	Socket    string
	UID, GID  uint32
}

func outfitOf(s *Settings) outfit {
	return outfit{s.Root, s.Limits, s.AgentFile, s.Agent.Path, s.Agent.Home, s.Agent.Socket, s.Agent.UID, s.Agent.GID}
}

// makeDesk makes a user's desk. On an error nothing is left.
func (s *Service) makeDesk(ctx context.Context, user dreamcore.UserID) (_ *desk, err error) {
	d := &desk{service: s, owner: user, made: outfitOf(s.settings.Load())}
	made := false
	defer func() {
		if !made { // an error or a panic
			err = errors.Join(err, d.closeRest())
		}
	}()
	if d.user, err = s.parts.Volumes.User(ctx, user); err != nil {
		return nil, fmt.Errorf("open what belongs to the user: %w", err)
	}
	if err = d.listen(); err != nil {
		return nil, fmt.Errorf("open the model gateway: %w", err)
	}
	relay, err := d.openEgress()
	if err != nil {
		return nil, fmt.Errorf("open the way out: %w", err)
	}
	d.Sandbox, err = s.parts.Sandboxes.Create(ctx, sandbox.Spec{
		Root: d.made.Root, Limits: d.made.Limits, Mounts: d.mounts(user), Relay: relay,
	})
	if err != nil {
		s.audit(audit.EventSandboxStart, "", user, "", err)
		return nil, err
	}
	made = true
	d.socket.SetOwner(gateway.Owner{User: string(user), Sandbox: d.ID()})
	if d.egress != nil {
		d.egress.SetUser(string(user))
	}
	s.audit(audit.EventSandboxStart, d.ID(), user, "", nil)
	return d, nil
}

// ownerOf is whose sandbox a name says it is.
func ownerOf(name string) dreamcore.UserID {
	return dreamcore.UserID(strings.TrimPrefix(name, workspace.Name("")))
}

// audit writes down what was done with a sandbox.
func (s *Service) audit(event, sandbox string, user dreamcore.UserID, what string, err error) {
	e := audit.Entry{Event: event, Sandbox: sandbox, User: string(user), Target: what, Verdict: audit.Allowed}
	if err != nil {
		e.Verdict, e.Reason = audit.Failed, err.Error()
	}
	s.parts.Audit.Record(e)
}

func (d *desk) mounts(user dreamcore.UserID) []sandbox.Mount {
	mounts := []sandbox.Mount{
		{Source: d.user.ProjectsPath(), Target: fmt.Sprintf(projectsDir, user), Writable: true},
		{Source: d.user.HomesPath(), Target: d.made.Home, Writable: true},
		{Source: d.made.AgentFile, Target: d.made.Path},
		// The directory, not the socket: its file is the gateway's to replace.
		{Source: d.dir, Target: d.inside()},
	}
	if dir, err := d.service.parts.Volumes.Path(volume.Global); err == nil {
		mounts = append(mounts, sandbox.Mount{Source: dir, Target: globalDir})
	}
	return mounts
}

// listen opens the gateway for this desk's sandbox.
func (d *desk) listen() error {
	dir := filepath.Join(d.service.parts.SocketDir, uuid.NewString())
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	d.dir = dir
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask: the agent's user passes through it
		return err
	}
	var err error
	d.socket, err = d.service.parts.Gateway.Listen(dir)
	return err
}

// openEgress makes the way out beside the gateway's socket, where the operator
// allows any host, and returns the relay by which programs find it.
func (d *desk) openEgress() (relay sandbox.Relay, err error) {
	if d.service.parts.Egress == nil {
		return relay, nil
	}
	if d.egress, err = d.service.parts.Egress.Listen(d.dir); err != nil {
		return relay, err
	}
	return sandbox.Relay{Port: egress.Port, Socket: filepath.Join(d.inside(), egress.SocketName)}, nil
}

// inside is where the directory of the sockets is in the sandbox.
func (d *desk) inside() string { return filepath.Dir(d.made.Socket) }

// letOut opens the way out for a job, until the returned function is called,
// and returns what programs must know of it.
func (d *desk) letOut(job string) (env []string, end func()) {
	if d.egress == nil {
		return nil, func() {}
	}
	return d.egress.Environment(d.inside()), d.egress.Begin(job, d.ID()).End
}

// Probe asks PID 1 whether it still answers, and leaves no process running.
func (d *desk) Probe(ctx context.Context) error { return d.EndAll(ctx) }

// Clean implements workspace.Member: it removes what the agent can leave for
// the next job outside of the projects and homes, and special files in homes.
func (d *desk) Clean(ctx context.Context) error {
	return d.Sandbox.Clean(ctx, sandbox.Residue{
		UID: d.made.UID, GID: d.made.GID, Empty: []string{"/tmp", "/dev/shm"}, Special: []string{d.made.Home},
	})
}

// Stale tells that the settings have changed since the sandbox was made.
func (d *desk) Stale() bool {
	return !reflect.DeepEqual(d.made, outfitOf(d.service.settings.Load()))
}

// Close implements workspace.Member.
func (d *desk) Close(ctx context.Context) error {
	if err := d.Sandbox.Close(ctx); err != nil {
		d.service.audit(audit.EventSandboxStop, d.ID(), d.owner, "", err)
		return err // what it sees stays for as long as it does
	}
	d.service.audit(audit.EventSandboxStop, d.ID(), d.owner, "", nil)
	d.service.forgetDesk(d)
	return d.closeRest()
}

// closeRest closes what is not the sandbox. It may be called more than once.
func (d *desk) closeRest() error {
	var errs []error
	if d.socket != nil {
		errs = append(errs, d.socket.Close())
	}
	if d.egress != nil {
		errs = append(errs, d.egress.Close())
	}
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	if d.user != nil {
		errs = append(errs, d.user.Close())
	}
	return errors.Join(errs...)
}

// began notes a job that runs here.
func (d *desk) began(job string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.jobs = append(d.jobs, job)
	if n := len(d.jobs); n > keptJobs {
		d.jobs = slices.Clone(d.jobs[n-keptJobs:])
	}
}

// remember lists a desk until it is closed.
func (s *Service) remember(d *desk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.desks[d.owner] = d
}

func (s *Service) forgetDesk(d *desk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.desks[d.owner] == d {
		delete(s.desks, d.owner)
	}
}

// Prewarm makes the user's sandbox ready ahead of a job. It tells whether it
// was there already. CodeBusy: the machine has no room for another one now.
func (s *Service) Prewarm(ctx context.Context, user dreamcore.UserID) (already bool, name string, err error) {
	already, err = s.pool.Prewarm(ctx, user)
	return already, workspace.Name(user), err
}

// Sandboxes lists the sandboxes that are kept.
func (s *Service) Sandboxes() []workspace.Info { return s.pool.List() }

// StopSandbox ends a sandbox; a job in it ends as interrupted. CodeNotFound:
// there is none of that name.
func (s *Service) StopSandbox(ctx context.Context, name string) error {
	err := s.pool.Stop(ctx, name)
	s.audit(audit.EventOperator, "", ownerOf(name), "stop "+name, err)
	return err
}

// SandboxJobs are the last jobs that ran in a sandbox, the newest last.
func (s *Service) SandboxJobs(name string) ([]string, error) {
	d, _, err := s.find(name)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.jobs), nil
}

// Exec runs a program in a sandbox as the agent's user, beside a job or, where
// none runs, with the sandbox for itself. It ends with the program, with ctx,
// or with the job.
func (s *Service) Exec(ctx context.Context, name string, cmd sandbox.Command) (sandbox.Exit, error) {
	// Before it runs: what it does may be to end this service.
	s.audit(audit.EventOperator, "", ownerOf(name), "exec "+name+" -- "+strings.Join(cmd.Args, " "), nil)
	d, info, err := s.find(name)
	if err != nil {
		return sandbox.Exit{}, err
	}
	if info.State == workspace.StateIdle {
		lease, err := s.pool.Lease(ctx, info.User)
		if err != nil {
			return sandbox.Exit{}, err
		}
		defer lease.Release(context.WithoutCancel(ctx))
		d = lease.Member()
	}
	cmd.UID, cmd.GID = d.made.UID, d.made.GID
	cmd.Dir = fmt.Sprintf(projectsDir, info.User)
	cmd.Env = append([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "TERM=dumb", "LANG=C.UTF-8"}, s.settings.Load().Agent.Given...)
	p, err := d.Start(ctx, cmd)
	if err != nil && (errors.Is(err, sandbox.ErrLost) || ctx.Err() != nil) {
		return sandbox.Exit{}, err // the program has no part in it
	}
	if err != nil {
		return sandbox.Exit{}, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "the program cannot be started", Err: err,
			Hint: "name a program that the sandbox has: dreamcore sandbox exec " + name + " -- sh -c 'ls'",
		}
	}
	exit, err := p.Wait()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return exit, err
}

func (s *Service) find(name string) (*desk, workspace.Info, error) {
	for _, info := range s.pool.List() {
		if info.Name != name {
			continue
		}
		s.mu.Lock()
		d := s.desks[info.User]
		s.mu.Unlock()
		if d != nil && d.ID() == info.Sandbox {
			return d, info, nil
		}
	}
	return nil, workspace.Info{}, &dreamcore.Error{
		Code: dreamcore.CodeNotFound, Message: fmt.Sprintf("there is no sandbox %q", name), Hint: "see them with: dreamcore ps",
	}
}
