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

	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
)

// newTransport returns the transport for a session's requests.
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
				return nil, refused // a nil *refusal would be a non-nil error
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

// forward sends a rebuilt request to a target. With an injection it uses TLS and
// adds the secret.
func (s *Socket) forward(w http.ResponseWriter, r *http.Request, a *attempt, t Target, i *Injection) {
	if refused := checkMethod(r.Method); refused != nil {
		a.answer(w, refused)
		return
	}
	var c credential
	if i != nil {
		var err error
		if c, err = s.proxy.credential(*i); err != nil {
			s.proxy.cfg.Logger.Error("cannot read a secret for egress", "secret", i.Secret, "error", err)
			a.answer(w, fail("the secret for it cannot be read", nil))
			return
		}
		a.Injected = true
	}
	ctx, cancel := context.WithTimeout(a.session.ctx, s.proxy.cfg.TotalLimit)
	defer cancel()
	defer context.AfterFunc(r.Context(), cancel)()
	f := &forwarding{attempt: a, ctx: ctx, target: t, credential: c, secure: i != nil}
	proxy := httputil.ReverseProxy{
		Rewrite: f.rewrite, Transport: f, ModifyResponse: f.response, FlushInterval: -1,
		ErrorLog: log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			f.setAddress()
			a.answer(w, f.failure(err))
		},
	}
	defer func() {
		// ReverseProxy panics when a response breaks off, so that the sandbox sees
		// an incomplete response.
		p := recover()
		if p != nil && p != http.ErrAbortHandler {
			s.proxy.cfg.Logger.Error("egress", "panic", p)
			p = http.ErrAbortHandler
		}
		var refused *refusal
		if p != nil {
			if refused = a.broken(ctx, nil); refused == nil {
				refused = fail("the response broke off", nil)
			}
		}
		f.setAddress()
		a.finish(refused)
		if p != nil {
			panic(p)
		}
	}()
	proxy.ServeHTTP(w, r)
}

// forwarding is one request that is being forwarded, and its transport, which replaces
// the context of ReverseProxy: that would forward informational responses unchecked.
type forwarding struct {
	attempt    *attempt
	ctx        context.Context
	target     Target
	credential credential // zero without an injection
	secure     bool
	conn       atomic.Pointer[net.Conn] // that the request was sent on
}

// rewrite builds the outgoing request. ReverseProxy has already removed
// hop-by-hop headers.
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
		h.Del(header) // only HTTP is forwarded
	}
	if f.secure {
		f.credential.put(h)
		// The secret is searched for in the response, which must be unencoded and whole.
		h.Set("Accept-Encoding", "identity")
		h.Del("Range")
		h.Del("If-Range")
	}
	if p.Out.Body != nil {
		p.Out.Body = &countedBody{p.Out.Body, &f.attempt.up}
	}
}

// errEncoded means that a secret could not be recognized in a response.
var errEncoded = errors.New("the host encoded its response although the request forbids it")

// response removes the secret from the host's response.
func (f *forwarding) response(resp *http.Response) error {
	f.attempt.Status = resp.StatusCode
	resp.Header.Del("Alt-Svc") // sandboxes cannot use alternative services
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

// failure returns why there is no response.
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
	return fail("the host did not respond properly", errors.New(f.credential.clean(err.Error())))
}

// RoundTrip implements http.RoundTripper.
func (f *forwarding) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := httptrace.WithClientTrace(f.ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { f.conn.Store(&i.Conn) },
	})
	return f.attempt.session.transport.RoundTrip(r.WithContext(ctx))
}

// setAddress records the address that the request was sent to.
func (f *forwarding) setAddress() {
	if c := f.conn.Load(); c != nil {
		f.attempt.Address = remote(*c)
	}
}

// countedBody counts the bytes read from a body.
type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// intercept acts as the host of an injection: it terminates the TLS of a tunnel
// and forwards the requests in it.
func (s *Socket) intercept(w http.ResponseWriter, a *attempt, t Target, i *Injection) {
	guest, first, refused := hijack(w, a, t)
	if refused == nil {
		defer guest.Close()
		refused = s.requests(guest, first, a, t, i)
	}
	a.finish(refused)
}

// requests serves the requests in a tunnel until the sandbox closes it. Each
// request is an attempt of its own.
func (s *Socket) requests(guest *replay, first []byte, a *attempt, t Target, i *Injection) *refusal {
	leaf, err := s.authority.leaf(t)
	if err != nil {
		return fail("cannot create a certificate", err)
	}
	ctx, cancel := context.WithTimeout(a.session.ctx, s.proxy.cfg.TotalLimit)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = guest.Close() })()
	conn := tls.Server(newReplay(guest, first), &tls.Config{
		Certificates: []tls.Certificate{*leaf}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	})
	shake, stop := context.WithTimeout(ctx, helloLimit)
	err = conn.HandshakeContext(shake)
	stop()
	if err != nil {
		return fail("the sandbox rejects the proxy's certificate", err)
	}
	a.finish(nil) // from here on, each request is observed by itself
	ended := make(chan struct{})
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	server := http.Server{
		Protocols: &protocols, DisableGeneralOptionsHandler: true, MaxHeaderBytes: maxHeaderBytes,
		ReadHeaderTimeout: socket.ReadHeaderLimit, IdleTimeout: s.proxy.cfg.IdleLimit,
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

// inside handles one request in an intercepted tunnel.
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

// sameHost reports whether a Host header matches the target of a tunnel.
func sameHost(header string, t Target) bool {
	host, port, err := splitTarget(header)
	if err != nil {
		return false
	}
	if port == "" {
		port = "443"
		if t.Port != DefaultPort { // clients omit the port of https; some omit any port
			port = t.String()[strings.LastIndexByte(t.String(), ':')+1:]
		}
	}
	got, err := makeTarget(host, port)
	return err == nil && got == t
}

// single is a listener with one connection; its second Accept waits for the end
// of that connection.
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
