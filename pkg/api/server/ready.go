package server

import (
	"net/http"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Check is one condition for games to be made.
type Check struct {
	Name  string
	Fault string // why it does not hold, for anybody: one sentence without numbers or names
	Err   error  // the cause; nil if it holds
}

// checkStatus is a check as clients see it.
type checkStatus struct {
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
}

// live reports that the process answers. It says nothing about games: a supervisor
// that restarts the service because of it must not do so for a full disk.
func (s *Server) live(x *exchange, r *http.Request) {
	x.leaveBody(r)
	x.answer(http.StatusOK, struct {
		Status string `json:"status"`
	}{"alive"})
}

// ready reports whether games can be made, for load balancers. The causes are in
// the log only, because it needs no secret.
func (s *Server) ready(x *exchange, r *http.Request) {
	x.leaveBody(r)
	answer := struct {
		Status string                 `json:"status"`
		Checks map[string]checkStatus `json:"checks"`
	}{"ready", map[string]checkStatus{}}
	status := http.StatusOK
	if s.cfg.Ready != nil {
		for _, c := range s.cfg.Ready() {
			if c.Err == nil {
				answer.Checks[c.Name] = checkStatus{OK: true}
				continue
			}
			status, answer.Status = http.StatusServiceUnavailable, "unready"
			answer.Checks[c.Name] = checkStatus{Reason: c.Fault}
		}
	}
	if status != http.StatusOK {
		x.retryAfter(retryBusy)
	}
	x.answer(status, answer)
}

// metrics answers Prometheus, which sends the internal secret as a bearer token.
func (s *Server) metrics(x *exchange, r *http.Request) {
	if s.cfg.Metrics == nil {
		x.refuse(r, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Not found", Hint: "metrics have an address of their own: see the setting metrics_listen"})
		return
	}
	if x.skipBody(r) {
		s.cfg.Metrics.ServeHTTP(x, r)
	}
}
