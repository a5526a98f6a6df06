package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// newTransport is what requests of a session go out by.
func (x *Session) newTransport() *http.Transport {
	cfg := &x.socket.proxy.cfg
	return &http.Transport{
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			t, err := parseTarget(address)
			if err != nil {
				return nil, err
			}
			r, ok := cfg.Policy.find(t)
			if !ok {
				return nil, notAllowed()
			}
			conn, refused := x.dial(t, r)
			if refused != nil {
				return nil, refused // not as a nil of another type
			}
			return conn, nil
		},
		TLSClientConfig:        &tls.Config{RootCAs: cfg.Roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		TLSHandshakeTimeout:    cfg.DialLimit,
		ResponseHeaderTimeout:  cfg.IdleLimit,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		MaxIdleConnsPerHost:    8,
	}
}

// forward carries out a request for a target, built anew. With an injection it
// goes over TLS, with the secret in it.
func (s *Socket) forward(w http.ResponseWriter, r *http.Request, a *attempt, t Target, i *Injection) {
	if refused := checkMethod(r.Method); refused != nil {
		a.answer(w, refused)
		return
	}
	var c credential
	if i != nil {
		var err error
		if c, err = s.proxy.credential(*i); err != nil {
			s.proxy.cfg.Logger.Error("a secret of egress cannot be read", "secret", i.Secret, "error", err)
			a.answer(w, fail("its secret cannot be read", nil))
			return
		}
		a.Injected = true
	}
	ctx, cancel := a.session.limited(s.proxy.cfg.TotalLimit)
	defer cancel()
	defer context.AfterFunc(r.Context(), cancel)()
	out := &outgoing{attempt: a, ctx: ctx}
	f := &forwarding{attempt: a, target: t, credential: c, secure: i != nil}
	proxy := httputil.ReverseProxy{
		Rewrite: f.rewrite, Transport: out, ModifyResponse: f.response, FlushInterval: -1,
		ErrorLog: log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			a.setAddress(&out.address)
			a.answer(w, f.failure(err))
		},
	}
	defer func() {
		// An answer that breaks off ends in a panic of ReverseProxy, so that the
		// sandbox sees it break.
		p := recover()
		if p != nil && p != http.ErrAbortHandler {
			s.proxy.cfg.Logger.Error("egress", "panic", p)
			p = http.ErrAbortHandler
		}
		var refused *refusal
		if p != nil {
			if refused = a.broken(ctx, nil); refused == nil {
				refused = fail("the answer broke off", nil)
			}
		}
		a.setAddress(&out.address)
		a.finish(refused)
		if p != nil {
			panic(p)
		}
	}()
	proxy.ServeHTTP(w, r)
}

// forwarding is one request on its way.
type forwarding struct {
	attempt    *attempt
	target     Target
	credential credential // zero without an injection
	secure     bool
}

// rewrite makes the request that goes out: hop-by-hop headers have been
// removed from it.
func (f *forwarding) rewrite(p *httputil.ProxyRequest) {
	scheme, usual := "http", uint16(80)
	if f.secure {
		scheme, usual = "https", DefaultPort
	}
	host := f.target.String()
	name := host
	if f.target.Port == usual {
		name = strings.TrimSuffix(host, host[strings.LastIndexByte(host, ':'):])
	}
	in := p.In.URL
	p.Out.URL = &url.URL{Scheme: scheme, Host: host, Path: in.Path, RawPath: in.RawPath, RawQuery: in.RawQuery, ForceQuery: in.ForceQuery}
	p.Out.Host = name
	h := p.Out.Header
	for _, header := range []string{"Upgrade", "Connection", "Te", "Proxy-Connection", "Proxy-Authorization"} {
		h.Del(header) // no protocol but HTTP
	}
	if f.secure {
		f.credential.put(h)
		// The secret is looked for in what comes back, which must be plain and whole.
		h.Set("Accept-Encoding", "identity")
		h.Del("Range")
		h.Del("If-Range")
	}
	if p.Out.Body != nil {
		p.Out.Body = &countedBody{p.Out.Body, &f.attempt.up}
	}
}

// errEncoded is an answer in which a secret could not be seen.
var errEncoded = errors.New("the host encoded its answer although it was asked not to")

// response looks through what the host answers.
func (f *forwarding) response(resp *http.Response) error {
	f.attempt.Status = resp.StatusCode
	resp.Header.Del("Alt-Svc") // there is no other way to the host
	if f.secure {
		if e := resp.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
			return errEncoded
		}
		f.credential.scrub(resp.Header)
		resp.Body = f.credential.redact(resp.Body, func() { f.credential.scrub(resp.Trailer) })
	}
	resp.Body = &countedBody{resp.Body, &f.attempt.down}
	return nil
}

// failure is why there is no answer.
func (f *forwarding) failure(err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	if r := f.attempt.broken(f.attempt.session.ctx, err); r != nil {
		if r.status == 0 {
			r.status = http.StatusTooManyRequests
		}
		return r
	}
	if errors.Is(err, errEncoded) {
		return fail(errEncoded.Error(), nil)
	}
	return fail("the host did not answer as it should", errors.New(f.credential.clean(err.Error())))
}

// outgoing is the transport of one request. The request leaves the context of
// ReverseProxy behind, by which informational answers would go in unseen.
type outgoing struct {
	attempt *attempt
	ctx     context.Context
	address atomic.Pointer[net.Conn]
}

func (o *outgoing) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := httptrace.WithClientTrace(o.ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { o.address.Store(&i.Conn) },
	})
	return o.attempt.session.transport.RoundTrip(r.WithContext(ctx))
}

// setAddress notes where a request has gone.
func (a *attempt) setAddress(p *atomic.Pointer[net.Conn]) {
	if c := p.Load(); c != nil {
		a.Address = remote(*c)
	}
}

// countedBody counts what is read of a body.
type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// intercept is the host of an injection to the sandbox: it ends the TLS of a
// tunnel and carries out the requests in it.
func (s *Socket) intercept(w http.ResponseWriter, a *attempt, t Target, i *Injection) {
	guest, first, refused := takeOver(w, a, t)
	if refused == nil {
		defer guest.Close()
		refused = s.requests(guest, first, a, t, i)
	}
	a.finish(refused)
}

// requests serves the requests in a tunnel, each an attempt of its own, until
// the sandbox closes it.
func (s *Socket) requests(guest *replay, first []byte, a *attempt, t Target, i *Injection) *refusal {
	leaf, err := s.authority.leaf(t)
	if err != nil {
		return fail("no certificate can be made", err)
	}
	ctx, cancel := a.session.limited(s.proxy.cfg.TotalLimit)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = guest.Close() })()
	conn := tls.Server(newReplay(guest, first), &tls.Config{
		Certificates: []tls.Certificate{*leaf}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	})
	shake, stop := context.WithTimeout(ctx, helloLimit)
	err = conn.HandshakeContext(shake)
	stop()
	if err != nil {
		return fail("the sandbox does not take the certificate of the proxy", err)
	}
	a.finish(nil) // what follows is told of request by request
	ended := make(chan struct{})
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	server := http.Server{
		Protocols: &protocols, DisableGeneralOptionsHandler: true, MaxHeaderBytes: maxHeaderBytes,
		ReadHeaderTimeout: readHeaderLimit, IdleTimeout: s.proxy.cfg.IdleLimit,
		ErrorLog: slog.NewLogLogger(s.proxy.cfg.Logger.Handler(), slog.LevelDebug),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.inside(w, r, a.session, t, i)
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				close(ended)
			}
		},
	}
	_ = server.Serve(&single{conn: conn, ended: ended})
	return nil
}

// inside carries out one request of a tunnel that was intercepted.
func (s *Socket) inside(w http.ResponseWriter, r *http.Request, session *Session, t Target, i *Injection) {
	a := s.newAttempt(session, r.Method)
	a.asked(t)
	if refused := a.admit(); refused != nil {
		a.answer(w, refused)
		return
	}
	if r.URL.Host != "" || r.URL.Path == "" || r.URL.Path[0] != '/' && r.URL.Path != "*" {
		a.answer(w, refuse(http.StatusBadRequest, "malformed request: no path"))
		return
	}
	if !sameHost(r.Host, t) {
		a.answer(w, refuse(http.StatusMisdirectedRequest, "the Host header names another host than the tunnel"))
		return
	}
	s.forward(w, r, a, t, i)
}

// sameHost tells whether a Host header means the target of a tunnel.
func sameHost(header string, t Target) bool {
	host, port, err := splitTarget(header)
	if err != nil {
		return false
	}
	if port == "" {
		port = "443"
		if t.Port != DefaultPort { // clients leave out the port of https only; some leave out any
			port = t.String()[strings.LastIndexByte(t.String(), ':')+1:]
		}
	}
	got, err := makeTarget(host, port)
	return err == nil && got == t
}

// single is a listener of one connection, which waits for its end.
type single struct {
	conn  net.Conn
	ended <-chan struct{}
}

func (l *single) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.ended
	return nil, io.EOF
}

func (l *single) Close() error   { return nil }
func (l *single) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }
