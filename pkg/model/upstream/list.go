package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
)

// Options of New. Only Proxy is optional.
type Options struct {
	// Secret returns the values of a sealed secret. It is called for each
	// request, so a new value takes effect immediately.
	Secret func(name string) (map[string]string, error)
	// Hide is called with every credential before it is used, so that it can be
	// redacted from output.
	Hide func(value string)
	// Unhide is called with a credential that has expired, so that a service that
	// fetches a new one every hour does not accumulate them.
	Unhide func(value string)
	// Proxy selects the outgoing proxy like http.Transport.Proxy.
	Proxy func(*http.Request) (*url.URL, error)
	// Logger receives messages for the operator.
	Logger *slog.Logger
}

// List is a gateway.Upstream of one or several upstreams. The caller of New must
// call Close.
type List struct {
	members []*member
	log     *slog.Logger
	now     func() time.Time
}

// member is one upstream of the list.
type member struct {
	entry   Entry
	api     *gateway.APIUpstream
	tokens  *tokens // of Vertex, else nil
	backoff backoff
}

// errSlow is the cause that cancels an attempt.
var errSlow = errors.New("no answer within the limit of this upstream")

// defaultHeaderTimeout applies to an Entry without a timeout. An answer that is
// not streamed may take wholeFactor times as long, since its header arrives when
// it is complete.
const (
	defaultHeaderTimeout = 30 * time.Second
	wholeFactor          = 4
)

// New creates the upstreams of a list, without using the network. Its errors have
// dreamcore.CodeInvalid.
func New(entries []Entry, o Options) (*List, error) {
	l := &List{log: o.Logger, now: time.Now}
	for _, e := range entries {
		m, err := newMember(e, o)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("upstream %s: %w", e.Name, err), l.Close())
		}
		l.members = append(l.members, m)
	}
	if len(l.members) == 0 {
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Reason: ReasonNone, Message: "there is no upstream", Hint: "name one in the setting upstreams"}
	}
	return l, nil
}

func newMember(e Entry, o Options) (*member, error) {
	tlsConfig, err := e.trust()
	if err != nil {
		return nil, err
	}
	cfg := gateway.APIConfig{
		Name: e.Name, BaseURL: e.address(), AllowHTTP: e.AllowHTTP, Proxy: o.Proxy, TLS: tlsConfig, Repair: e.repair(),
	}
	c := credentials{entry: e, secret: o.Secret, hide: o.Hide}
	m := &member{entry: e}
	switch e.Kind {
	case Vertex:
		m.tokens = newTokens(c, o.Unhide)
		cfg.Dialect = &vertexDialect{entry: e, tokens: m.tokens, dropped: dropLog{logger: o.Logger, entry: e.Name}}
	case Bedrock:
		cfg.Dialect = &bedrockDialect{entry: e, credentials: c.aws, now: time.Now, dropped: dropLog{logger: o.Logger, entry: e.Name}}
	default:
		cfg.Keyless, cfg.Bearer = e.APIKey == NoKey, e.Bearer != ""
		cfg.Key = func() (string, error) { return c.key(cmp.Or(e.APIKey, e.Bearer)) }
	}
	if m.api, err = gateway.NewAPIUpstream(cfg); err != nil {
		return nil, err
	}
	if m.tokens != nil {
		m.tokens.transport = m.api.Transport()
	}
	return m, nil
}

// maxCAFile bounds the operator's bundle of certificates.
const maxCAFile = 4 << 20

// trust returns a TLS configuration that trusts the host's certificates and those
// of the entry, or nil if the entry has none.
func (e Entry) trust() (*tls.Config, error) {
	if e.CAFile == "" {
		return nil, nil
	}
	bad := func(err error) error {
		return &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Reason: ReasonCAFile, Message: "ca_file: " + e.CAFile + " is not a file of PEM certificates", Err: err,
			Hint: "inspect it with: openssl x509 -in " + e.CAFile + " -noout -text",
		}
	}
	pem, err := readFile(e.CAFile, maxCAFile)
	if err != nil {
		return nil, bad(err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, bad(nil)
	}
	return &tls.Config{RootCAs: pool}, nil
}

// Close closes idle connections; running calls are not affected.
func (l *List) Close() error {
	var errs []error
	for _, m := range l.members {
		errs = append(errs, m.api.Close())
	}
	return errors.Join(errs...)
}

// Send implements gateway.Upstream.
func (l *List) Send(ctx context.Context, call gateway.Call) (*gateway.Answer, error) {
	if len(l.members) == 1 {
		return l.members[0].send(ctx, call, 0)
	}
	failing := func(m *member) bool { return !m.backoff.ready(l.now()) }
	if best, done := l.try(ctx, call, slices.DeleteFunc(slices.Clone(l.members), failing), true); done {
		return best.answer, best.err
	}
	// All are skipped at the moment: try each of them anyway.
	best, _ := l.try(ctx, call, l.members, false)
	return best.answer, best.err
}

// try tries the members in order. If exclusive, it skips failing members that
// another request is trying; done reports whether any member was tried.
func (l *List) try(ctx context.Context, call gateway.Call, members []*member, exclusive bool) (best *outcome, done bool) {
	for i, m := range members {
		if exclusive && !m.backoff.reserve(l.now()) {
			continue
		}
		limit := m.limit(call)
		if i == len(members)-1 {
			limit = 0
		}
		answer, err := m.send(ctx, call, limit)
		if ctx.Err() != nil {
			m.backoff.release(l.now())
			best.close()
			return &outcome{answer: answer, err: err}, true // the client has disconnected
		}
		o := judge(answer, err)
		l.note(m, o)
		if !o.tryNext {
			best.close()
			return o, true
		}
		best = better(best, o)
	}
	return best, best != nil
}

// note records the outcome of an attempt, and logs it for the operator.
func (l *List) note(m *member, o *outcome) {
	now := l.now()
	attrs := append([]any{"upstream", m.entry.Name}, o.attrs()...)
	if o.alarm && m.backoff.mayAlarm(now) {
		text := "an upstream refuses its credential or account: " + m.entry.repair()
		if o.page {
			text = "something in front of an upstream (a firewall, a proxy, a login) rejects requests with a page of HTML: check its base_url in the setting upstreams, and HTTPS_PROXY"
		}
		l.log.Error(text, attrs...)
	}
	switch {
	case o.answer != nil && o.answer.Own:
		m.backoff.release(now)
	case !o.unavailable:
		if m.backoff.recovered() {
			l.log.Info("an upstream answers again", attrs...)
		}
	case m.backoff.failed(o.wait, now) && !o.alarm:
		l.log.Warn("an upstream fails and is skipped for a while", attrs...)
	}
}

func (m *member) limit(call gateway.Call) time.Duration {
	limit := cmp.Or(m.entry.HeaderTimeout, defaultHeaderTimeout)
	if !call.Stream {
		limit *= wholeFactor
	}
	return limit
}

// send sends the call with the upstream's name for the model. It fails with
// errSlow if there is no answer within limit; 0 means no limit.
func (m *member) send(ctx context.Context, call gateway.Call, limit time.Duration) (*gateway.Answer, error) {
	name := m.entry.model(call.Model)
	if name != call.Model && m.entry.Kind == Anthropic {
		call.Body = withModel(call.Body, name)
	}
	call.Model = name
	if limit == 0 {
		return m.api.Send(ctx, call)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(limit, func() { cancel(errSlow) })
	answer, err := m.api.Send(ctx, call)
	if !timer.Stop() && err == nil {
		answer.Body.Close()
		err = errSlow
	}
	if err != nil {
		if errors.Is(context.Cause(ctx), errSlow) {
			err = errSlow
		}
		cancel(nil)
		return nil, err
	}
	answer.Body = &endingBody{ReadCloser: answer.Body, end: func() { cancel(nil) }}
	return answer, nil
}

// endingBody is the body of an answer whose Close also cancels the call's context.
type endingBody struct {
	io.ReadCloser
	end func()
}

func (b *endingBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}
