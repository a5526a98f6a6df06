package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gameview"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
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
}

func newGenerateCmd(a *app) *cobra.Command {
	var o generateOptions
	c := &cobra.Command{
		Use:   "generate PROMPT",
		Short: "Make a game from a prompt",
		Long: "Makes a game from a prompt, on this machine or, with --endpoint, through a service.\n" +
			"The same --project continues a game. PROMPT - is read from standard input.",
		Example: "  dreamcore generate \"a snake game with ice physics\" -o game --open\n" +
			"  dreamcore generate --project UUID \"make the snake faster\"",
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error { return runGenerate(c.Context(), a, o, args[0]) },
	}
	f := c.Flags()
	o.endpoint.add(c)
	f.StringVar(&o.user, "user", localUser, "user the project belongs to, a UUID")
	f.StringVar(&o.project, "project", "", "project to continue, a UUID (default: a new one)")
	f.StringVarP(&o.output, "output", "o", "", "directory to copy the game to")
	f.BoolVar(&o.force, "force", false, "copy into a directory that is not empty")
	f.BoolVar(&o.open, "open", false, "serve the game on loopback and open the browser")
	f.DurationVar(&o.timeout, "timeout", 0, "time limit of the run (default: 5m, the setting timeout)")
	a.addSettings(c, "model_script", "rootfs", "image", "runtime", "tools", "model", "language", "log_level")
	a.addSettings(c, egressSettings...)
	return c
}

// outcome is the result of a generation. If the game is done, copyOut copies its
// files. close is nil if there is nothing to close.
type outcome struct {
	client.Outcome
	copyOut func(ctx context.Context, dest string, force bool) (int, error)
	close   func() error
}

func runGenerate(ctx context.Context, a *app, o generateOptions, prompt string) error {
	if o.timeout < 0 {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "--timeout must be more than 0", Hint: "write it with its unit, like 90s"}
	}
	req, err := request(ctx, a, o, prompt)
	if err != nil {
		return err
	}
	if o.output != "" && !o.force {
		if err := checkOutput(o.output); err != nil {
			return err
		}
	}
	if o.timeout > 0 {
		a.flags["timeout"] = o.timeout.String()
	}
	g := &generation{app: a, opts: o, req: req, view: gameview.New(a.io, req)}
	run := g.locally
	if o.endpoint.endpoint(a) != "" {
		run = g.remotely
	}
	out, err := run(ctx)
	g.view.Stop()
	if err != nil {
		return err
	}
	if out.close != nil {
		defer func() { _ = out.close() }()
	}
	if out.Done {
		g.view.Done()
		return g.deliver(ctx, out)
	}
	g.view.Failed(out.Outcome)
	if !a.io.JSON {
		a.io.Human().Hint(cmp.Or(showCauses(a.io.Human(), g.causes.List()), nextCommand(out.Outcome)))
	}
	if errors.Is(context.Cause(ctx), daemon.ErrInterrupted) {
		return context.Cause(ctx)
	}
	return exitCode(exitFailed)
}

// generation is one run of the command.
type generation struct {
	*app
	opts   generateOptions
	req    dreamcore.Request
	view   *gameview.View
	causes daemon.Causes // of a failure, if the job runs in this process
}

// request returns the request for a game. It is validated before anything is
// started.
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
	_, err := req.Validate()
	return req, err
}

// checkOutput returns an error if dir exists and is not empty, which the copy
// would refuse after the game is made.
func checkOutput(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || (err == nil && len(entries) == 0) {
		return nil
	}
	if err != nil {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the output directory cannot be used", Err: err, Hint: "name another directory with -o DIR"}
	}
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the output directory " + dir + " is not empty", Hint: "name another one with -o DIR, or add --force to copy into it"}
}

// locally makes the game in this process.
func (g *generation) locally(ctx context.Context) (out outcome, err error) {
	r, err := g.req.Validate()
	if err != nil {
		return out, err
	}
	err = g.withState(func(s *daemon.State) error {
		if out.Outcome, err = g.makeGame(ctx, s, r); err != nil || !out.Done {
			return err
		}
		p, err := s.Volumes.Find(r.User, r.Project)
		if err != nil {
			return err
		}
		out.close, out.copyOut = p.Close, func(ctx context.Context, dest string, force bool) (int, error) {
			files, err := project.CopyOut(ctx, p, dest, force)
			return len(files), err
		}
		return nil
	})
	if err != nil && out.close != nil {
		err = errors.Join(err, out.close())
	}
	return out, err
}

// makeGame opens a machine for one game.
func (g *generation) makeGame(ctx context.Context, s *daemon.State, r dreamcore.GenerateRequest) (end client.Outcome, err error) {
	bin, err := s.Agent()
	if err != nil {
		return end, err
	}
	g.warnUnlimited()
	if err := demoWithoutKey(s); err != nil {
		return end, err
	}
	p := g.io.Human()
	if g.view.Free = s.Config.ModelScript == replay.DemoName; g.view.Free && !g.io.JSON {
		p.Warning("This is a demo: a script replaces the model", "the agent and the sandbox are real")
		p.Hint("to use the model, run: dreamcore setup --anthropic-key-file FILE")
	}
	m, err := daemon.OpenMachine(ctx, s, bin, g.log(s))
	if err != nil {
		return end, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	g.view.Sandbox = daemon.EngineTitle(s.Config.Runtime) + " sandbox"
	if m.Root() != "" && !g.io.JSON {
		p.Info("The sandbox starts from the " + m.Root())
	}
	return m.Generate(ctx, r, dreamcore.Language(s.Config.Language), g.view.Event)
}

// demoWithoutKey selects the demo script if there is no key for the model API. If
// a list of upstreams is configured, missing credentials are an error.
func demoWithoutKey(s *daemon.State) error {
	if s.Config.ModelScript != "" {
		return nil
	}
	err := s.CheckModel()
	if err != nil && len(s.Config.Upstreams) == 0 {
		s.Config.ModelScript, err = replay.DemoName, nil
	}
	return err
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

// remotely makes the game through a service.
func (g *generation) remotely(ctx context.Context) (outcome, error) {
	r, err := g.req.Validate()
	if err != nil {
		return outcome{}, err
	}
	c, err := g.opts.endpoint.client(g.app, 0)
	if err != nil {
		return outcome{}, err
	}
	if g.opts.timeout > 0 {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, g.opts.timeout)
		defer cancel()
	}
	end, err := c.Generate(ctx, g.req, g.view.Event)
	if err != nil {
		c.Close()
		return outcome{}, err
	}
	return outcome{Outcome: end, close: func() error { c.Close(); return nil }, copyOut: func(ctx context.Context, dest string, force bool) (int, error) {
		if !force {
			if err := checkOutput(dest); err != nil {
				return 0, err
			}
		}
		n, leftOut, err := c.Download(ctx, r.User, r.Project, dest)
		if leftOut > 0 {
			g.io.Stderr().Warning(fmt.Sprintf("%d files are omitted: their names are not UTF-8", leftOut))
		}
		return n, err
	}}, nil
}

// deliver copies the finished game and opens it, as the options say.
func (g *generation) deliver(ctx context.Context, out outcome) error {
	dir := g.opts.output
	if dir == "" && g.opts.open {
		tmp, err := os.MkdirTemp("", "dreamcore-game-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		dir = tmp
	}
	if dir != "" {
		n, err := out.copyOut(ctx, dir, g.opts.force || g.opts.output == "")
		if err == nil && !g.opts.force && g.opts.output != "" { // with --force, other files may be there too
			err = g.owner().GiveAll(dir)
		}
		if err != nil {
			return fmt.Errorf("copy the game: %w", err)
		}
		if g.opts.output != "" && !g.io.JSON {
			g.io.Human().Success(fmt.Sprintf("%d files copied to %s", n, dir))
		}
	}
	if !g.io.JSON {
		g.showNext(dir)
	}
	if g.opts.open {
		return serveGame(ctx, g.app, g.req, dir)
	}
	return nil
}

func (g *generation) showNext(dir string) {
	p := g.io.Human()
	p.Pairs(term.Pair{Key: "project", Value: g.req.ProjectID, Tone: term.Strong})
	switch {
	case g.opts.open:
	case dir != "":
		p.Hint("open " + filepath.Join(dir, "index.html") + " in a browser")
	default:
		p.Hint("copy the game with -o DIR, or play it at once with --open")
	}
	p.Hint("run: dreamcore generate --project " + g.req.ProjectID + " \"make it faster\"")
}
