package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
	"github.com/notef-neighbor/dreamcore/pkg/work/probe"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

// State is the opened state directory.
type State struct {
	Dir                string
	UserMiB, MinFree   int // limit of each user, free space of the disk, in MiB
	Script, ModelTitle string
	Upstreams          int // length of the list of upstreams

	CheckFree      func() error // fails if the disk is nearly full
	Secrets        func() (*secret.Store, error)
	Prompts        func() (*prompt.Set, error)
	Agent          func() (agent.Binary, error)
	CheckModel     func() error                         // fails if no upstream has its credentials
	UpstreamFaults func() (credentials, models []error) // upstreams without credentials, and without a name for the model
}

// Sandboxes are sandboxes as the service would create them.
type Sandboxes struct {
	Name      string // engine and root file system
	SandboxIO func(ctx context.Context) (probe.IOResult, error)
	GVisor    func(ctx context.Context) (probe.Kernel, error)
	Prove     func(ctx context.Context) (version string, err error) // makes the agent do a tool call
	// Play plays a game that works and one that does not, and returns the browser's
	// product and version. It is nil if the settings leave games alone.
	Play func(ctx context.Context) (version string, err error)
}

// Service returns the checks of the state directory and its sandboxes. open and
// start are called at most once with success; the caller closes what they
// opened after Run.
func Service(open func() (State, error), start func(ctx context.Context) (Sandboxes, error)) []Check {
	s := &service{openState: open, start: start}
	return []Check{
		{Name: "disk bound", Needs: []string{NameRoot, "disk"}, Run: s.opened(s.diskBound)},
		{Name: "secrets", Needs: []string{NameRoot}, Run: s.opened(s.secrets)},
		{Name: "model", Needs: []string{"secrets"}, Run: s.opened(s.model)},
		{Name: "prompts", Needs: []string{NameRoot}, Run: s.opened(s.prompts)},
		{Name: "sandbox", Needs: []string{NameRoot, NameCgroups, "disk"}, Run: s.opened(s.sandbox)},
		{Name: "isolation", Needs: []string{"sandbox"}, Run: s.isolation},
		{Name: "agent", Needs: []string{NameRoot}, Run: s.opened(s.agent)},
		{Name: "agent in a sandbox", Needs: []string{"sandbox", "agent"}, Run: s.agentInSandbox},
		{Name: "browser", Needs: []string{"sandbox"}, Run: s.browser},
	}
}

// service opens the state directory and the sandboxes when the first check
// needs them.
type service struct {
	openState func() (State, error)
	start     func(ctx context.Context) (Sandboxes, error)

	state     *State // nil until opened
	sandboxes Sandboxes
}

// opened returns a check that opens the state directory first.
func (s *service) opened(check func(context.Context) (string, error)) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		if s.state == nil {
			state, err := s.openState()
			if err != nil {
				return "", err
			}
			s.state = &state
		}
		return check(ctx)
	}
}

func (s *service) diskBound(ctx context.Context) (string, error) {
	if err := s.state.CheckFree(); err != nil {
		return "", err
	}
	if s.state.UserMiB == 0 {
		return "", concern("", "users' files are bounded only by the disk", "set disk_mib to the MiB that each user may have")
	}
	if err := disk.Check(ctx, s.state.Dir); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s for each user, tried; %s are reserved", term.Size(int64(s.state.UserMiB)<<20), term.Size(int64(s.state.MinFree)<<20)), nil
}

func (s *service) secrets(context.Context) (string, error) {
	store, err := s.state.Secrets()
	if err != nil {
		return "", err
	}
	values, err := store.InternalValues()
	if err != nil {
		return "", err
	}
	if len(values) > 1 {
		return "the internal secret exists, and its previous value is still valid", nil
	}
	return "the internal secret exists", nil
}

func (s *service) model(context.Context) (string, error) {
	switch {
	case s.state.Script != "":
		if _, err := replay.Load(s.state.Script); err != nil {
			return "", err
		}
		return s.state.ModelTitle, nil
	case s.state.Upstreams > 0:
		return s.upstreams()
	case s.state.CheckModel() != nil:
		return "", concern(ReasonNoKey, "there is no "+secret.AnthropicSecret+": games are made by the demo script", "")
	}
	return s.state.ModelTitle + ", with a key", nil
}

// upstreams checks that each upstream of the list has its credentials and a name
// for the agent's model. It fails only if none has its credentials.
func (s *service) upstreams() (string, error) {
	credentials, models := s.state.UpstreamFaults()
	faults := append(slices.Clone(credentials), models...)
	if len(faults) == 0 {
		return s.state.ModelTitle, nil
	}
	var texts, hints []string
	for _, err := range faults {
		texts, hints = append(texts, err.Error()), append(hints, dreamcore.HintOf(err))
	}
	if n := len(credentials); n == s.state.Upstreams {
		return "", fault(dreamcore.ReasonOf(credentials[0]), strings.Join(texts[:n], "; "), hints[0], nil)
	}
	return "", concern(dreamcore.ReasonOf(faults[0]), strings.Join(texts, "; "), strings.Join(slices.Compact(hints), "; "))
}

func (s *service) prompts(context.Context) (string, error) {
	set, err := s.state.Prompts()
	if err != nil {
		return "", err
	}
	names, _ := set.Names()
	problems := set.Problems()
	if len(problems) == 0 {
		return fmt.Sprintf("%d endpoints", len(names)), nil
	}
	message := fmt.Sprintf("%s: %v", problems[0].File, problems[0].Err)
	if more := len(problems) - 1; more > 0 {
		message += fmt.Sprintf(" (and %d more files)", more)
	}
	return "", concern(ReasonPrompts, message, "")
}

func (s *service) sandbox(ctx context.Context) (string, error) {
	var err error
	if s.sandboxes, err = s.start(ctx); err != nil {
		return "", err
	}
	began := time.Now()
	io, err := s.sandboxes.SandboxIO(ctx)
	if err != nil {
		return "", err
	}
	if !io.Match {
		return "", fmt.Errorf("a program in a sandbox answered %q to %q", io.Output, io.Input)
	}
	return fmt.Sprintf("%s: started, ran a program, ended in %s", s.sandboxes.Name, term.Duration(time.Since(began))), nil
}

func (s *service) isolation(ctx context.Context) (string, error) {
	k, err := s.sandboxes.GVisor(ctx)
	if err != nil {
		return "", err
	}
	if !k.IsGVisor {
		return "", fault("", "the kernel inside is not gVisor's: "+k.ProcVersion, "do not serve untrusted users from this machine", nil)
	}
	return k.ProcVersion, nil
}

func (s *service) agent(context.Context) (string, error) {
	bin, err := s.state.Agent()
	if err != nil {
		return "", err
	}
	return "Claude Code " + bin.Version, nil
}

func (s *service) agentInSandbox(ctx context.Context) (string, error) {
	began := time.Now()
	version, err := s.sandboxes.Prove(ctx)
	if err != nil {
		reason := dreamcore.ReasonOf(err)
		if reason == "" && dreamcore.HintOf(err) == "" {
			reason = ReasonAgent
		}
		return "", fault(reason, "the agent does not work in a sandbox", "", err)
	}
	return fmt.Sprintf("Claude Code %s wrote a file and ran a command in %s", version, term.Duration(time.Since(began))), nil
}

// browser is only a warning without a browser: games are made all the same.
func (s *service) browser(ctx context.Context) (string, error) {
	if s.sandboxes.Play == nil {
		return "games are not played before they are done (acceptance is off)", nil
	}
	began := time.Now()
	version, err := s.sandboxes.Play(ctx)
	if dreamcore.CodeOf(err) == dreamcore.CodeSetup && err != nil {
		return "", &Concern{err}
	}
	if err != nil {
		return "", fault(dreamcore.ReasonOf(err), "games cannot be played in a sandbox", "", err)
	}
	return fmt.Sprintf("%s told a game that works from one that does not in %s", version, term.Duration(time.Since(began))), nil
}
