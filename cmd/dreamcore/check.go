package main

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gameview"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
)

// exitUnknown is the exit code of a check without a verdict.
const exitUnknown = 5

type checkOptions struct {
	endpoint endpointOptions
	user     string
	picture  pictureOptions
}

func newCheckCmd(a *app) *cobra.Command {
	var o checkOptions
	c := a.command("check", func(ctx context.Context, args []string) error { return runCheck(ctx, a, o, args[0]) })
	c.ValidArgsFunction = a.projectWords
	o.endpoint.add(c)
	o.picture.add(c)
	ownerFlag(c, &o.user)
	a.addSettings(c, "rootfs", "image", "runtime", "log_level")
	return c
}

func runCheck(ctx context.Context, a *app, o checkOptions, target string) error {
	if err := o.picture.Check(); err != nil {
		return err
	}
	checked, err := checkTarget(ctx, a, o, target)
	if err != nil {
		return err
	}
	if err := a.show(checked.Played, func(p *term.Printer) { gameview.ShowAcceptance(p, checked.Acceptance) }); err != nil {
		return err
	}
	o.picture.Keep(a.io, a.redactor.Redact, checked.picture, checked.lost)
	switch checked.Verdict {
	case dreamcore.AcceptancePassed:
		return nil
	case dreamcore.AcceptanceFailed:
		return exitCode(exitFailed)
	}
	return exitCode(exitUnknown)
}

// checked is the result of a check.
type checked struct {
	job.Played
	picture []byte // nil without a request for one or without a picture
	lost    error  // why the picture could not be read; the verdict is worth more
}

// checkTarget plays the game of a project, or the one in a directory.
func checkTarget(ctx context.Context, a *app, o checkOptions, target string) (c checked, err error) {
	if _, notProject := dreamcore.ParseProjectID(target); notProject != nil {
		info, err := os.Stat(target)
		if err != nil || !info.IsDir() {
			return c, &dreamcore.Error{
				Code: dreamcore.CodeInvalid, Message: "there is no directory " + term.Clean(target) + ", and it is not the id of a project",
				Hint: "name a directory with a game, or a project as in: dreamcore projects list", Err: err,
			}
		}
		return checkDir(ctx, a, o, target)
	}
	p, err := findProject(ctx, target, o.user, o.endpoint.owner(a))
	if err != nil {
		return c, err
	}
	if o.endpoint.endpoint(a) != "" {
		return checkRemote(ctx, a, o, p)
	}
	err = a.withPlayer(ctx, func(m *daemon.Machine) error {
		if c.Played, err = m.Jobs.CheckGame(ctx, p.user, p.id); err != nil || o.picture.File == "" || c.Commit == "" {
			return err
		}
		c.picture, _, c.lost = m.Jobs.Shot(ctx, p.user, p.id, c.Commit, o.picture.Screen)
		return nil
	})
	return c, err
}

func checkDir(ctx context.Context, a *app, o checkOptions, dir string) (c checked, err error) {
	if o.endpoint.address != "" {
		return c, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "a directory is played on this machine", Hint: "leave out --endpoint"}
	}
	err = a.withPlayer(ctx, func(m *daemon.Machine) error {
		report, err := m.CheckDirectory(ctx, dir)
		switch {
		case err != nil && strings.HasPrefix(string(dreamcore.ReasonOf(err)), "acceptance.") && dreamcore.CodeOf(err) != dreamcore.CodeSetup:
			c.Verdict, c.Reason = dreamcore.AcceptanceUnknown, dreamcore.OneLine(a.redactor.Redact(err.Error()), dreamcore.MaxAcceptanceText)
			return nil
		case err != nil:
			return err
		}
		c.Acceptance = job.Accepted(report)
		c.Attempt = 0
		for _, shot := range report.Shots {
			if o.picture.File != "" && string(shot.Screen) == o.picture.Screen {
				c.picture, c.lost = history.CleanPicture(shot.PNG)
			}
		}
		return nil
	})
	return c, err
}

func checkRemote(ctx context.Context, a *app, o checkOptions, p projectRef) (c checked, err error) {
	err = o.endpoint.withClient(a, func(service *client.Client) (err error) {
		if c.Acceptance, c.Commit, err = service.CheckGame(ctx, p.user, p.id); err != nil || o.picture.File == "" || c.Commit == "" {
			return err
		}
		c.picture, c.lost = service.Thumbnail(ctx, p.user, p.id, c.Commit, o.picture.Screen)
		return nil
	})
	return c, err
}

// withPlayer calls do with a machine on which games can be played. The model is not
// called.
func (a *app) withPlayer(ctx context.Context, do func(*daemon.Machine) error) error {
	return a.withState(func(s *daemon.State) error {
		bin, err := s.Agent()
		if err != nil {
			return err
		}
		if err := s.DemoWithoutKey(); err != nil {
			return err
		}
		return a.withMachine(ctx, s, bin, s.Config.LogLevel, do)
	})
}
