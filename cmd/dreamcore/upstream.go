package main

import (
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/model/upstream"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// upstreams are those of the configuration; without a list, the one address
// with the key that setup seals.
func upstreams(c config.Config) []upstream.Entry {
	if len(c.Upstreams) > 0 {
		return c.Upstreams
	}
	return []upstream.Entry{{
		Name: "anthropic", Kind: upstream.Anthropic, BaseURL: c.Upstream,
		APIKey: secret.AnthropicSecret + "/" + secret.AnthropicKey,
	}}
}

// sealed opens a secret as it is now.
func (s state) sealed(name string) (map[string]string, error) {
	store, err := s.secrets()
	if err != nil {
		return nil, err
	}
	return store.Get(name)
}

// hide keeps a value out of everything that is printed from now on.
func (s state) hide(value string) {
	if s.redactor.Redact(value) == value {
		s.redactor.Add(value)
	}
}

// checkModel tells whether there is what the upstreams are used with: for the
// one address its key, of a list at least one that can be used. The error is
// that of the first one.
func (s state) checkModel() error {
	var first error
	for _, e := range upstreams(s.cfg) {
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

// unmapped returns what is wrong with the names of models: an upstream that has
// none for the model that the agent asks for.
func unmapped(c config.Config) (faults []error) {
	for _, e := range c.Upstreams {
		if err := e.CheckModel(c.Model); err != nil {
			faults = append(faults, err)
		}
	}
	return faults
}

// agentEnv is what the agent is told of the upstreams. The clouds lag behind the
// vendor's API: an agent that knows it asks for nothing that they do not have.
// What it sends all the same is left out, see package upstream.
func agentEnv(c config.Config) []string {
	if c.ModelScript == "" && slices.ContainsFunc(c.Upstreams, upstream.Entry.Cloud) {
		return []string{"CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS=1"}
	}
	return nil
}

// modelName says where the model is.
func modelName(c config.Config) string {
	if len(c.Upstreams) == 0 {
		return c.Upstream
	}
	var names []string
	for _, e := range c.Upstreams {
		names = append(names, e.Title())
	}
	return strings.Join(names, ", then ")
}
