package workspace

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
)

// Jobs returns the last jobs that ran in the workspace of that name, the newest
// last. It fails with CodeNotFound for an unknown name.
func (p *Pool) Jobs(name string) ([]string, error) {
	w, _, err := p.find(name)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.jobs), nil
}

// Exec runs a program of the operator in the workspace of that name, as the
// agent's user: alongside a job, or under a lease of its own. It ends with the
// program, with ctx, or with the job.
func (p *Pool) Exec(ctx context.Context, name string, cmd sandbox.Command) (sandbox.Exit, error) {
	// Recorded before it runs: the program may end this service.
	p.parts.audit(audit.EventOperator, "", ownerOf(name), "exec "+name+" -- "+strings.Join(cmd.Args, " "), nil)
	w, leased, err := p.find(name)
	if err != nil {
		return sandbox.Exit{}, err
	}
	if !leased {
		lease, err := p.Lease(ctx, w.owner)
		if err != nil {
			return sandbox.Exit{}, err
		}
		defer lease.Release(context.WithoutCancel(ctx))
		w = lease.Workspace()
	}
	cmd.UID, cmd.GID = w.template.UID, w.template.GID
	cmd.Dir = projectsDir(w.owner)
	kind := "dumb"
	if cmd.Terminal != nil {
		kind = "xterm-256color" // widely known, and understood by term.Screen
	}
	cmd.Env = append([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "TERM=" + kind, "LANG=C.UTF-8"}, *p.env.Load()...)
	process, err := w.Start(ctx, cmd)
	if err != nil && (errors.Is(err, sandbox.ErrLost) || ctx.Err() != nil) {
		return sandbox.Exit{}, err // not a fault of the program
	}
	if err != nil {
		return sandbox.Exit{}, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "the program cannot be started", Err: err,
			Hint: "name a program that the sandbox has: dreamcore sandbox exec " + name + " -- sh -c 'ls'",
		}
	}
	exit, err := process.Wait()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return exit, err
}

// find returns the workspace of that name, and whether a lease lasts: at the begin and the
// end of one, and while an agent is started ahead, everything that runs is ended. It fails
// with CodeNotFound while the workspace is being created, and once it closes.
func (p *Pool) find(name string) (w *Workspace, leased bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.named(name)
	if e == nil || e.workspace == nil || e.state == StateClosing || e.isClosed() {
		return nil, false, notFound(name)
	}
	return e.workspace, e.leased, nil
}
