package daemon

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/webhook"
)

// openWebhooks opens the outbox of webhooks. A missing signing key is an error at
// the start, not at the first job.
func (m *Machine) openWebhooks() (err error) {
	if err := m.state.checkWebhooks(m.state.Config.Webhooks); err != nil {
		return err
	}
	m.webhooks, err = webhook.New(webhook.Options{
		Dir: m.state.Path(webhooksDir), Entries: m.state.Config.Webhooks, Secret: m.state.signingKeys,
		Observe: func(o webhook.Outcome, took time.Duration) { m.observer.metrics.WebhookAttempt(string(o), took) },
		Agent:   dreamcore.AppName, Logger: m.log,
	})
	if err != nil {
		return err
	}
	m.undo.addClose(m.webhooks.Close)
	return nil
}

// checkWebhooks returns an error for the first webhook that cannot sign.
func (s *State) checkWebhooks(entries []webhook.Entry) error {
	for _, e := range entries {
		if _, err := s.signingKeys(e.Secret); err != nil {
			return err
		}
	}
	return nil
}

// signingKeys returns the keys of a webhook, NAME or NAME/KEY, and hides them.
func (s *State) signingKeys(ref string) ([]string, error) {
	name, key, one := strings.Cut(ref, "/")
	unusable := func(err error) error {
		return &dreamcore.Error{Code: dreamcore.CodeSetup, Reason: ReasonWebhook, Message: "the signing key " + ref + " of a webhook cannot be used", Err: err}
	}
	values, err := s.sealed(name)
	if err != nil {
		return nil, unusable(err)
	}
	if _, ok := values[key]; one && !ok {
		return nil, unusable(fmt.Errorf("the secret has no key %s", key))
	}
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(values)) {
		if one && k != key {
			continue
		}
		if err := webhook.CheckKey(values[k]); err != nil {
			return nil, unusable(err)
		}
		s.hide(values[k])
		keys = append(keys, values[k])
	}
	return keys, nil
}

// teller returns a function that queues the webhooks of a job that has ended; nil in a trial. An
// error is one that passes, such as a full disk.
func (m *Machine) teller() func(dreamcore.Job) error {
	if m.webhooks == nil {
		return nil
	}
	return func(j dreamcore.Job) error {
		e, err := endEvent(j)
		if err == nil {
			err = m.webhooks.Notify(e)
		}
		if dreamcore.CodeOf(err) == dreamcore.CodeTooLarge { // it will not be smaller
			m.log.Error("the webhooks of a job are lost", "job", j.ID, "error", err)
			return nil
		}
		return err
	}
}

// endEvent returns the event of a job that has ended. The address that its client
// named may have a token in it, which is no business of the other receivers.
func endEvent(j dreamcore.Job) (webhook.Event, error) {
	e := webhook.Event{Type: "job." + string(j.State), Job: j.ID, User: j.User, Project: j.Project, At: j.Ended, URL: j.WebhookURL}
	j.WebhookURL = ""
	record, err := json.Marshal(j)
	e.Data = record
	return e, err
}

// backlog returns what waits in the outbox.
func (m *Machine) backlog() (waiting int, oldest time.Time) {
	if m.webhooks == nil {
		return 0, time.Time{}
	}
	b := m.webhooks.Backlog()
	return b.Messages, b.Oldest
}

// webhookCheck returns what checks the addresses in requests; nil in a trial.
func (m *Machine) webhookCheck() func(address string) error {
	if m.webhooks == nil {
		return nil
	}
	return m.webhooks.CheckURL
}
