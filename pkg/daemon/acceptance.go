package daemon

import (
	"context"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/store/image"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
)

// findBrowser finds the browser that plays games. Without one no game is played,
// which a service says once in its log.
func (m *Machine) findBrowser(serves bool) {
	if m.provider.CheckFile() != "" {
		m.browser = acceptance.Installed(m.root.Root)
	}
	if c := m.state.Config; m.browser == "" && serves && c.Acceptance != config.AcceptanceOff {
		m.log.Warn("games are not played before they are done: " + m.noBrowser().Error())
	}
}

// OtherRoot names the configured root file system of sandboxes for people; "" for
// this machine's programs.
func (s *State) OtherRoot() string {
	switch {
	case s.Config.Rootfs != "":
		return "directory " + s.Config.Rootfs
	case image.IsDirectory(s.Config.Image):
		return "directory " + s.Config.Image
	case s.Config.Image != "":
		return "image " + s.Config.Image
	}
	return ""
}

// Browser returns the browser for games that this machine has, or the empty
// string. That of another root file system is not known before that is open.
func (s *State) Browser() string {
	if s.OtherRoot() != "" {
		return ""
	}
	return acceptance.Installed(sandbox.Root{Mounts: []sandbox.Mount{{Source: "/usr", Target: "/usr"}}})
}

// noBrowser returns the error for a machine without a browser for games.
func (m *Machine) noBrowser() error {
	e := &dreamcore.Error{Code: dreamcore.CodeSetup, Reason: acceptance.ReasonMissing, Message: "there is no browser in the root file system of sandboxes"}
	switch {
	case m.provider.CheckFile() == "":
		e.Message, e.Reason = "this program was built without the check of games", ""
		e.Hint = "use a program that scripts/build.sh has built"
	case m.root.name != "":
		e.Message, e.Reason = "there is no browser in the "+m.root.name, ""
		e.Hint = "use one that has Debian's package chromium-headless-shell"
	}
	return e
}

// plays reports whether games are played before their jobs are done.
func (m *Machine) plays(c config.Config) bool { return m.acceptance(c) != job.AcceptanceOff }

// acceptance returns the setting for games that do not play.
func (m *Machine) acceptance(c config.Config) job.Acceptance {
	if m.browser == "" {
		return job.AcceptanceOff
	}
	return job.Acceptance(c.Acceptance)
}

// playing is how games are played, as the settings in force say.
type playing struct {
	acceptance.Settings
	limits sandbox.Limits // of sandboxes for checks outside of jobs
}

// play sets how games are played from now on.
func (m *Machine) play(c config.Config) {
	m.playing.Store(&playing{acceptance.Settings{
		UID: uint32(c.UID), GID: uint32(c.GID), Limit: c.AcceptanceLimit, Hosts: c.PreviewHosts, Pixels: true,
		Memory: limits(c).MemoryBytes, Delay: acceptance.DefaultDelay, Logger: m.log,
	}, limits(c)})
}

// player implements job.Checker.
type player struct{ machine *Machine }

func (p player) Start(ctx context.Context, g job.Game) job.Check {
	s := p.machine.playing.Load().Settings
	s.Limit = g.Limit
	return played{acceptance.Start(ctx, g.Workspace, s), g.Dir}
}

// played implements job.Check.
type played struct {
	*acceptance.Browser
	dir string
}

func (p played) Run(ctx context.Context) (verdict.Report, error) { return p.Check(ctx, p.dir) }

// CheckGame plays a game outside of a job, in a sandbox of its own. An error with a
// reason of package acceptance means that there is no verdict.
func (m *Machine) CheckGame(ctx context.Context, game acceptance.Source) (verdict.Report, error) {
	if m.browser == "" {
		return verdict.Report{Verdict: verdict.Unknown}, m.noBrowser()
	}
	place, settings := m.place()
	return place.Check(ctx, game, settings)
}

// CheckDirectory plays the game in a directory of this machine, as CheckGame does. The
// copy must leave the space free that the settings ask for.
func (m *Machine) CheckDirectory(ctx context.Context, dir string) (verdict.Report, error) {
	if err := m.state.Volumes.CheckFree(); err != nil {
		return verdict.Report{Verdict: verdict.Unknown}, err
	}
	return m.CheckGame(ctx, acceptance.Directory(dir))
}

// ProveBrowser plays a game that works and one that does not. It returns the
// browser's product and version.
func (m *Machine) ProveBrowser(ctx context.Context) (string, error) {
	if m.browser == "" {
		return "", m.noBrowser()
	}
	place, settings := m.place()
	return place.Prove(ctx, settings)
}

// place returns where and how games are played outside of jobs from now on.
func (m *Machine) place() (acceptance.Place, acceptance.Settings) {
	p := m.playing.Load()
	return acceptance.Place{
		Sandboxes: observedSandboxes{m.provider, m.observer}, Root: m.root.Root, Limits: p.limits,
		CheckFile: m.provider.CheckFile(), Dir: m.provider.Dir(),
	}, p.Settings
}
