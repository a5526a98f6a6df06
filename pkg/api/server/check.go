package server

import (
	"context"
	"errors"
	"net/http"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func (s *Server) health(x *exchange, r *http.Request) {
	x.leaveBody(r)
	answer := struct {
		Status  string `json:"status"`
		App     string `json:"app"`
		Version string `json:"version"`
		Reason  string `json:"reason,omitempty"`
	}{"healthy", dreamcore.AppName, s.cfg.Version, ""}
	status := http.StatusOK
	if s.cfg.Health != nil {
		if err := s.cfg.Health(); err != nil {
			// The cause is only logged, because health needs no secret.
			status, answer.Status, answer.Reason = http.StatusServiceUnavailable, "unhealthy", reasonOf(err)
		}
	}
	x.answer(status, answer)
}

// reasonOf returns the message of an error that is intended for clients.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*dreamcore.Error](err); ok {
		return e.Message
	}
	return internalMessage
}

func (s *Server) testAuth(x *exchange, r *http.Request) {
	if !x.skipBody(r) {
		return
	}
	x.answer(http.StatusOK, struct {
		Success bool   `json:"success"`
		Message string `json:"message"`
	}{true, "The secret is valid"})
}

// check returns the handler of a check that responds with one JSON object. A
// failed check has status 200 with "success":false, because it was carried out
// and the failure is its result.
func (s *Server) check(run func(context.Context) (any, error)) func(*exchange, *http.Request) {
	return func(x *exchange, r *http.Request) {
		if !x.skipBody(r) || !s.beginCheck(x, r) {
			return
		}
		defer s.endCheck()
		result, err := run(r.Context())
		if err != nil {
			x.checkFailed(err)
			return
		}
		x.answer(http.StatusOK, result)
	}
}

// beginCheck waits for a slot for a check. If too many checks wait already, it
// responds with an error and returns false. Checks start sandboxes, which
// generations need more.
func (s *Server) beginCheck(x *exchange, r *http.Request) bool {
	if s.waiting.Add(1) > int64(s.limits.MaxChecks+s.limits.MaxWaitingChecks) {
		s.waiting.Add(-1)
		x.fail(&dreamcore.Error{Code: dreamcore.CodeBusy, Message: "Too many checks are running", Hint: "try again in a few seconds"})
		return false
	}
	select {
	case s.checks <- struct{}{}:
		return true
	case <-r.Context().Done():
		s.waiting.Add(-1)
		x.fail(&dreamcore.Error{Code: dreamcore.CodeBusy, Message: "The check did not start", Err: context.Cause(r.Context()), Hint: "try again in a few seconds"})
		return false
	}
}

func (s *Server) endCheck() {
	<-s.checks
	s.waiting.Add(-1)
}

// checkFailed responds to a check without a result. The prober's messages are
// intended for clients; causes are only logged.
func (x *exchange) checkFailed(err error) {
	message := internalMessage
	if e, ok := errors.AsType[*dreamcore.Error](err); ok {
		message = e.Message
	}
	x.err = err
	x.answer(http.StatusOK, struct {
		Success bool           `json:"success"`
		Error   string         `json:"error"`
		Code    dreamcore.Code `json:"code"`
	}{false, message, dreamcore.CodeOf(err)})
}

func (s *Server) testSandboxIO(ctx context.Context) (any, error) {
	got, err := s.cfg.Prober.SandboxIO(ctx)
	if err != nil {
		return nil, err
	}
	return struct {
		Success bool   `json:"success"`
		Input   string `json:"input"`
		Output  string `json:"output"`
		Match   bool   `json:"match"`
		Error   string `json:"error,omitempty"`
	}{got.Match, got.Input, got.Output, got.Match, unless(got.Match, "the output differs from the input")}, nil
}

func (s *Server) testGVisor(ctx context.Context) (any, error) {
	got, err := s.cfg.Prober.GVisor(ctx)
	if err != nil {
		return nil, err
	}
	return struct {
		Success     bool   `json:"success"`
		ProcVersion string `json:"proc_version"`
		IsGVisor    bool   `json:"is_gvisor"`
	}{true, got.ProcVersion, got.IsGVisor}, nil
}

func (s *Server) testVolume(ctx context.Context) (any, error) {
	got, err := s.cfg.Prober.Volume(ctx)
	if err != nil {
		return nil, err
	}
	return struct {
		Success bool   `json:"success"`
		TestID  string `json:"test_id"`
		Written string `json:"written"`
		Read    string `json:"read"`
		Match   bool   `json:"match"`
		Error   string `json:"error,omitempty"`
	}{got.Match, got.TestID, got.Written, got.Read, got.Match, unless(got.Match, "the text that was read differs from the text that was written")}, nil
}

func unless(ok bool, reason string) string {
	if ok {
		return ""
	}
	return reason
}

var errNoEvent = errors.New("the check ended without an event")

// testStream streams the output of a program in a sandbox. A failure before the
// first event is reported like in the other checks, a later one by an error
// event.
func (s *Server) testStream(x *exchange, r *http.Request) {
	if !x.skipBody(r) || !s.beginCheck(x, r) {
		return
	}
	defer s.endCheck()
	f := startFeed(r.Context(), func(ctx context.Context, send func(message) error) error {
		var id uint64
		return s.cfg.Prober.Stream(ctx, func(e dreamcore.Event) error {
			id++
			return send(message{id, e})
		})
	})
	defer f.stop()
	first, ok := <-f.messages
	if !ok {
		x.checkFailed(errors.Join(f.err, errNoEvent))
		return
	}
	err := x.beginStream()
	if err == nil {
		err = x.event(first)
	}
	if err == nil {
		err = x.FlushError()
	}
	if err == nil {
		err = x.forward(r.Context(), f)
	}
	switch {
	case err != nil:
		x.cut = err
	case f.err != nil:
		x.err = f.err
		lang := preferredLanguage(r.Header.Get("Accept-Language"), s.cfg.DefaultLanguage)
		x.endWithError(dreamcore.ErrorEvent(dreamcore.Failure{Code: dreamcore.FailSandbox}, lang))
	}
}
