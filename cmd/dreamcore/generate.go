package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/operate/commandline"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gameview"
	"github.com/notef-neighbor/dreamcore/pkg/operate/jobs"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

// localUser owns the projects that are made from this terminal.
const localUser = "00000000-0000-4000-8000-000000000001"

type generateOptions struct {
	endpoint endpointOptions
	user     string
	project  string
	output   string
	force    bool
	open     bool
	timeout  time.Duration
	detach   bool
	follow   string
	picture  pictureOptions
}

func newGenerateCmd(a *app) *cobra.Command {
	var o generateOptions
	c := a.command("generate", func(ctx context.Context, args []string) error {
		if err := o.picture.Check(); err != nil {
			return err
		}
		if o.follow != "" {
			return runFollow(ctx, a, o)
		}
		return runGenerate(ctx, a, o, args[0])
	})
	onePrompt := c.Args
	c.Args = func(c *cobra.Command, args []string) error {
		if o.follow != "" {
			return commandline.Args(cobra.NoArgs)(c, args)
		}
		return onePrompt(c, args)
	}
	f := c.Flags()
	o.endpoint.add(c)
	f.StringVar(&o.user, "user", localUser, "user the project belongs to, a UUID")
	f.StringVar(&o.project, "project", "", "project to continue, a UUID (default: a new one)")
	f.StringVarP(&o.output, "output", "o", "", "directory to copy the game to")
	f.BoolVar(&o.force, "force", false, "copy into a directory that is not empty")
	f.BoolVar(&o.open, "open", false, "serve the game on loopback and open the browser")
	f.DurationVar(&o.timeout, "timeout", 0, "time limit of the run (default: 5m, the setting timeout)")
	f.BoolVar(&o.detach, "detach", false, "leave the job to the service, and print its id")
	o.picture.add(c)
	f.StringVar(&o.follow, "follow", "", "show this job of the service instead of a new one")
	for _, pair := range [][2]string{{"detach", "follow"}, {"follow", "open"}, {"detach", "output"}, {"detach", "screenshot"}, {"detach", "open"}} {
		c.MarkFlagsMutuallyExclusive(pair[0], pair[1])
	}
	if err := c.RegisterFlagCompletionFunc("follow", a.completeJobs(&o.endpoint)); err != nil {
		panic(err) // the flag is defined above
	}
	a.addSettings(c, "model_script", "rootfs", "image", "runtime", "tools", "model", "acceptance", "language", "log_level")
	a.addSettings(c, egressSettings...)
	return c
}

func runGenerate(ctx context.Context, a *app, o generateOptions, prompt string) error {
	if o.timeout < 0 {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "--timeout must be more than 0", Hint: "write it with its unit, like 90s"}
	}
	req, err := request(ctx, a, o, prompt)
	if err != nil {
		return err
	}
	valid, err := req.Validate()
	if err != nil {
		return err
	}
	if o.output != "" && !o.force {
		if err := gameview.CheckOutput(o.output); err != nil {
			return err
		}
	}
	if o.timeout > 0 {
		a.flags["timeout"] = o.timeout.String()
	}
	if o.detach {
		return runDetached(ctx, a, o, req)
	}
	return a.makeGame(ctx, &generation{app: a, opts: o, req: req, valid: valid, view: gameview.New(a.io, req)})
}

// makeGame runs a generation and shows it to its end.
func (a *app) makeGame(ctx context.Context, g *generation) (err error) {
	defer g.view.Stop()
	if g.dir = g.opts.output; g.dir == "" && g.opts.open {
		if g.dir, err = os.MkdirTemp("", "dreamcore-game-"); err != nil {
			return err
		}
		defer os.RemoveAll(g.dir)
	}
	run := g.locally
	if g.opts.endpoint.endpoint(a) != "" {
		run = g.remotely
	}
	out, err := run(ctx)
	if err != nil {
		return err
	}
	return g.finish(ctx, out)
}

// finish shows how a generation has ended.
func (g *generation) finish(ctx context.Context, out client.Outcome) error {
	if out.Done {
		g.writePicture(ctx)
		g.showNext()
		if g.opts.open {
			return gameview.Serve(ctx, g.io, g.env.Display, g.valid, g.dir, g.logger("error"))
		}
		return nil
	}
	g.view.Stop()
	g.view.Failed(out)
	g.writePicture(ctx)
	p := g.people(g.io.Stdout())
	p.Hint(cmp.Or(showCauses(p, g.causes.List()), nextCommand(out)))
	if errors.Is(context.Cause(ctx), daemon.ErrInterrupted) {
		return context.Cause(ctx)
	}
	return exitCode(exitFailed)
}

// writePicture writes the picture of the version that the job has made.
func (g *generation) writePicture(ctx context.Context) {
	g.opts.picture.fetch(ctx, g.app, g.opts.endpoint, g.valid.User, g.valid.Project, g.view.Commit())
}

type generation struct {
	*app
	opts   generateOptions
	req    dreamcore.Request
	valid  dreamcore.GenerateRequest
	view   *gameview.View
	dir    string        // to which the finished game is copied; "" if it is not
	causes daemon.Causes // of a failure, if the job runs in this process
}

func request(ctx context.Context, a *app, o generateOptions, prompt string) (dreamcore.Request, error) {
	if prompt == "-" {
		raw, err := io.ReadAll(io.LimitReader(a.io.Input(ctx), dreamcore.MaxPromptBytes+1))
		if err != nil {
			return dreamcore.Request{}, fmt.Errorf("read the prompt: %w", err)
		}
		prompt = strings.TrimRight(string(raw), "\n")
	}
	req := dreamcore.Request{UserID: o.user, ProjectID: o.project, Prompt: prompt}
	if req.ProjectID == "" {
		req.ProjectID = string(dreamcore.NewProjectID())
	}
	return req, nil
}

func (g *generation) locally(ctx context.Context) (out client.Outcome, err error) {
	err = g.withState(func(s *daemon.State) error {
		if out, err = g.generate(ctx, s); err != nil || !out.Done {
			return err
		}
		return g.copyLocally(ctx, s)
	})
	return out, err
}

// copyLocally shows that the game is done, and copies it from the state directory.
func (g *generation) copyLocally(ctx context.Context, s *daemon.State) error {
	return g.deliver(func() (n int, err error) {
		p, err := s.Volumes.Find(g.valid.User, g.valid.Project)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, p.Close()) }()
		files, err := project.CopyOut(ctx, p, g.dir, g.mayMix())
		return len(files), err
	})
}

func (g *generation) generate(ctx context.Context, s *daemon.State) (end client.Outcome, err error) {
	bin, err := s.Agent()
	if err != nil {
		return end, err
	}
	g.warnUnlimited()
	if err := g.announceProject(func() error {
		p, err := s.Volumes.Find(g.valid.User, g.valid.Project)
		if err != nil {
			return err
		}
		return p.Close()
	}); err != nil {
		return end, err
	}
	if err := s.DemoWithoutKey(); err != nil {
		return end, err
	}
	p := g.people(g.io.Stdout())
	if g.view.Free = replay.IsDemo(s.Config.ModelScript); g.view.Free {
		p.Warning("This is a demo: a script replaces the model", "the agent and the sandbox are real")
		p.Hint("to use the model, run: dreamcore setup --anthropic-key-file FILE")
	}
	m, err := daemon.OpenMachine(ctx, s, bin, g.log(s))
	if err != nil {
		return end, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	g.view.Sandbox = daemon.EngineTitle(s.Config.Runtime) + " sandbox"
	if m.Root() != "" {
		p.Info("The sandbox starts from the " + m.Root())
	}
	return m.Generate(ctx, g.valid, dreamcore.Language(s.Config.Language), g.began, g.view.Event)
}

// log returns the log of a local generation, which records the causes of a
// failure.
func (g *generation) log(s *daemon.State) *slog.Logger {
	level := s.Config.LogLevel
	if _, given := g.flags["log_level"]; !given {
		level = "error" // the view shows the rest
	}
	log := g.logger(level)
	if g.io.JSON { // programs read the log itself
		return log
	}
	return slog.New(g.redactor.Handler(g.causes.Handler(log.Handler())))
}

func (g *generation) remotely(ctx context.Context) (out client.Outcome, err error) {
	err = g.opts.endpoint.withClient(g.app, func(c *client.Client) error {
		if err := g.announceProject(func() error {
			_, _, err := c.ListFiles(ctx, g.valid.User, g.valid.Project)
			return err
		}); err != nil {
			return err
		}
		if out, err = jobs.Run(ctx, c, client.Submission{Request: g.req, Began: g.began}, g.opts.timeout, g.view.Event); err != nil || !out.Done {
			return err
		}
		return g.download(ctx, c)
	})
	return out, err
}

// began shows the ids of the job and of its project.
func (g *generation) began(job string) error {
	return g.view.Job(job, g.valid.User, g.valid.Project)
}

// announceProject says that a project which was named does not exist: before
// anything is spent on a new one.
func (g *generation) announceProject(find func() error) error {
	if g.opts.project == "" {
		return nil
	}
	err := find()
	if dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		return err
	}
	return g.view.Warn(fmt.Sprintf("The user %s has no project %s yet: it begins with this game", g.valid.User, g.valid.Project))
}

// download copies the game that the service has made.
func (g *generation) download(ctx context.Context, c *client.Client) error {
	return g.deliver(func() (int, error) {
		if !g.mayMix() {
			if err := gameview.CheckOutput(g.dir); err != nil {
				return 0, err
			}
		}
		n, leftOut, err := c.Download(ctx, g.valid.User, g.valid.Project, g.dir)
		if leftOut > 0 {
			g.io.Stderr().Warning(fmt.Sprintf("%d files are omitted: their names are not UTF-8", leftOut))
		}
		return n, err
	})
}

// mayMix reports whether the game may be copied into a directory with other files.
func (g *generation) mayMix() bool { return g.opts.force || g.opts.output == "" }

// deliver shows that the game is done, and copies it if the options ask for it.
func (g *generation) deliver(copyGame func() (files int, err error)) error {
	g.view.Stop()
	g.view.Done()
	if g.dir == "" {
		return nil
	}
	n, err := copyGame()
	if err == nil && !g.mayMix() { // otherwise, other files may be there too
		err = g.owner().GiveAll(g.dir)
	}
	if err != nil {
		return fmt.Errorf("copy the game: %w", err)
	}
	if g.opts.output != "" {
		g.people(g.io.Stdout()).Success(fmt.Sprintf("%d files copied to %s", n, g.dir))
	}
	return nil
}

func (g *generation) showNext() {
	user := ""
	if g.req.UserID != localUser || g.opts.user != localUser { // the job that --follow shows may be another user's
		user = g.req.UserID
	}
	g.view.Next(g.dir, g.opts.open, g.req.ProjectID, user)
}
