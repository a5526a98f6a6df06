package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/model/upstream"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

// Model is the access to the model: the gateway, and the audit log and the
// ledger that record its use. It needs no sandbox.
type Model struct {
	state    *State
	log      *slog.Logger
	audit    *audit.Log
	ledger   *usage.Ledger
	gateway  *gateway.Gateway
	upstream *upstream.List // nil with a model script
	observer *observer
	undo     teardown
}

// OpenModel opens a Model. The caller must close it before the state.
func OpenModel(s *State, log *slog.Logger) (_ *Model, err error) {
	m := &Model{state: s, log: log, observer: &observer{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if m.audit, err = s.OpenAudit(log); err != nil {
		return nil, err
	}
	m.undo.addClose(m.audit.Close)
	prices, err := usage.ParsePrices(s.Config.Prices)
	if err != nil {
		return nil, err
	}
	if m.ledger, err = usage.Open(s.Path(UsageDir), usage.Options{Prices: prices, Limits: s.Config.Limits(), Days: s.Config.UsageDays, Logger: log, Observe: m.observer.spent}); err != nil {
		return nil, err
	}
	m.undo.addClose(m.ledger.Close)
	m.undo.addClose(m.closeUpstream) // after the gateway, whose calls use it
	m.gateway = gateway.New(gateway.Config{Logger: log, IdleLimit: s.Config.ModelIdle, ServerTools: s.Config.ServerTools, Audit: m.audit})
	m.undo.add(m.gateway.Close)
	if err = m.setUpstream(s.Config); err != nil {
		return nil, err
	}
	return m, nil
}

// Close closes the model.
func (m *Model) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	return m.undo.run(ctx)
}

// setUpstream makes the gateway answer from the configured script or model API.
func (m *Model) setUpstream(c config.Config) error {
	if c.ModelScript != "" {
		script, err := replay.Load(c.ModelScript)
		if err != nil {
			return err
		}
		m.gateway.SetUpstream(observedUpstream{gateway.HandlerUpstream(replay.New(script)), m.observer})
		m.observer.list.Store(nil)
		return nil
	}
	up, err := upstream.New(upstreams(c), upstream.Options{
		Secret: m.state.sealed, Hide: m.state.hide, Unhide: m.state.unhide, Proxy: http.ProxyFromEnvironment, Logger: m.log,
	})
	if err != nil {
		return err
	}
	for _, e := range c.Upstreams {
		if err := e.Check(m.state.sealed); err != nil {
			m.log.Warn("an upstream cannot be used as it is configured", "upstream", e.Name, "err", err, "hint", dreamcore.HintOf(err))
		}
	}
	for _, err := range unmapped(c) {
		m.log.Warn("an upstream has no name for the agent's model: "+err.Error(), "hint", dreamcore.HintOf(err))
	}
	m.gateway.SetUpstream(observedUpstream{up, m.observer})
	m.observer.list.Store(up)
	_ = m.closeUpstream()
	m.upstream = up
	return nil
}

func (m *Model) closeUpstream() error {
	if m.upstream == nil {
		return nil
	}
	return m.upstream.Close()
}

// Prompts returns the service that answers prompt endpoints through this model. admit
// refuses requests of some users; it may be nil.
func (m *Model) Prompts(admit func(dreamcore.UserID, dreamcore.ProjectID) error) (*prompt.Service, error) {
	set, err := m.state.OpenPrompts(m.log)
	if err != nil {
		return nil, err
	}
	return prompt.New(prompt.Config{
		Set: set, Model: m.gateway, Projects: m.state.Volumes, Global: m.state.openGlobal,
		Meter:  func(user, project, job string) gateway.Meter { return m.ledger.Job(user, project, job) },
		Models: m.state.Config.PromptModels, MaxRunning: m.state.Config.MaxPrompts, Logger: m.log, Admit: admit,
	}), nil
}

// upstreams returns the configured upstreams. Without a list, that is the one
// address of the setting upstream with the key that setup seals.
func upstreams(c config.Config) []upstream.Entry {
	if len(c.Upstreams) > 0 {
		return c.Upstreams
	}
	return []upstream.Entry{{
		Name: "anthropic", Kind: upstream.Anthropic, BaseURL: c.Upstream,
		APIKey: secret.AnthropicSecret + "/" + secret.AnthropicKey,
	}}
}

// CheckSettings returns why a service would not take up settings that are valid in
// themselves: the files that they name, the upstreams and the prices. It needs no
// state directory, so it does not see what depends on a secret.
func CheckSettings(c config.Config) error {
	if _, err := usage.ParsePrices(c.Prices); err != nil {
		return err
	}
	if c.ModelScript != "" {
		_, err := replay.Load(c.ModelScript)
		return err
	}
	up, err := upstream.New(upstreams(c), upstream.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return up.Close()
}

// CheckModel returns nil if at least one upstream has the credentials that it
// needs, else the error of the first one.
func (s *State) CheckModel() error {
	var first error
	for _, e := range upstreams(s.Config) {
		err := e.Check(s.sealed)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// UpstreamFaults checks the list of upstreams. It returns an error for each one
// whose credentials are missing, and for each one that has no name for the
// agent's model.
func (s *State) UpstreamFaults() (credentials, models []error) {
	for _, e := range s.Config.Upstreams {
		if err := e.Check(s.sealed); err != nil {
			credentials = append(credentials, err)
		}
	}
	return credentials, unmapped(s.Config)
}

// unmapped returns an error for each upstream that has no name for the model
// that the agent asks for.
func unmapped(c config.Config) (faults []error) {
	for _, e := range c.Upstreams {
		if err := e.CheckModel(c.Model); err != nil {
			faults = append(faults, err)
		}
	}
	return faults
}

// agentEnv returns the variables that adapt the agent to the upstreams. The
// clouds lag behind the vendor's API: with this variable the agent does not ask
// for features that they lack. What it sends all the same is left out, see
// package upstream.
func agentEnv(c config.Config) []string {
	if c.ModelScript == "" && slices.ContainsFunc(c.Upstreams, upstream.Entry.Cloud) {
		return []string{"CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS=1"}
	}
	return nil
}

// ModelTitle names what answers the agent, for people.
func ModelTitle(c config.Config) string {
	if c.ModelScript != "" {
		return "script " + c.ModelScript
	}
	if len(c.Upstreams) == 0 {
		return c.Upstream
	}
	var names []string
	for _, e := range c.Upstreams {
		names = append(names, e.Title())
	}
	return strings.Join(names, ", then ")
}
