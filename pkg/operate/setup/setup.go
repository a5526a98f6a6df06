// Package setup prepares a machine: it creates the secrets and volumes, finds or
// installs the agent, and proves that the agent works in a sandbox. A second run
// changes nothing that exists.
package setup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// Status is the effect of a step.
type Status string

// The statuses.
const (
	Created   Status = "created"
	Exists    Status = "exists"
	Rotated   Status = "rotated"
	Installed Status = "installed"
	Checked   Status = "checked"
	Missing   Status = "missing" // skipped, because something optional is missing
)

// Step is the result of one step of setup.
type Step struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail,omitempty"`
}

// Result has every step that was carried out.
type Result struct {
	State string `json:"state"`
	Steps []Step `json:"steps"`
	// InternalSecret is set only if this run created or rotated it.
	InternalSecret string `json:"internal_secret,omitempty"`
}

// Options of Run.
type Options struct {
	State  string
	Engine string // title of the sandbox engine
	// OpenSecrets creates the store of secrets if necessary and opens it. created
	// reports whether it created an identity.
	OpenSecrets func() (store *secret.Store, created bool, err error)
	AgentDir    string
	Claude      string // the agent's program; if "", it is searched in PATH, else installed
	Volumes     *volume.Store
	Rotate      []string // names of secrets to replace
	Keyless     bool     // do not ask for the vendor's key: the upstreams have credentials of their own
	// Key returns the key of the model API, or "" if there is no key, and its
	// source. It is called only if the key is needed.
	Key func(ctx context.Context) (key, source string, err error)
	// Prove makes the agent do a tool call in a sandbox on this machine and
	// returns the version that the agent reports.
	Prove   func(ctx context.Context, bin agent.Binary) (version string, err error)
	Browser *Browser           // nil: setup does not look for one
	Begin   func(doing string) // called before something that takes time
	// Installed is called with the bytes of the agent that are installed so far; may be
	// nil.
	Installed func(bytes int64)
	Done      func(Step) // called after each step
}

// Run carries out every step, in an order in which each step can use the results
// of the previous ones. It stops at the first error; the results so far stay, and
// another run continues from there.
func Run(ctx context.Context, o Options) (Result, error) {
	r := &runner{Options: o, result: Result{State: o.State}}
	if err := checkRotate(o.Rotate); err != nil {
		return r.result, err
	}
	for _, step := range []func(context.Context) error{r.identity, r.internalSecret, r.modelKey, r.volumes, r.agent, r.browser, r.rotateInternal} {
		if err := ctx.Err(); err != nil {
			return r.result, context.Cause(ctx)
		}
		if err := step(ctx); err != nil {
			return r.result, err
		}
	}
	return r.result, nil
}

func checkRotate(names []string) error {
	known := []string{secret.AnthropicSecret, secret.InternalSecret}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return &dreamcore.Error{
				Code: dreamcore.CodeInvalid, Reason: ReasonRotate, Message: fmt.Sprintf("setup cannot rotate %q", n),
				Hint: "it can rotate " + strings.Join(known, " and "),
			}
		}
	}
	return nil
}

// Reasons of errors.
const (
	ReasonAgent   dreamcore.Reason = "setup.agent"    // it does not work in a sandbox
	ReasonBrowser dreamcore.Reason = "setup.browser"  // it cannot be installed, or does not work in a sandbox
	ReasonKeyFile dreamcore.Reason = "setup.key_file" // it cannot be read
	ReasonNoKey   dreamcore.Reason = "setup.no_key"   // to rotate to
	ReasonRotate  dreamcore.Reason = "setup.rotate"   // not a secret of setup
)

type runner struct {
	Options
	result  Result
	secrets *secret.Store
	rotates bool // the internal secret existed before and is to be rotated
}

func (r *runner) done(name string, s Status, detail string) {
	step := Step{Name: name, Status: s, Detail: detail}
	r.result.Steps = append(r.result.Steps, step)
	r.Done(step)
}

func (r *runner) identity(context.Context) error {
	secrets, created, err := r.OpenSecrets()
	if err != nil {
		return err
	}
	r.secrets = secrets
	r.done("identity", createdOrExists(created), "it opens the sealed secrets; keep a copy in a safe place")
	return nil
}

func createdOrExists(created bool) Status {
	if created {
		return Created
	}
	return Exists
}

func (r *runner) internalSecret(context.Context) error {
	name := "secret " + secret.InternalSecret
	_, err := r.secrets.InternalValues()
	switch {
	case err == nil && slices.Contains(r.Rotate, secret.InternalSecret):
		r.rotates = true
	case err == nil:
		r.done(name, Exists, "show it with: dreamcore secret show "+secret.InternalSecret)
	case dreamcore.CodeOf(err) == dreamcore.CodeNotFound:
		value := secret.NewInternalSecret()
		if err := r.secrets.Create(secret.InternalSecret, map[string]string{secret.InternalKey: value}, false); err != nil {
			return err
		}
		r.result.InternalSecret = value
		r.done(name, Created, "clients send it as X-Modal-Secret")
	default:
		return err
	}
	return nil
}

// rotateInternal is the last step: if it came earlier and a later step failed,
// running setup again would rotate twice and lock out clients with the old value.
func (r *runner) rotateInternal(context.Context) error {
	if !r.rotates {
		return nil
	}
	value, err := r.secrets.RotateInternal()
	if err != nil {
		return err
	}
	r.result.InternalSecret = value
	r.done("secret "+secret.InternalSecret, Rotated, "the old value stays valid until the next rotation")
	return nil
}

func (r *runner) modelKey(ctx context.Context) error {
	name := "secret " + secret.AnthropicSecret
	rotate := slices.Contains(r.Rotate, secret.AnthropicSecret)
	_, err := r.secrets.Value(secret.AnthropicSecret, secret.AnthropicKey)
	exists := err == nil
	if r.Keyless && !exists && !rotate {
		return nil
	}
	if exists && !rotate {
		r.done(name, Exists, "replace it with: dreamcore setup --rotate "+secret.AnthropicSecret)
		return nil
	}
	if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		return err
	}
	key, source, err := r.Key(ctx)
	if err != nil {
		return err
	}
	if key = strings.TrimSpace(key); key == "" {
		if rotate {
			return &dreamcore.Error{
				Code: dreamcore.CodeInvalid, Reason: ReasonNoKey, Message: "there is no new key to rotate to",
			}
		}
		r.done(name, Missing, "games are made by the demo script until you run: dreamcore setup --anthropic-key-file FILE")
		return nil
	}
	if err := secret.CheckAPIKey(key); err != nil {
		return err
	}
	if err := r.secrets.Create(secret.AnthropicSecret, map[string]string{secret.AnthropicKey: key}, rotate); err != nil {
		return err
	}
	status := Created
	if exists {
		status = Rotated
	}
	r.done(name, status, "from "+source)
	return nil
}

func (r *runner) volumes(context.Context) error {
	for _, name := range []string{volume.Data, volume.Global} {
		created, err := r.Volumes.Create(name)
		if err != nil {
			return err
		}
		r.done("volume "+name, createdOrExists(created), "")
	}
	return nil
}

// agent finds or installs the CLI and proves that it works. A CLI that was proven
// before and is still the same file is not proven again.
func (r *runner) agent(ctx context.Context) error {
	if bin, err := agent.Recorded(r.AgentDir); err == nil && r.Claude == "" {
		r.done("agent", Exists, describe(bin))
		return nil
	}
	bin, status, err := r.find(ctx)
	if err != nil {
		return err
	}
	r.Begin("Checking the agent: a tool call in a real sandbox")
	version, err := r.Prove(ctx, bin)
	if err != nil {
		e := &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "the agent does not work in a sandbox on this machine", Err: err}
		if dreamcore.HintOf(err) == "" && dreamcore.ReasonOf(err) == "" {
			e.Reason = ReasonAgent
		}
		return e
	}
	bin.Version, bin.Proven = version, time.Now().UTC()
	if err := agent.Record(r.AgentDir, bin); err != nil {
		return err
	}
	r.done("agent", status, describe(bin))
	r.done("agent in a sandbox", Checked, "it wrote a file and ran a command under "+r.Engine)
	return nil
}

func (r *runner) find(ctx context.Context) (agent.Binary, Status, error) {
	bin, err := agent.Locate(r.Claude)
	if err == nil {
		return bin, Exists, nil
	}
	if r.Claude != "" || !errors.Is(err, fs.ErrNotExist) {
		return bin, "", err
	}
	r.Begin("Installing the agent: Claude Code " + agent.Version + " (about 380 MB)")
	bin, err = agent.Install(ctx, r.AgentDir, r.Installed)
	return bin, Installed, err
}

func describe(b agent.Binary) string {
	return "Claude Code " + cmp.Or(b.Version, "of an unknown version") + ", " + b.Path
}
