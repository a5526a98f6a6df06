package main

import (
	"context"
	"errors"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gameview"
	"github.com/notef-neighbor/dreamcore/pkg/operate/jobs"
)

// runDetached submits a request to a service and leaves its job there.
func runDetached(ctx context.Context, a *app, o generateOptions, req dreamcore.Request) error {
	id, err := submitDetached(ctx, a, o, req)
	if err != nil {
		return err
	}
	view := gameview.New(a.io, req)
	if err := view.Job(id, dreamcore.UserID(req.UserID), dreamcore.ProjectID(req.ProjectID)); err != nil {
		return err
	}
	a.people(a.io.Stdout()).Hint("run: dreamcore generate --follow " + id)
	return nil
}

func submitDetached(ctx context.Context, a *app, o generateOptions, req dreamcore.Request) (id string, err error) {
	if o.endpoint.endpoint(a) != "" {
		err = o.endpoint.withClient(a, func(c *client.Client) error {
			id, err = jobs.Begin(ctx, c, client.Submission{Request: req})
			return err
		})
		return id, err
	}
	cfg, err := a.config()
	if err != nil {
		return "", err
	}
	err = a.withService(func(service *control.Client) error {
		id, err = service.SubmitJob(ctx, req, dreamcore.Language(cfg.Language))
		return err
	})
	return id, err
}

// runFollow shows a job of a service to its end. Ctrl-C leaves the job alone.
func runFollow(ctx context.Context, a *app, o generateOptions) error {
	if o.output != "" && !o.force {
		if err := gameview.CheckOutput(o.output); err != nil {
			return err
		}
	}
	return a.withJob(ctx, o.endpoint, o.follow, func(s jobs.Source, j dreamcore.Job) error {
		g := &generation{
			app: a, opts: o, view: newJobView(a, j), dir: o.output,
			req:   dreamcore.Request{UserID: string(j.User), ProjectID: string(j.Project)},
			valid: dreamcore.GenerateRequest{User: j.User, Project: j.Project},
		}
		defer g.view.Stop()
		if err := g.began(j.ID); err != nil {
			return err
		}
		out, ended, err := jobs.Replay(ctx, g.view, s, j, true)
		if !ended && errors.Is(context.Cause(ctx), daemon.ErrInterrupted) {
			p := a.people(a.io.Stdout())
			p.Info("The job goes on")
			p.Hint("run: dreamcore jobs cancel " + j.ID)
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		if out.Done {
			err = g.deliverFollowed(ctx)
		}
		if err != nil {
			return err
		}
		return g.finish(ctx, out)
	})
}

// deliverFollowed shows that the game is done, and copies it if the options ask for
// it.
func (g *generation) deliverFollowed(ctx context.Context) error {
	if g.opts.endpoint.endpoint(g.app) == "" {
		return g.withState(func(s *daemon.State) error { return g.copyLocally(ctx, s) })
	}
	return g.opts.endpoint.withClient(g.app, func(c *client.Client) error { return g.download(ctx, c) })
}
