// Package webhook reports the end of jobs to other programs: it sends the job's
// record to the configured addresses, signed by the Standard Webhooks
// specification, until the receiver confirms it.
//
// A message is a file of the outbox before Notify returns, and is removed after a
// receiver has answered with a status of 2xx. So every message arrives at least
// once, also across restarts and crashes; a repetition has the same webhook-id. A
// message that its receiver does not accept is given up after MaxAttempts or
// MaxAge.
//
// A slow endpoint delays only its own messages: every host has workers of its own,
// the messages to one address are bounded, and when all of them together reach
// their limit, the address with the most messages loses its oldest one.
//
// The files: entry.go has the configuration, outbox.go the files of messages,
// queue.go the order in which they are sent, send.go one attempt.
package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Types of events.
const (
	JobSucceeded = "job.succeeded"
	JobFailed    = "job.failed"
	JobCancelled = "job.cancelled"
)

// Bounds of the outbox and of one message.
const (
	MaxAttempts = 16             // to deliver a message
	MaxAge      = 72 * time.Hour // of a message; it is sent once at least

	maxPerURL    = 1_000    // messages that wait for one address
	maxMessages  = 10_000   // messages that wait, in all
	maxBody      = 64 << 10 // bytes; the longest record has 46 KB, as a test of package daemon proves: JSON makes six bytes of one
	maxAnswer    = 16 << 10 // bytes of an answer that are read, to use its connection again
	sendLimit    = 15 * time.Second
	workersAHost = 2
)

// Event is the end of a job.
type Event struct {
	Type    string           // JobSucceeded, JobFailed or JobCancelled
	Job     string           // its id; it ends once, so there is one event of a job
	User    dreamcore.UserID // its owner
	Project dreamcore.ProjectID
	At      time.Time       // when it ended
	URL     string          // where the client that requested the job wants to hear about it; "" if unset
	Data    json.RawMessage // the job's record
}

// Outcome is what became of one attempt to send a message.
type Outcome string

// Outcomes.
const (
	Delivered Outcome = "delivered"
	Failed    Outcome = "failed"  // the message is sent again
	Dropped   Outcome = "dropped" // it is not
)

// Options configures a Service.
type Options struct {
	Dir     string  // of the outbox; created if needed
	Entries []Entry // valid ones, see Faults
	// Secret returns the signing keys behind a reference to a secret. It is called
	// for each attempt, so that a new key takes effect at once.
	Secret func(ref string) ([]string, error)
	// Observe is called with the outcome of each attempt, and with Dropped for each
	// message that is given up. It must not call the Service; optional.
	Observe func(Outcome, time.Duration)
	Agent   string       // User-Agent of the requests
	Logger  *slog.Logger // nil discards

	transport http.RoundTripper // replaces the network in tests
}

// Service delivers events. Its methods are safe for concurrent use.
type Service struct {
	opts   Options
	log    *slog.Logger
	outbox *outbox
	client clients

	run    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // workers

	mu      sync.Mutex       // guards the fields below, and those of hosts
	entries []Entry          // replaced, never changed
	hosts   map[string]*host // with messages, by origin
	closed  bool
}

// New opens the outbox and begins to send what an earlier process left. The caller
// must Close the Service.
func New(o Options) (*Service, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(Outcome, time.Duration) {}
	}
	box, left, err := openOutbox(o.Dir, o.Logger)
	if err != nil {
		return nil, err
	}
	s := &Service{opts: o, log: o.Logger, outbox: box, entries: o.Entries, hosts: map[string]*host{}, client: newClients(o.transport)}
	s.run, s.cancel = context.WithCancel(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range left {
		s.enqueue(m)
	}
	if len(left) > 0 {
		s.log.Info("webhooks of an earlier process are sent", "messages", len(left))
	}
	return s, nil
}

// Apply changes the endpoints. Messages to addresses that are not configured any
// more are dropped.
func (s *Service) Apply(entries []Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries = entries
}

// CheckURL returns an error with CodeInvalid unless clients may name this address.
func (s *Service) CheckURL(address string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, err := parseURL(address)
	if err == nil && findRequested(s.entries, u) == nil {
		err = errors.New("its host is not configured")
	}
	if err == nil {
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: "Invalid webhook_url: " + err.Error(),
		Hint: "use an address at a host that the operator has listed in webhooks with per_request: true",
	}
}

// Notify queues an event for every endpoint that wants it. When it returns nil,
// the messages are on the disk. It may be called again with the same event: what
// still waits is not queued twice.
func (s *Service) Notify(e Event) error {
	body, err := e.body()
	if err != nil {
		return err
	}
	s.mu.Lock()
	targets := recipients(s.entries, e)
	closed := s.closed
	s.mu.Unlock()
	if closed && len(targets) > 0 {
		return &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "webhooks have been closed"}
	}
	var errs []error
	for _, target := range targets {
		m := &message{ID: messageID(e.Job), Event: e.Type, Job: e.Job, User: e.User, Project: e.Project, URL: target, Created: time.Now(), Body: body}
		errs = append(errs, s.add(m))
	}
	return errors.Join(errs...)
}

// add writes a message to the outbox and queues it.
func (s *Service) add(m *message) error {
	added, err := s.outbox.create(m)
	if err != nil || !added {
		return err
	}
	m.Body = nil // it is read from the disk when it is sent
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enqueue(m)
	if old := s.excess(m.URL); old != nil {
		s.discard(old, "too many messages wait")
	}
	return nil
}

// body returns the body of a message, as the specification recommends it.
func (e Event) body() (json.RawMessage, error) {
	body, err := json.Marshal(struct {
		Type      string          `json:"type"`
		Timestamp time.Time       `json:"timestamp"`
		Data      json.RawMessage `json:"data"`
	}{e.Type, e.At.UTC(), e.Data})
	if err != nil {
		return nil, fmt.Errorf("encode the event of job %s: %w", e.Job, err)
	}
	if len(body) > maxBody {
		return nil, &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: fmt.Sprintf("the record of job %s is too long for a webhook: %d bytes", e.Job, len(body))}
	}
	return body, nil
}

// messageID returns the webhook-id of a job's event. It is the same whenever the
// event is sent.
func messageID(job string) string { return "msg_" + job }

// Backlog is what waits in the outbox.
type Backlog struct {
	Messages int
	Oldest   time.Time // when the oldest one was queued; zero without messages
}

// Backlog returns what waits at the moment.
func (s *Service) Backlog() (b Backlog) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		b.Messages += len(h.messages)
		for _, m := range h.messages {
			if b.Oldest.IsZero() || m.Created.Before(b.Oldest) {
				b.Oldest = m.Created
			}
		}
	}
	return b
}

// Close ends the attempts that are being made and closes the outbox. The next
// Service sends undelivered messages. Close may be called more than once.
func (s *Service) Close() error {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.mu.Unlock()
	if was {
		return nil
	}
	s.cancel()
	s.wg.Wait()
	s.client.close()
	return s.outbox.close()
}

// origin returns scheme, host and port of an address.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
