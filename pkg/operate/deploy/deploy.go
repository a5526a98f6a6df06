// Package deploy installs the running program as a service of this machine's
// systemd: program, units, account, configuration, state directory and the
// identity of the sealed secrets as a credential; then it starts the service
// and waits until it is healthy.
//
// A Plan is an ordered list of actions. Each action first checks whether
// anything needs to change, so a plan may run any number of times: the second
// run changes nothing and restarts nothing. A run that stops midway leaves only
// complete files, and the next run continues from there.
//
// With a Root, the files are installed below that directory, for an image, and
// no command is run; deploying again on the machine itself completes it.
//
// deploy.go has the plan, request.go completes its options from the operator's
// flags and environment; file.go, account.go, identity.go, unit.go, socket.go,
// setup.go and service.go have the actions, health.go waits for the service.
package deploy

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

// Paths of the installation, relative to Options.Root.
const (
	ProgramFile     = "/usr/local/bin/" + dreamcore.AppName
	AgentFile       = "/usr/local/lib/" + dreamcore.AppName + "/claude"
	ConfigDir       = "/etc/" + dreamcore.AppName
	ConfigFile      = ConfigDir + "/config.yaml"
	EnvironmentFile = ConfigDir + "/environment" // optional; read by the unit, written by the operator
	UnitFile        = "/etc/systemd/system/" + UnitName
	AccountFile     = "/etc/sysusers.d/" + dreamcore.AppName + ".conf"
)

// UnitName is the name of the service.
const UnitName = dreamcore.AppName + ".service"

// Account is the user and group that own the files that sandboxed agents write.
// It has no login; it exists so that no other account gets its ids.
const Account = dreamcore.AppName

// Settings are the settings of the service that the installation depends on.
type Settings struct {
	State    string // absolute
	Listen   string // HOST:PORT
	UID, GID int    // the user inside sandboxes
	// PreviewListen is the address of a listener for previews alone, HOST:PORT; "" for
	// none.
	PreviewListen string
	Upstream      string // "" for the default
	ModelScript   string // "" if the model API answers
	Rootfs        string
	Image         string            // instead of Rootfs
	Runtime       string            // engine of sandboxes; "" for the default
	Grace         time.Duration     // how long running generations may continue when the service stops
	More          map[string]string // other settings for a new configuration, by key
}

// Options of a Plan.
type Options struct {
	Root     string // "" for this machine; else files are installed below it and no command is run
	Exe      string // the program to install, absolute
	Version  string // that /health of the service must report
	Settings Settings
	// FreeIDs lets the plan replace UID and GID by unused ids. Set it only if
	// no project exists yet.
	FreeIDs bool
	// Config is the content of a new configuration; if nil, it is written from
	// the settings. An existing configuration is never changed.
	Config     []byte
	Credential string // name of the systemd credential with the identity

	Claude  string // the agent's program; if "", setup finds or installs it
	KeyFile string // has the model key; "-" for Stdin
	Key     string // the model key from the operator's environment, or ""
	NoStart bool   // install and enable, but do not start

	Environ []string  // environment of the commands
	Stdin   io.Reader // for KeyFile
	Runner  Runner    // Run if nil
}

// Status is the effect of an action; in a preview, the effect that it would have.
type Status string

// What actions do.
const (
	Unchanged Status = "unchanged"
	Created   Status = "created"
	Changed   Status = "changed"
	Ran       Status = "ran" // a command was run
)

// Item describes an action in full, for operators who want to know beforehand.
type Item struct {
	Kind     string   `json:"kind"` // account, directory, file, link, program, credential, command
	Path     string   `json:"path,omitempty"`
	Mode     string   `json:"mode,omitempty"`    // octal
	Source   string   `json:"source,omitempty"`  // of a program, target of a link
	Content  string   `json:"content,omitempty"` // of a text file
	Note     string   `json:"note,omitempty"`
	Commands []string `json:"commands,omitempty"` // quoted for a shell
}

// Step is the result of one action.
type Step struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail,omitempty"`
	Item   *Item  `json:"item,omitempty"` // in previews
}

type action struct {
	name string
	// item describes the action. It must be called after check.
	item func() Item
	// check returns the effect that apply would have. It changes nothing.
	check func(ctx context.Context) (Status, error)
	// apply carries the action out and may return a detail for the operator.
	apply func(ctx context.Context) (detail string, err error)
}

// Plan is an installation to carry out. It is created by New and not safe for
// concurrent use.
type Plan struct {
	o       Options
	offline bool // no command is run
	owned   bool // files are chowned to root
	actions []action
	touched map[string]bool // names of the actions that changed something
	sealed  bool            // the identity is encrypted for this machine
	claude  string          // passed to setup; if "", setup searches
	limit   time.Duration   // how long to wait for a healthy service
	began   time.Time       // when the service was last started
	rebind  bool            // the start opens the sockets again, or takes them from a service that opened its own: connections are refused meanwhile
}

// New inspects the machine and returns the plan. It changes nothing. The error
// has CodeInvalid if the options contradict each other, and CodeConflict if the
// machine has something that the plan must not change.
func New(ctx context.Context, o Options) (*Plan, error) {
	return newPlan(ctx, o, o.Root != "")
}

func newPlan(ctx context.Context, o Options, offline bool) (*Plan, error) {
	if o.Runner == nil {
		o.Runner = Run
	}
	p := &Plan{
		o: o, offline: offline, owned: os.Geteuid() == 0,
		touched: map[string]bool{}, limit: healthLimit,
	}
	if err := p.o.validate(p.offline); err != nil {
		return nil, err
	}
	if err := p.chooseAccount(); err != nil {
		return nil, err
	}
	if p.offline {
		p.listFiles()
		return p, nil
	}
	p.sealed = p.chooseSealed(ctx)
	agent, err := p.chooseAgent()
	if err != nil {
		return nil, err
	}
	p.list(agent)
	return p, nil
}

// list lists the actions. agent is a program to copy, or "".
func (p *Plan) list(agent string) {
	p.actions = []action{
		p.accountFile(), p.account(),
		p.directory(ConfigDir, 0o700), p.directory(p.o.Settings.State, 0o700),
		p.program(programStep, ProgramFile, p.o.Exe),
	}
	if agent != "" {
		p.actions = append(p.actions, p.directory(filepath.Dir(AgentFile), 0o755), p.program("agent", AgentFile, agent))
	}
	p.actions = append(p.actions, p.configFile(), p.configLink(), p.identity(), p.socketUnit(), p.serviceUnit(), p.setup(), p.reload(), p.enable())
	if !p.o.NoStart {
		p.actions = append(p.actions, p.start())
	}
}

// listFiles lists the actions that only write files. The identity is omitted too:
// one that is part of an image would be no secret.
func (p *Plan) listFiles() {
	p.actions = []action{
		p.accountFile(),
		p.directory(ConfigDir, 0o700), p.directory(p.o.Settings.State, 0o700),
		p.program(programStep, ProgramFile, p.o.Exe),
		p.configFile(), p.configLink(), p.socketUnit(), p.serviceUnit(),
	}
}

// Names of the actions that a restart depends on.
const (
	programStep  = "program"
	configStep   = "configuration"
	identityStep = "identity"
	socketStep   = "socket"
	unitStep     = "unit"
	setupStep    = "setup"
)

// plainPath matches paths that need no quoting in a unit, where blanks, quotes,
// percent signs and backslashes have a meaning.
var plainPath = pattern.New(`^/[A-Za-z0-9/._+@:-]*$`)

func (o Options) validate(offline bool) error {
	s := o.Settings
	switch {
	case !plainPath().MatchString(s.State) || filepath.Clean(s.State) != s.State || s.State == "/":
		return invalid(ReasonState, "use a directory like /var/lib/dreamcore", "the state directory %q cannot be written in a unit", s.State)
	case hidden(s.State):
		return invalid(ReasonState, "use a directory like /var/lib/dreamcore", "the service cannot see the state directory %s: home and temporary directories are hidden from it", s.State)
	case s.ModelScript != "" && filepath.IsAbs(s.ModelScript) && hidden(s.ModelScript):
		return invalid(ReasonHidden, "move it to "+ConfigDir, "the service cannot see the model script %s: home and temporary directories are hidden from it", s.ModelScript)
	case s.Rootfs != "" && hidden(s.Rootfs):
		return invalid(ReasonHidden, "move it to "+s.State, "the service cannot see the root file system %s: home and temporary directories are hidden from it", s.Rootfs)
	case hidden(s.Image) || hidden(afterColon(s.Image)):
		return invalid(ReasonHidden, "move it to "+s.State, "the service cannot see the image %s: home and temporary directories are hidden from it", s.Image)
	case o.Root != "" && !filepath.IsAbs(o.Root):
		return invalid(ReasonRoot, "use an absolute path", "the directory %q to install below is not absolute", o.Root)
	case offline && (o.Claude != "" || o.KeyFile != ""):
		return invalid(ReasonRoot, "pass the agent and the key when you deploy on the machine itself", "an installation below a root directory takes neither an agent nor a key")
	}
	if _, err := address(s.Listen, ""); err != nil {
		return err
	}
	for _, listen := range s.sockets() {
		if _, err := streamAddress(listen); err != nil {
			return err
		}
	}
	return nil
}

// afterColon returns the path of an image in an archive or a layout.
func afterColon(image string) string {
	_, path, _ := strings.Cut(image, ":")
	return path
}

// hidden reports whether the unit hides path from the service.
func hidden(path string) bool {
	for _, dir := range []string{"/home", "/root", "/run/user", "/tmp", "/var/tmp"} {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// Preview returns the steps that Run would take, each with its Item. It changes nothing.
func (p *Plan) Preview(ctx context.Context) ([]Step, error) {
	clear(p.touched)
	var steps []Step
	for _, a := range p.actions {
		status, err := a.check(ctx)
		if err != nil {
			return steps, err
		}
		p.touched[a.name] = status != Unchanged
		it := a.item()
		steps = append(steps, Step{Name: a.name, Status: status, Item: &it})
	}
	return steps, nil
}

// Run carries out every action that has something to change and returns the
// steps so far, also with an error. begin and done are called before and after
// each action.
func (p *Plan) Run(ctx context.Context, begin func(name string), done func(Step)) ([]Step, error) {
	clear(p.touched)
	var steps []Step
	for _, a := range p.actions {
		if ctx.Err() != nil {
			return steps, context.Cause(ctx)
		}
		begin(a.name)
		step, err := p.run(ctx, a)
		if err != nil {
			return steps, fmt.Errorf("%s: %w", a.name, err)
		}
		steps = append(steps, step)
		done(step)
	}
	return steps, nil
}

func (p *Plan) run(ctx context.Context, a action) (Step, error) {
	step := Step{Name: a.name, Status: Unchanged}
	status, err := a.check(ctx)
	if err != nil || status == Unchanged {
		return step, err
	}
	p.touched[a.name] = true
	step.Status = status
	step.Detail, err = a.apply(ctx)
	return step, err
}

// Obstacles returns every reason why Run cannot succeed here. Preview works
// nevertheless.
func (p *Plan) Obstacles() []error {
	if p.offline {
		return nil
	}
	var errs []error
	if !p.booted() {
		errs = append(errs, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: ReasonNoSystemd, Message: "systemd is not running on this machine",
		})
	}
	if !p.owned {
		errs = append(errs, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: ReasonNeedsRoot, Message: "installing a service needs root",
		})
	}
	if !p.o.NoStart && !p.hasModel() {
		errs = append(errs, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: ReasonNoKey, Message: "there is no key for the model API, so the service would refuse to start",
		})
	}
	return errs
}

// hasModel reports whether the service will have a model script or a key for the model API.
func (p *Plan) hasModel() bool {
	return p.o.Settings.ModelScript != "" || p.o.KeyFile != "" || p.o.Key != "" || p.hasSecret(secret.AnthropicSecret)
}

func invalid(reason dreamcore.Reason, hint, format string, args ...any) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Reason: reason, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// Reasons of errors.
const (
	ReasonAccount    dreamcore.Reason = "deploy.account"     // the user and group of sandboxes
	ReasonCommand    dreamcore.Reason = "deploy.command"     // a command of the system failed
	ReasonFile       dreamcore.Reason = "deploy.file"        // a file or directory cannot be used
	ReasonHidden     dreamcore.Reason = "deploy.hidden"      // the unit hides a path from the service
	ReasonIdentity   dreamcore.Reason = "deploy.identity"    // of the sealed secrets
	ReasonListen     dreamcore.Reason = "deploy.listen"      // the address cannot be served
	ReasonNeedsRoot  dreamcore.Reason = "deploy.needs_root"  // permission denied
	ReasonNoKey      dreamcore.Reason = "deploy.no_key"      // of the model API
	ReasonNoSystemd  dreamcore.Reason = "deploy.no_systemd"  // systemd does not run
	ReasonNotStarted dreamcore.Reason = "deploy.not_started" // the service does not become healthy
	ReasonOccupied   dreamcore.Reason = "deploy.occupied"    // a foreign file or service is in the way
	ReasonReadOnly   dreamcore.Reason = "deploy.read_only"   // file system
	ReasonRoot       dreamcore.Reason = "deploy.root"        // the directory to install below
	ReasonSettings   dreamcore.Reason = "deploy.settings"    // contradict an existing configuration
	ReasonState      dreamcore.Reason = "deploy.state"       // the state directory
)

// HasChanges reports whether any of the steps changed something, or would change it.
func HasChanges(steps []Step) bool {
	return slices.ContainsFunc(steps, func(s Step) bool { return s.Status != Unchanged })
}
