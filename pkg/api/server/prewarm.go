package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// prewarmSandbox prepares the sandbox of a user ahead of a generation, and the agent
// for a project if the request names one. It continues if the client disconnects.
func (s *Server) prewarmSandbox(x *exchange, r *http.Request) {
	body, ok := x.readBody(r)
	if !ok {
		return
	}
	fields := map[string]json.RawMessage{"user_id": nil, "project_id": nil}
	if err := decodeObject(body, fields); err != nil {
		x.fail(invalidJSON(err))
		return
	}
	user, err := userField(fields["user_id"])
	if err != nil {
		x.fail(err)
		return
	}
	var project dreamcore.ProjectID
	if raw := fields["project_id"]; raw != nil {
		if project, err = projectField(raw); err != nil {
			x.fail(err)
			return
		}
	}
	x.about(user, project)
	if !s.admitted(x, user, project) {
		return
	}
	ctx := context.WithoutCancel(r.Context())
	already, err := s.cfg.Workspaces.Prewarm(ctx, user)
	if err != nil {
		x.fail(fmt.Errorf("prewarm a sandbox: %w", err))
		return
	}
	if project != "" {
		s.cfg.Generator.Warm(ctx, user, project)
	}
	status := "warmed"
	if already {
		status = "already_warm"
	}
	x.answer(http.StatusOK, struct {
		Status string `json:"status"`
		Name   string `json:"sandbox_name"`
	}{status, workspace.Name(user)})
}
