package egress

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// serve handles one request of a sandbox.
func (s *Socket) serve(w http.ResponseWriter, r *http.Request) {
	conn := r.Context().Value(guestKey{}).(*guestConn)
	a := s.newAttempt(conn.session, r.Method)
	if a.session == nil {
		a.answer(w, refuse(http.StatusForbidden, "no job is running"))
		return
	}
	if !a.session.enter() {
		a.answer(w, refuse(http.StatusForbidden, errEnded.Error()))
		return
	}
	defer a.session.running.Done()
	if refused := a.admit(); refused != nil {
		a.answer(w, refused)
		return
	}
	if r.Method == http.MethodConnect {
		s.connect(w, r, a)
		return
	}
	s.request(w, r, a)
}

func (s *Socket) newAttempt(session *Session, method string) *attempt {
	a := &attempt{session: session, observe: s.proxy.cfg.Observe}
	a.Time, a.Method = time.Now(), printable(method)
	s.mu.Lock()
	a.Sandbox, a.User = s.sandbox, s.user
	s.mu.Unlock()
	if session != nil {
		a.Job = session.job
	}
	return a
}

// admit refuses attempts over the job's limits. Of the attempts over the limit,
// only the first is observed, so that a sandbox cannot fill a log.
func (a *attempt) admit() *refusal {
	limit := a.session.socket.proxy.cfg.MaxAttempts
	switch n := a.session.attempts.Add(1); {
	case n > limit+1:
		a.quiet = true
		fallthrough
	case n > limit:
		return refuse(http.StatusTooManyRequests, "the job has made too many attempts")
	case a.session.spent():
		return refuse(http.StatusTooManyRequests, errBudget.Error())
	}
	return nil
}

// answer sends a refusal to the sandbox and ends the attempt. It closes the
// connection, because the following bytes may be the request's body.
func (a *attempt) answer(w http.ResponseWriter, r *refusal) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Connection", "close")
	w.WriteHeader(r.status)
	_, _ = fmt.Fprintf(w, "This sandbox cannot reach %s: %s.\n", cmp.Or(a.Host, "that"), r.reason)
	a.Status = r.status
	a.finish(r)
}

// finish ends an attempt and has it observed, once. A nil r means success.
func (a *attempt) finish(r *refusal) {
	if a.done {
		return
	}
	a.done = true
	a.Verdict = Allowed
	if r != nil {
		a.Verdict, a.Reason = r.verdict, printable(r.Error())
	}
	a.Up, a.Down, a.Duration = a.up.Load(), a.down.Load(), time.Since(a.Time)
	if !a.quiet {
		a.observe(a.Attempt)
	}
}

// connect opens a tunnel.
func (s *Socket) connect(w http.ResponseWriter, r *http.Request, a *attempt) {
	t, refused := connectTarget(r)
	if refused != nil {
		a.Host = printable(r.RequestURI)
		a.answer(w, refused)
		return
	}
	a.asked(t)
	rule, ok := s.proxy.cfg.Policy.find(t)
	if !ok {
		a.answer(w, notAllowed())
		return
	}
	if rule.inject != nil {
		s.intercept(w, a, t, rule.inject)
		return
	}
	host, refused := a.session.dial(t, rule)
	if refused != nil {
		a.answer(w, refused)
		return
	}
	defer host.Close()
	a.Address = remote(host)
	guest, first, refused := hijack(w, a, t)
	if refused == nil {
		defer guest.Close()
		refused = a.pipe(guest, host, first)
	}
	a.finish(refused)
}

func notAllowed() *refusal {
	return refuse(http.StatusForbidden, "it is not among the allowed hosts")
}

// connectTarget returns the target of a tunnel, if the request is well-formed.
func connectTarget(r *http.Request) (Target, *refusal) {
	t, err := parseTarget(r.RequestURI)
	if err != nil {
		return t, refuse(http.StatusBadRequest, "malformed CONNECT: "+err.Error())
	}
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return t, refuse(http.StatusBadRequest, "malformed CONNECT: it has a body")
	}
	return t, nil
}

// requestTarget returns the target of a plain request.
func requestTarget(r *http.Request) (Target, *refusal) {
	malformed := func(why string) (Target, *refusal) {
		return Target{}, refuse(http.StatusBadRequest, "malformed request: "+why)
	}
	switch {
	case r.URL.Host == "" || r.URL.Opaque != "":
		return malformed("this is a proxy, request http://HOST/PATH")
	case r.URL.Scheme != "http":
		return malformed("only http works without CONNECT")
	case r.URL.User != nil:
		return malformed("the address contains a user name or password")
	}
	host, port, err := splitTarget(r.URL.Host)
	if err != nil {
		return malformed(err.Error())
	}
	if port == "" {
		port = "80"
	}
	t, err := makeTarget(host, port)
	if err != nil {
		return malformed(err.Error())
	}
	return t, nil
}

// methods are allowed in plain requests. TRACE would echo the injected secret.
const methods = " GET HEAD POST PUT PATCH DELETE OPTIONS "

func checkMethod(method string) *refusal {
	if method == "" || !strings.Contains(methods, " "+method+" ") {
		return refuse(http.StatusMethodNotAllowed, "the method is not allowed")
	}
	return nil
}

// request forwards a plain request.
func (s *Socket) request(w http.ResponseWriter, r *http.Request, a *attempt) {
	t, refused := requestTarget(r)
	if refused != nil {
		a.Host = printable(r.URL.Host)
		a.answer(w, refused)
		return
	}
	a.asked(t)
	if i := s.proxy.cfg.Policy.upgrade(t); i != nil {
		a.asked(i.Target)
		s.forward(w, r, a, i.Target, i)
		return
	}
	if _, ok := s.proxy.cfg.Policy.find(t); !ok {
		a.answer(w, notAllowed())
		return
	}
	s.forward(w, r, a, t, nil)
}
