// Package deploy installs the running program as a service of this machine's
// systemd: program, unit, account, configuration, state directory and the
// identity of the sealed secrets as a credential; then it starts the service
// and waits until it is healthy.
//
// A Plan is an ordered list of actions. Each one looks first whether what it
// sees to is so already, so a plan may run any number of times: the second run
// changes nothing and restarts nothing. A run that stops midway leaves whole
// files only, and the next run goes on from there.
//
// With a Root the files go below that directory, for an image, and nothing is
// run; deploying once more on the machine itself does the rest.
package deploy

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Where things are installed. Options.Root goes in front.
const (
	ProgramFile     = "/usr/local/bin/" + dreamcore.AppName
	AgentFile       = "/usr/local/lib/" + dreamcore.AppName + "/claude"
	ConfigDir       = "/etc/" + dreamcore.AppName
	ConfigFile      = ConfigDir + "/config.yaml"
	EnvironmentFile = ConfigDir + "/environment" // read by the unit where the operator has made it
	UnitFile        = "/etc/systemd/system/" + UnitName
	AccountFile     = "/etc/sysusers.d/" + dreamcore.AppName + ".conf"
)

// UnitName is the name of the service.
const UnitName = dreamcore.AppName + ".service"

// Account is the user and group that own what sandboxed agents write. Nobody
// logs in as it; it keeps the ids from being given to somebody else.
const Account = dreamcore.AppName

// Settings are those of the service's configuration that the installation
// depends on. Where there is a configuration, they come from it.
type Settings struct {
	State       string // absolute
	Listen      string // HOST:PORT
	UID, GID    int    // the user inside sandboxes
	Upstream    string // "" is the default
	ModelScript string // "" asks the model API
	Rootfs      string
	Image       string            // in place of Rootfs
	Runtime     string            // engine of sandboxes; "" is the default
	Grace       time.Duration     // for running generations when the service stops
	More        map[string]string // other settings for a new configuration, by their keys
}

// Options of a Plan.
type Options struct {
	Root     string // "": this machine; else files go below it, and nothing is run
	Exe      string // the program to install, absolute
	Version  string // what its /health says
	Settings Settings
	// FreeIDs lets the plan replace UID and GID by ids that nobody has:
	// nothing depends on them yet.
	FreeIDs bool
	// Config is the content of a new configuration; nil makes one from the
	// settings. A configuration that is there stays as it is.
	Config     []byte
	Credential string // name of the systemd credential with the identity

	Claude  string // the agent's program; "" leaves it to setup
	KeyFile string // with the model key; "-" is Stdin
	Key     string // the model key, where the operator has it in the environment
	NoStart bool   // install and enable, but do not start

	Environ []string  // of the commands that are run
	Stdin   io.Reader // for KeyFile
	Runner  Runner    // nil: Run
}

// Status says what an action does, or in a preview would do.
type Status string

// What actions do.
const (
	Unchanged Status = "unchanged"
	Created   Status = "created"
	Changed   Status = "changed"
	Ran       Status = "ran" // a command
)

// Item is what an action sees to, in full, for people who want to know before.
type Item struct {
	Kind     string   `json:"kind"` // account, directory, file, link, program, credential, command
	Path     string   `json:"path,omitempty"`
	Mode     string   `json:"mode,omitempty"`    // octal
	Source   string   `json:"source,omitempty"`  // of a program, target of a link
	Content  string   `json:"content,omitempty"` // of a text file
	Note     string   `json:"note,omitempty"`
	Commands []string `json:"commands,omitempty"` // as a shell takes them
}

// Step is what became of one action.
type Step struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail,omitempty"`
	Item   *Item  `json:"item,omitempty"` // in previews
}

// action is one thing that a plan sees to.
type action interface {
	name() string
	// item describes the action. It is asked after check.
	item() Item
	// check tells what apply would do. It changes nothing.
	check(ctx context.Context) (Status, error)
	// apply makes it so and may return a detail for the operator.
	apply(ctx context.Context) (detail string, err error)
}

// Plan is everything that makes the installation. It is made by New and not
// safe for concurrent use.
type Plan struct {
	o       Options
	offline bool // nothing is run
	owned   bool // files are given to root
	actions []action
	touched map[string]bool // names of actions that were not unchanged
	sealed  bool            // the identity is sealed for this machine
	claude  string          // for setup, "" where it looks itself
	limit   time.Duration   // of the wait for a healthy service
	began   time.Time       // when the service was last started
}

// New looks at the machine and makes the plan. It changes nothing. CodeInvalid:
// the options do not fit together; CodeConflict: what is there is not ours to
// change.
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
	if err := p.prepare(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// prepare decides what depends on the machine and lists the actions.
func (p *Plan) prepare(ctx context.Context) error {
	if err := p.o.validate(p.offline); err != nil {
		return err
	}
	if err := p.chooseAccount(); err != nil {
		return err
	}
	p.sealed = p.chooseSealed(ctx)
	agent, err := p.chooseAgent()
	if err != nil {
		return err
	}
	s := p.o.Settings
	p.actions = []action{
		&file{plan: p, what: "account file", path: AccountFile, mode: 0o644, content: p.accountLines},
		&account{plan: p},
		&directory{plan: p, path: ConfigDir, mode: 0o700},
		&directory{plan: p, path: s.State, mode: 0o700},
		&program{plan: p, what: programStep, path: ProgramFile, source: p.o.Exe},
	}
	if agent != "" {
		p.add(&directory{plan: p, path: filepath.Dir(AgentFile), mode: 0o755},
			&program{plan: p, what: "agent", path: AgentFile, source: agent})
	}
	p.add(
		&file{plan: p, what: configStep, path: ConfigFile, mode: 0o600, content: p.configuration, keep: true},
		// Commands at the terminal read the configuration of the state directory.
		&link{plan: p, path: filepath.Join(s.State, "config.yaml"), target: func() string { return ConfigFile }, content: p.effective},
		&identity{plan: p},
		&unit{file{plan: p, what: unitStep, path: UnitFile, mode: 0o644, content: p.unitContent}},
		&setup{plan: p}, &reload{plan: p}, &enable{plan: p},
	)
	if !p.o.NoStart {
		p.add(&start{plan: p})
	}
	if p.offline {
		p.actions = withoutCommands(p.actions)
	}
	return nil
}

func (p *Plan) add(a ...action) { p.actions = append(p.actions, a...) }

// withoutCommands keeps what needs files only. The identity is left to the
// machine as well: one that is part of an image is no secret.
func withoutCommands(all []action) []action {
	var kept []action
	for _, a := range all {
		switch a.(type) {
		case *directory, *file, *link, *program, *unit:
			kept = append(kept, a)
		}
	}
	return kept
}

// Names of the actions that a restart depends on.
const (
	programStep  = "program"
	configStep   = "configuration"
	identityStep = "identity"
	unitStep     = "unit"
	setupStep    = "setup"
)

// plainPath are paths that need no quoting in a unit, where blanks, quotes,
// percent signs and backslashes have a meaning.
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9/._+@:-]*$`)

func (o Options) validate(offline bool) error {
	s := o.Settings
	switch {
	case !plainPath.MatchString(s.State) || filepath.Clean(s.State) != s.State || s.State == "/":
		return invalid("name a directory like /var/lib/dreamcore with --state", "the state directory %q cannot stand in a unit", s.State)
	case hidden(s.State):
		return invalid("name a directory like /var/lib/dreamcore with --state", "the service cannot see the state directory %s: home and temporary directories are hidden from it", s.State)
	case s.ModelScript != "" && filepath.IsAbs(s.ModelScript) && hidden(s.ModelScript):
		return invalid("move it to "+ConfigDir+" and name it there", "the service cannot see the model script %s: home and temporary directories are hidden from it", s.ModelScript)
	case s.Rootfs != "" && hidden(s.Rootfs):
		return invalid("move it to "+s.State+" and name it there", "the service cannot see the root file system %s: home and temporary directories are hidden from it", s.Rootfs)
	case hidden(s.Image) || hidden(afterColon(s.Image)):
		return invalid("move it to "+s.State+" and name it there", "the service cannot see the image %s: home and temporary directories are hidden from it", s.Image)
	case o.Root != "" && !filepath.IsAbs(o.Root):
		return invalid("name an absolute path with --root", "the directory %q to install below is not absolute", o.Root)
	case offline && (o.Claude != "" || o.KeyFile != ""):
		return invalid("leave it out; give it to deploy on the machine itself", "--root installs files only: it takes neither an agent nor a key")
	}
	if _, err := addresses(s.Listen, ""); err != nil {
		return err
	}
	return nil
}

// afterColon is the path of an image in an archive or a layout.
func afterColon(image string) string {
	_, path, _ := strings.Cut(image, ":")
	return path
}

// hidden tells whether the unit hides path from the service.
func hidden(path string) bool {
	for _, dir := range []string{"/home", "/root", "/run/user", "/tmp", "/var/tmp"} {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// Preview tells what Run would do, with everything in full. It changes nothing.
func (p *Plan) Preview(ctx context.Context) ([]Step, error) {
	clear(p.touched)
	var steps []Step
	for _, a := range p.actions {
		status, err := a.check(ctx)
		if err != nil {
			return steps, err
		}
		p.touched[a.name()] = status != Unchanged
		it := a.item()
		steps = append(steps, Step{Name: a.name(), Status: status, Item: &it})
	}
	return steps, nil
}

// Run does what is not done yet and returns what became of each action, also
// with an error. begin and done, which may be nil, are told about each as it
// happens.
func (p *Plan) Run(ctx context.Context, begin func(name string), done func(Step)) ([]Step, error) {
	clear(p.touched)
	var steps []Step
	for _, a := range p.actions {
		if ctx.Err() != nil {
			return steps, context.Cause(ctx)
		}
		if begin != nil {
			begin(a.name())
		}
		step, err := p.run(ctx, a)
		if err != nil {
			return steps, fmt.Errorf("%s: %w", a.name(), err)
		}
		steps = append(steps, step)
		if done != nil {
			done(step)
		}
	}
	return steps, nil
}

func (p *Plan) run(ctx context.Context, a action) (Step, error) {
	step := Step{Name: a.name(), Status: Unchanged}
	status, err := a.check(ctx)
	if err != nil || status == Unchanged {
		return step, err
	}
	p.touched[a.name()] = true
	step.Status = status
	step.Detail, err = a.apply(ctx)
	return step, err
}

// Obstacles are the reasons for which Run cannot work here, all of them. A
// preview works all the same.
func (p *Plan) Obstacles() []error {
	if p.offline {
		return nil
	}
	var errs []error
	if !p.booted() {
		errs = append(errs, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "systemd is not running on this machine",
			Hint: "run: dreamcore setup && dreamcore serve --listen " + p.o.Settings.Listen +
				" (under a supervisor of your own: it stays in the foreground, logs to standard error and ends on SIGTERM)",
		})
	}
	if !p.owned {
		errs = append(errs, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "installing a service needs root", Hint: "run: sudo dreamcore deploy",
		})
	}
	if !p.o.NoStart && !p.answers() {
		errs = append(errs, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "there is no key for the model API, so the service would refuse to start",
			Hint: "run: dreamcore deploy --anthropic-key-file FILE (or, for a demo: dreamcore deploy --model-script demo)",
		})
	}
	return errs
}

// answers tells whether something will answer the agent.
func (p *Plan) answers() bool {
	return p.o.Settings.ModelScript != "" || p.o.KeyFile != "" || p.o.Key != "" || p.hasSecret(modelSecret)
}

func invalid(hint, format string, args ...any) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf(format, args...), Hint: hint}
}
