// Package setup makes a machine ready: secrets, volumes, the agent, and the
// proof that the agent works in a sandbox here. Run again, it changes nothing
// that is there.
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

// Status says what a step did.
type Status string

// What steps do.
const (
	Created   Status = "created"
	Exists    Status = "exists"
	Rotated   Status = "rotated"
	Installed Status = "installed"
	Checked   Status = "checked"
	Missing   Status = "missing" // left out for want of something that is not needed
)

// Step is one thing that setup sees to.
type Step struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail,omitempty"`
}

// Result is what setup did.
type Result struct {
	State string `json:"state"`
	Steps []Step `json:"steps"`
	// InternalSecret is set only when this run made or rotated it.
	InternalSecret string `json:"internal_secret,omitempty"`
}

// Options of Run.
type Options struct {
	State      string
	SecretsDir string
	Engine     string // of sandboxes, for people
	// OpenSecrets makes the secrets in SecretsDir ready and opens them; created
	// tells whether it made an identity. nil keeps the identity in SecretsDir.
	OpenSecrets func() (store *secret.Store, created bool, err error)
	AgentDir    string
	Claude      string // the agent's program; "": in the search path, else installed
	Volumes     *volume.Store
	Rotate      []string // names of secrets to replace
	Keyless     bool     // the upstreams have credentials of their own: the vendor's key is not asked for
	// Key returns the key of the model API, "" when there is none, and where
	// it comes from. It is asked only when the key is needed.
	Key func(ctx context.Context) (key, source string, err error)
	// Prove makes the agent do a tool call in a sandbox on this machine and
	// returns the version it says it has.
	Prove func(ctx context.Context, bin agent.Binary) (version string, err error)
	Begin func(doing string) // tells what is being done; may be nil
	Done  func(Step)         // tells what was done; may be nil
}

// Run does every step, in an order in which each can use what the ones before
// have made. It stops at the first error; what was made stays, and another run
// goes on from there.
func Run(ctx context.Context, o Options) (Result, error) {
	r := &runner{Options: o, result: Result{State: o.State}}
	if err := checkRotate(o.Rotate); err != nil {
		return r.result, err
	}
	for _, step := range []func(context.Context) error{r.identity, r.internalSecret, r.modelKey, r.volumes, r.agent, r.rotateInternal} {
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
				Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("setup cannot rotate %q", n),
				Hint: "it can rotate " + strings.Join(known, " and ") + "; for others run: dreamcore secret create --force",
			}
		}
	}
	return nil
}

type runner struct {
	Options
	result  Result
	secrets *secret.Store
	rotates bool // the internal secret was there before and is to be replaced
}

func (r *runner) begin(doing string) {
	if r.Begin != nil {
		r.Begin(doing)
	}
}

func (r *runner) done(name string, s Status, detail string) {
	step := Step{Name: name, Status: s, Detail: detail}
	r.result.Steps = append(r.result.Steps, step)
	if r.Done != nil {
		r.Done(step)
	}
}

func (r *runner) openSecrets() (store *secret.Store, created bool, err error) {
	if created, err = secret.Init(r.SecretsDir, ""); err != nil {
		return nil, false, err
	}
	store, err = secret.Open(r.SecretsDir, "")
	return store, created, err
}

func (r *runner) identity(context.Context) error {
	open := r.OpenSecrets
	if open == nil {
		open = r.openSecrets
	}
	secrets, created, err := open()
	if err != nil {
		return err
	}
	r.secrets = secrets
	r.done("identity", made(created), "it opens the sealed secrets; keep a copy in a safe place")
	return nil
}

func made(created bool) Status {
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

// rotateInternal is the last step: when another one fails and setup is run
// again, a second rotation would lock out everybody with the old value.
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
				Code: dreamcore.CodeInvalid, Message: "there is no new key to rotate to",
				Hint: "set ANTHROPIC_API_KEY, or name a file with --anthropic-key-file FILE",
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
		r.done("volume "+name, made(created), "")
	}
	return nil
}

// agent finds or installs the CLI and proves it. A proven CLI that is still
// the same file is not proven again.
func (r *runner) agent(ctx context.Context) error {
	if bin, err := agent.Recorded(r.AgentDir); err == nil && r.Claude == "" {
		r.done("agent", Exists, describe(bin))
		return nil
	}
	bin, status, err := r.find(ctx)
	if err != nil {
		return err
	}
	r.begin("Checking the agent: a tool call in a real sandbox")
	version, err := r.Prove(ctx, bin)
	if err != nil {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the agent does not work in a sandbox on this machine", Err: err,
			Hint: cmp.Or(dreamcore.HintOf(err), "run: dreamcore gate sandbox-io isolation (to see whether sandboxes work), or name another program with --claude PATH"),
		}
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
	r.begin("Installing the agent: Claude Code " + agent.Version + " (about 380 MB)")
	bin, err = agent.Install(ctx, r.AgentDir)
	return bin, Installed, err
}

func describe(b agent.Binary) string {
	return "Claude Code " + cmp.Or(b.Version, "of an unknown version") + ", " + b.Path
}
