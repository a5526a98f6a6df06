package probe

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// checkMaxAge is an upper bound on the duration of a deep check: older directories were
// left by a crash.
const checkMaxAge = time.Hour

// fillBytes is the size of a throw-away user's disk, if users have a limit: enough
// to show that the limit holds.
const fillBytes = 32 << 20

// withDir calls use with a directory for the users of one check. It removes the
// directory and adds to the notes whether anything was left.
func (p *Prober) withDir(ctx context.Context, n *notes, use func() error) (err error) {
	if err := os.MkdirAll(p.cfg.Deep.Dir, 0o700); err != nil {
		return err
	}
	p.sweepChecks(ctx)
	n.dir = filepath.Join(p.cfg.Deep.Dir, uuid.NewString())
	if err := os.Mkdir(n.dir, 0o700); err != nil {
		return err
	}
	err = use()
	began, left := time.Now(), "nothing"
	if rerr := os.RemoveAll(n.dir); rerr != nil {
		left = "files of the check could not be removed"
		p.log.Error("remove the directory of a check", "error", rerr)
	}
	if mounts, merr := os.ReadFile("/proc/self/mountinfo"); merr != nil || strings.Contains(string(mounts), n.dir) {
		left = "a mount of the check is still there"
	}
	n.see(began, "left behind", left)
	return err
}

// sweepChecks removes what an earlier process left when it died during a check.
func (p *Prober) sweepChecks(ctx context.Context) {
	entries, _ := os.ReadDir(p.cfg.Deep.Dir)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < checkMaxAge {
			continue
		}
		dir := filepath.Join(p.cfg.Deep.Dir, e.Name())
		if s, err := p.openUsers(dir); err == nil {
			err = errors.Join(s.SweepDisks(ctx), s.Close())
			if err != nil {
				p.log.Error("unmount what an earlier check left", "error", err)
				continue
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			p.log.Error("remove what an earlier check left", "error", err)
		}
	}
}

// openUsers opens the volumes of throw-away users in dir.
func (p *Prober) openUsers(dir string) (*volume.Store, error) {
	opts := p.cfg.Deep.Volumes
	opts.HomesDir, opts.LocksDir = "", "" // next to the volumes
	if opts.DiskBytes > 0 {
		opts.DiskBytes = min(opts.DiskBytes, fillBytes)
	}
	s, err := volume.Open(filepath.Join(dir, "volumes"), opts)
	if err != nil {
		return nil, err
	}
	if _, err := s.Create(volume.Data); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// guest is a throw-away user in a workspace like that of a job, with a project, a
// home, and a token for the model gateway.
type guest struct {
	*workspace.Workspace
	p       *Prober
	parts   workspace.Parts
	id      dreamcore.UserID
	inside  string // the project, inside
	project *volume.Project
	home    *volume.Home
	grant   *gateway.Grant
}

// withGuests calls use with count users in workspaces of their own.
func (p *Prober) withGuests(ctx context.Context, n *notes, count int, use func([]*guest) error) (err error) {
	users, err := p.openUsers(n.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, users.Close()) }()
	parts := workspace.Parts{Sandboxes: p.cfg.Sandboxes, Gateway: p.cfg.Deep.Gateway, Volumes: users, SocketDir: n.dir}
	var guests []*guest
	defer func() {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
		defer cancel()
		for _, g := range guests {
			if cerr := g.close(limit); cerr != nil {
				err = errors.Join(err, failed("the sandbox could not be removed", cerr))
			}
		}
	}()
	for range count {
		g := &guest{p: p, parts: parts, id: dreamcore.UserID(uuid.NewString())}
		guests = append(guests, g)
		if err := g.enter(ctx); err != nil {
			return &dreamcore.Error{
				Code: dreamcore.CodeSetup, Message: "a sandbox could not be started", Err: ended(ctx, err),
				Hint: hint(err, "the log of the service names the cause"),
			}
		}
	}
	return use(guests)
}

// enter creates everything that a guest has. After an error, close closes what
// was created.
func (g *guest) enter(ctx context.Context) (err error) {
	project := dreamcore.ProjectID(uuid.NewString())
	if g.project, err = g.parts.Volumes.Project(g.id, project); err != nil {
		return err
	}
	if g.home, err = g.parts.Volumes.Home(g.id, project); err != nil {
		return err
	}
	g.inside = workspace.ProjectDir(g.id, project)
	return g.open(ctx)
}

// open opens the guest's workspace.
func (g *guest) open(ctx context.Context) (err error) {
	g.Workspace, err = workspace.Open(ctx, g.parts, workspace.Template{
		Root: g.p.cfg.Root, Limits: g.p.cfg.Limits, Home: rootfs.HomeDir, UID: g.p.cfg.UID, GID: g.p.cfg.GID,
		Socket: path.Join(rootfs.GatewayDir, gateway.SocketName),
	}, g.id)
	if err != nil {
		return err
	}
	g.grant = g.Grant(gateway.GrantOptions{Job: "check", Expires: time.Now().Add(DeepTimeLimit)})
	return nil
}

func (g *guest) close(ctx context.Context) error {
	var errs []error
	if g.Workspace != nil {
		if err := g.Workspace.Close(ctx); err != nil {
			return err // what the sandbox sees must stay for as long as it exists
		}
		g.grant.Revoke()
	}
	if g.home != nil {
		errs = append(errs, g.home.Close())
	}
	if g.project != nil {
		errs = append(errs, g.project.Close())
	}
	return errors.Join(errs...)
}

// command returns the command that runs a program in the same way as the agent.
func (g *guest) command(out io.Writer, args ...string) sandbox.Command {
	return sandbox.Command{
		Args: args, Dir: g.inside, UID: g.p.cfg.UID, GID: g.p.cfg.GID,
		Env: []string{
			"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "TMPDIR=/tmp",
			"HOME=" + path.Join(rootfs.HomeDir, path.Base(g.inside)),
			"ANTHROPIC_API_KEY=" + g.grant.Token(),
			"ANTHROPIC_UNIX_SOCKET=" + path.Join(rootfs.GatewayDir, gateway.SocketName),
		},
		Stdout: out, Stderr: out,
	}
}

// shell runs a script and returns the beginning of its output. The exit code does
// not matter: most scripts try what must fail.
func (g *guest) shell(ctx context.Context, text string, args ...string) (string, error) {
	out := &output{limit: maxOutput, cut: true}
	if _, err := finish(ctx, g, g.command(out, append([]string{"/bin/sh", "-c", text, "sh"}, args...)...)); err != nil {
		return "", err
	}
	return out.text(), nil
}
