package server

import (
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// codeStopping is an error code used only in HTTP responses: the service does not do
// that any more, and the next process will.
const codeStopping dreamcore.Code = "STOPPING"

// minStopLimit is the least time that open requests get after a drain: followers
// of a job still have to receive its last event.
const minStopLimit = 10 * time.Second

// Drain prepares the end of the service. From now on new generations get 503, as
// soon as the generator refuses them; everything else is answered as before. Every
// response closes its connection, so that clients reach the next process with
// their next request. Drain may be called more than once.
func (s *Server) Drain() {
	now := time.Now()
	if s.drained.CompareAndSwap(nil, &now) {
		s.log.Info("draining: new generations are refused, everything else is answered")
	}
}

// Draining reports whether Drain has been called.
func (s *Server) Draining() bool { return s.drained.Load() != nil }

// stopLimit returns how long open requests may take after the listener is closed.
// The time of a drain counts.
func (s *Server) stopLimit(now time.Time) time.Duration {
	limit := s.limits.GraceLimit
	if began := s.drained.Load(); began != nil {
		limit = min(limit, max(limit-now.Sub(*began), minStopLimit))
	}
	return limit
}

// stopping returns the error for a generation that was refused with err: while the
// service drains, the client should not take it for a full queue.
func (s *Server) stopping(err error) error {
	return s.whileDraining(err, "The service is restarting and accepts no new games at the moment", "send the request again after the time in Retry-After")
}

// interrupted returns the error for a change of a user or project that failed with
// err: the stop of the service ends those that take too long.
func (s *Server) interrupted(err error) error {
	return s.whileDraining(err, "The service is restarting", dreamcore.HintOf(err))
}

func (s *Server) whileDraining(err error, message, hint string) error {
	if !s.Draining() || dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		return err
	}
	return &dreamcore.Error{Code: codeStopping, Message: message, Hint: hint, Err: err}
}
