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
	"os"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
)

// Options of New.
type Options struct {
	// Secret returns the values of a sealed secret. It is called for each
	// request, so a new value works at once.
	Secret func(name string) (map[string]string, error)
	// Hide is told every credential before it is used, so that it is kept out
	// of what is printed; nil: nobody is told.
	Hide func(value string)
	// Unhide is told of a credential that is dead by now, so that a service that
	// fetches a new one every hour does not look for all of them; nil: nobody is.
	Unhide func(value string)
	// Proxy chooses the outgoing proxy as http.Transport.Proxy does; nil: none.
	Proxy func(*http.Request) (*url.URL, error)
	// Logger takes what an operator must know; nil discards it.
	Logger *slog.Logger
}

// List is a gateway.Upstream of one or several upstreams. Whoever made it
// calls Close.
type List struct {
	members []*member
	log     *slog.Logger
	now     func() time.Time
}

// member is one upstream of the list.
type member struct {
	entry Entry
	api   *gateway.APIUpstream
	rest  rest

	tokens *tokens // of Vertex
}

// errSlow is the cause that ends an attempt.
var errSlow = errors.New("no answer within the limit of this upstream")

// defaultHeaderTimeout is that of an Entry without one; a whole answer has
// wholeFactor times as long, since its header comes when it is complete.
const (
	defaultHeaderTimeout = 30 * time.Second
	wholeFactor          = 4
)

// New makes the upstreams of a list, without using the network. Its errors have
// dreamcore.CodeInvalid.
func New(entries []Entry, o Options) (*List, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Hide == nil {
		o.Hide = func(string) {}
	}
	if o.Unhide == nil {
		o.Unhide = func(string) {}
	}
	l := &List{log: o.Logger, now: time.Now}
	for _, e := range entries {
		m, err := newMember(e, o)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("upstream %s: %w", e.Name, err), l.Close())
		}
		l.members = append(l.members, m)
	}
	if len(l.members) == 0 {
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "there is no upstream", Hint: "name one in the setting upstreams"}
	}
	return l, nil
}

func newMember(e Entry, o Options) (*member, error) {
	tlsConfig, err := e.trust()
	if err != nil {
		return nil, err
	}
	cfg := gateway.APIConfig{
		Name: e.Name, BaseURL: e.address(), AllowHTTP: e.AllowHTTP, Proxy: o.Proxy, TLS: tlsConfig, Mend: e.mend(),
	}
	c := credentials{entry: e, secret: o.Secret, hide: o.Hide}
	var vertex *vertexDialect
	switch e.Kind {
	case Vertex:
		vertex = &vertexDialect{entry: e, tokens: newTokens(c, o.Unhide), dropped: dropLog{log: o.Logger, entry: e.Name}}
		cfg.Dialect = vertex
	case Bedrock:
		cfg.Dialect = &bedrockDialect{entry: e, credentials: c.aws, now: time.Now, dropped: dropLog{log: o.Logger, entry: e.Name}}
	default:
		cfg.Keyless, cfg.Bearer = e.APIKey == NoKey, e.Bearer != ""
		cfg.Key = func() (string, error) { return c.key(cmp.Or(e.APIKey, e.Bearer)) }
	}
	api, err := gateway.NewAPIUpstream(cfg)
	if err != nil {
		return nil, err
	}
	if vertex != nil {
		vertex.tokens.client = &http.Client{Transport: api.Transport(), CheckRedirect: noRedirect}
	}
	m := &member{entry: e, api: api}
	if vertex != nil {
		m.tokens = vertex.tokens
	}
	return m, nil
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// maxCAFile bounds the operator's bundle of certificates.
const maxCAFile = 4 << 20

// trust returns the machine's certificates with those of the entry, nil where
// it has none of its own.
func (e Entry) trust() (*tls.Config, error) {
	if e.CAFile == "" {
		return nil, nil
	}
	bad := func(err error) error {
		return &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "ca_file: " + e.CAFile + " is no file of certificates in PEM form", Err: err,
			Hint: "look at it with: openssl x509 -in " + e.CAFile + " -noout -text",
		}
	}
	f, err := os.Open(e.CAFile)
	if err != nil {
		return nil, bad(err)
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, maxCAFile))
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

// Close closes the connections that are idle; running calls end by themselves.
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
	if best, done := l.try(ctx, call, l.awake(), true); done {
		return best.answer, best.err
	}
	// Nothing is known of upstreams that nobody asks.
	best, _ := l.try(ctx, call, l.members, false)
	return best.answer, best.err
}

// try asks the members in order. With turns, those are left out that somebody
// else tries just now; done tells whether any was asked.
func (l *List) try(ctx context.Context, call gateway.Call, members []*member, turns bool) (best *outcome, done bool) {
	for i, m := range members {
		if turns && !m.rest.take(l.now()) {
			continue
		}
		limit := m.limit(call)
		if i == len(members)-1 {
			limit = 0
		}
		answer, err := m.send(ctx, call, limit)
		if ctx.Err() != nil {
			m.rest.untold(l.now())
			best.close()
			return &outcome{answer: answer, err: err}, true // whose call it was has gone
		}
		o := judge(answer, err)
		l.note(m, o)
		if !o.moves {
			best.close()
			return o, true
		}
		best = better(best, o)
	}
	return best, best != nil
}

// awake returns the upstreams that do not rest.
func (l *List) awake() []*member {
	now := l.now()
	var awake []*member
	for _, m := range l.members {
		if m.rest.over(now) {
			awake = append(awake, m)
		}
	}
	return awake
}

// note remembers how an upstream did, and tells the operator.
func (l *List) note(m *member, o *outcome) {
	now := l.now()
	attrs := append([]any{"upstream", m.entry.Name}, o.attrs()...)
	if o.alarm && m.rest.speak(now) {
		text := "an upstream refuses its credential or account: run `" + m.entry.mend() + "`"
		if o.page {
			text = "something in front of an upstream (a firewall, a proxy, a login) refuses requests with a page of HTML: check its base_url in the setting upstreams, and HTTPS_PROXY"
		}
		l.log.Error(text, attrs...)
	}
	switch {
	case o.answer != nil && o.answer.Own:
		m.rest.untold(now)
	case !o.down:
		if m.rest.recovered() {
			l.log.Info("an upstream answers again", attrs...)
		}
	case m.rest.failed(o.wait, now) && !o.alarm:
		l.log.Warn("an upstream fails, and is left out for a while", attrs...)
	}
}

func (m *member) limit(call gateway.Call) time.Duration {
	limit := cmp.Or(m.entry.HeaderTimeout, defaultHeaderTimeout)
	if !call.Stream {
		limit *= wholeFactor
	}
	return limit
}

// send asks this upstream under its name for the model. Where there is no
// answer within limit (0: none) it is given up.
func (m *member) send(ctx context.Context, call gateway.Call, limit time.Duration) (*gateway.Answer, error) {
	name, _ := m.entry.model(call.Model)
	if name != call.Model && m.entry.Kind == Anthropic {
		call.Body = withModel(call.Body, name)
	}
	asked := call
	asked.Model = name
	if limit == 0 {
		return m.api.Send(ctx, asked)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(limit, func() { cancel(errSlow) })
	answer, err := m.api.Send(ctx, asked)
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

// endingBody is the body of an answer with a context of its own.
type endingBody struct {
	io.ReadCloser
	end func()
}

func (b *endingBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}
