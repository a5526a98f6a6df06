package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/notef-neighbor/dreamcore/pkg/system/address"
)

// clients send to hosts on the internet and to private ones.
type clients struct{ public, private *http.Client }

func newClients(replaced http.RoundTripper) clients {
	newClient := func(private bool) *http.Client {
		var transport http.RoundTripper = &http.Transport{
			// No proxy: the address of the receiver could not be checked.
			DialContext:         (&net.Dialer{Timeout: sendLimit / 2, ControlContext: address.Control(address.Own, private)}).DialContext,
			TLSHandshakeTimeout: sendLimit / 2, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second,
			MaxResponseHeaderBytes: maxAnswer,
		}
		if replaced != nil {
			transport = replaced
		}
		return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return clients{newClient(false), newClient(true)}
}

func (c clients) close() {
	c.public.CloseIdleConnections()
	c.private.CloseIdleConnections()
}

// result is the outcome of one attempt. The message was delivered if err is nil.
type result struct {
	err         error
	final       bool            // another attempt makes no sense
	interrupted bool            // by Close: it does not count
	after       time.Duration   // the pause that the receiver asks for
	body        json.RawMessage // of the message; nil if it could not be read
}

// deliver sends a message once.
func (s *Service) deliver(h *host, m *message) {
	begun := time.Now()
	r := s.attempt(m)
	if s.run.Err() != nil && r.err != nil {
		r = result{interrupted: true}
	}
	switch {
	case r.interrupted, r.final: // discard reports the latter
	case r.err == nil:
		s.opts.Observe(Delivered, time.Since(begun))
	default:
		s.opts.Observe(Failed, time.Since(begun))
	}
	s.settle(h, m, r)
}

func (s *Service) attempt(m *message) result {
	s.mu.Lock()
	entries := s.entries
	s.mu.Unlock()
	entry := find(entries, m.URL)
	if entry == nil {
		return result{err: errors.New("its address is not configured any more"), final: true}
	}
	body, err := s.outbox.body(m)
	if err != nil {
		return result{err: fmt.Errorf("read the message: %w", err), final: errors.Is(err, fs.ErrNotExist)}
	}
	r := s.post(*entry, m, body)
	r.body = body
	return r
}

// post sends a message to its address.
func (s *Service) post(e Entry, m *message, body []byte) result {
	ctx, cancel := context.WithTimeout(s.run, sendLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.URL, bytes.NewReader(body))
	if err != nil {
		return result{err: err, final: true}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", s.opts.Agent)
	if err := s.sign(req.Header, e, m.ID, body); err != nil {
		return result{err: err}
	}
	client := s.client.public
	if e.Private {
		client = s.client.private
	}
	res, err := client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the address, which may contain a credential
		}
		return result{err: err}
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer)) // so that the connection can be used again; the status counts
	switch {
	case res.StatusCode >= 200 && res.StatusCode < 300:
		return result{}
	case res.StatusCode == http.StatusGone:
		return result{err: errors.New("the receiver is gone (status 410)"), final: true}
	}
	return result{err: fmt.Errorf("status %d", res.StatusCode), after: retryAfter(res.Header, time.Now())}
}

// sign sets the headers of the specification. Each key signs, so that a receiver
// can replace its key without a gap.
func (s *Service) sign(h http.Header, e Entry, id string, body []byte) error {
	keys, err := s.opts.Secret(e.Secret)
	if err != nil {
		return fmt.Errorf("read the signing key: %w", err)
	}
	if len(keys) == 0 {
		return errors.New("there is no signing key")
	}
	now := time.Now()
	var signatures []string
	for _, key := range keys {
		if err := CheckKey(key); err != nil {
			return err
		}
		w, err := standardwebhooks.NewWebhook(key)
		if err != nil {
			return errors.New("the signing key cannot be used")
		}
		signature, err := w.Sign(id, now, body)
		if err != nil {
			return err
		}
		signatures = append(signatures, signature)
	}
	h.Set(standardwebhooks.HeaderWebhookID, id)
	h.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	h.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	return nil
}

// retryAfter returns the pause that an answer asks for, or 0.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
