package main

import (
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
	f.DurationVar(&o.timeout, "timeout", 0, "end the run after so long (default: the agent's own limit of 5m)")
	a.addSettings(c, modelScriptSetting, rootfsSetting, imageSetting, runtimeSetting, toolsSetting, modelSetting, languageSetting, logLevelSetting)
	a.addSettings(c, egressSettings...)
	return c
}

// outcome is how a generation ended and where its files are.
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
	view := newGameView(a, req)
	run := generateHere
	if o.endpoint.endpoint(a) != "" {
		run = generateThere
	}
	out, err := run(ctx, a, o, req, view)
	view.stop()
	if err != nil {
		return err
	}
	defer func() { _ = out.close() }()
	if !out.Done {
		view.failed(out.Outcome)
		if errors.Is(context.Cause(ctx), daemon.ErrInterrupted) {
			return context.Cause(ctx)
		}
		return exitCode(exitFailed)
	}
	view.done()
	return deliver(ctx, a, o, req, out)
}

// request is the request for a game, checked before anything is started.
func request(ctx context.Context, a *app, o generateOptions, prompt string) (dreamcore.Request, error) {
	if prompt == "-" {
		raw, err := io.ReadAll(io.LimitReader(input{ctx, a.io.In}, dreamcore.MaxPromptBytes+1))
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

// checkOutput refuses a directory that CopyOut would refuse, before the game
// is made and not after.
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

// generateHere runs the use case in this process.
func generateHere(ctx context.Context, a *app, _ generateOptions, req dreamcore.Request, view *gameView) (_ outcome, err error) {
	s, err := a.open()
	if err != nil {
		return outcome{}, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	bin, err := s.Agent()
	if err != nil {
		return outcome{}, err
	}
	a.warnUnlimited()
	if s.Config.ModelScript == "" {
		err := s.CheckModel()
		if err != nil && len(s.Config.Upstreams) > 0 {
			return outcome{}, err // what was asked for is no demo
		}
		if err != nil {
			s.Config.ModelScript = replay.DemoName
		}
	}
	if s.Config.ModelScript == replay.DemoName {
		view.demo()
	}
	level := s.Config.LogLevel
	if _, given := a.flags["log_level"]; !given {
		level = "error" // the view says what goes on
	}
	log := a.logger(level)
	if !a.io.JSON { // programs read the log itself
		log = slog.New(a.redactor.Handler(view.causes.Handler(log.Handler())))
	}
	m, err := daemon.OpenMachine(ctx, s, bin, log)
	if err != nil {
		return outcome{}, err
	}
	view.engine(s.Config.Runtime)
	view.root(m.Root())
	out, err := game(ctx, s, m, req, view)
	if closeErr := m.Close(); err == nil && closeErr != nil {
		return outcome{}, errors.Join(closeErr, out.close())
	}
	return out, err
}

// game makes a game and opens its project, which stays open after the machine
// is closed.
func game(ctx context.Context, s *daemon.State, m *daemon.Machine, req dreamcore.Request, view *gameView) (outcome, error) {
	w, err := req.Validate()
	if err != nil {
		return outcome{}, err
	}
	end, err := m.Generate(ctx, w, dreamcore.Language(s.Config.Language), view.event)
	if err != nil {
		return outcome{}, err
	}
	out := outcome{Outcome: end, close: func() error { return nil }}
	if !end.Done {
		return out, nil
	}
	p, err := s.Volumes.Find(w.User, w.Project)
	if err != nil {
		return outcome{}, err
	}
	out.close = p.Close
	out.copyOut = func(ctx context.Context, dest string, force bool) (int, error) {
		files, err := project.CopyOut(ctx, p, dest, force)
		return len(files), err
	}
	return out, nil
}

// generateThere is a client of a service.
func generateThere(ctx context.Context, a *app, o generateOptions, req dreamcore.Request, view *gameView) (outcome, error) {
	c, err := o.endpoint.client(a, 0)
	if err != nil {
		return outcome{}, err
	}
	if o.timeout > 0 {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	end, err := c.Generate(ctx, req, view.event)
	if err != nil {
		c.Close()
		return outcome{}, err
	}
	return outcome{Outcome: end, close: func() error { c.Close(); return nil }, copyOut: func(ctx context.Context, dest string, force bool) (int, error) {
		return download(ctx, a, c, req, dest, force)
	}}, nil
}

// deliver does what was asked for with the finished game.
func deliver(ctx context.Context, a *app, o generateOptions, req dreamcore.Request, out outcome) error {
	dir := o.output
	if dir == "" && o.open {
		tmp, err := os.MkdirTemp("", "dreamcore-game-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		dir = tmp
	}
	p := a.io.Human()
	if dir != "" {
		n, err := out.copyOut(ctx, dir, o.force || o.output == "")
		if err != nil {
			return fmt.Errorf("copy the game: %w", err)
		}
		if !o.force && o.output != "" { // else files of others may be there
			if err := a.giveAway(dir); err != nil {
				return fmt.Errorf("copy the game: %w", err)
			}
		}
		if o.output != "" && !a.io.JSON {
			p.Success(fmt.Sprintf("%d files copied to %s", n, dir))
		}
	}
	if !a.io.JSON {
		showNext(p, o, req, dir)
	}
	if o.open {
		return serveGame(ctx, a, req, dir)
	}
	return nil
}

func showNext(p *term.Printer, o generateOptions, req dreamcore.Request, dir string) {
	p.Pairs(term.Pair{Key: "project", Value: req.ProjectID, Tone: term.Strong})
	switch {
	case o.open:
	case dir != "":
		p.Hint("open " + filepath.Join(dir, "index.html") + " in a browser")
	default:
		p.Hint("copy the game out with -o DIR, or play it at once with --open")
	}
	p.Hint("run: dreamcore generate --project " + req.ProjectID + " \"make it faster\"")
}
