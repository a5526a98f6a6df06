package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// prewarmSandbox prepares the sandbox of a user ahead of a generation. It
// continues if the client disconnects.
func (s *Server) prewarmSandbox(x *exchange, r *http.Request) {
	body, ok := x.readBody(r)
	if !ok {
		return
	}
	fields := map[string]json.RawMessage{"user_id": nil}
	if err := decodeObject(body, fields); err != nil {
		x.fail(invalidJSON(err))
		return
	}
	user, err := userField(fields["user_id"])
	if err != nil {
		x.fail(err)
		return
	}
	already, name, err := s.cfg.Generator.Prewarm(context.WithoutCancel(r.Context()), user)
	if err != nil {
		x.fail(fmt.Errorf("prewarm a sandbox: %w", err))
		return
	}
	status := "warmed"
	if already {
		status = "already_warm"
	}
	x.answer(http.StatusOK, struct {
		Status string `json:"status"`
		Name   string `json:"sandbox_name"`
	}{status, name})
}
