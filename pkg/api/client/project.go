package client

import (
	"context"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// ProjectOwner returns the user who has a project. CodeNotFound: there is no such
// project, or the server cannot look for it; CodeConflict: several users have one.
func (c *Client) ProjectOwner(ctx context.Context, project dreamcore.ProjectID) (dreamcore.UserID, error) {
	request := c.get("projects/"+string(project), nil, "application/json")
	a, err := c.object(ctx, request)
	if err != nil {
		return "", err
	}
	r := &reader{a: a}
	user, err := dreamcore.ParseUserID(r.text("user_id"))
	if err != nil && r.fault == "" {
		r.fault = "user_id is not a UUID"
	}
	return user, c.finish(request.name, r)
}
