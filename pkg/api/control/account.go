package control

import (
	"context"
	"net/http"
	"net/url"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/account"
)

// Accounts blocks and deletes users and projects; *account.Service implements it and
// documents the errors. Lists need no service.
type Accounts interface {
	DeleteUser(ctx context.Context, user dreamcore.UserID) (account.Report, error)
	DeleteProject(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (account.Report, error)
	Block(ctx context.Context, user dreamcore.UserID, reason string) (account.Blocked, error)
	Unblock(user dreamcore.UserID) (account.Blocked, error)
}

func (s *Server) handleAccounts(mux *http.ServeMux) {
	if s.accounts == nil {
		return
	}
	handle := func(pattern string, do func(r *http.Request, user dreamcore.UserID) (any, error)) {
		mux.HandleFunc(pattern, answered(s, func(r *http.Request) (any, error) {
			user, err := dreamcore.ParseUserID(r.PathValue("user"))
			if err != nil {
				return nil, err
			}
			return do(r, user)
		}))
	}
	handle("DELETE /users/{user}", func(r *http.Request, user dreamcore.UserID) (any, error) {
		return s.accounts.DeleteUser(r.Context(), user)
	})
	handle("DELETE /users/{user}/projects/{project}", func(r *http.Request, user dreamcore.UserID) (any, error) {
		project, err := dreamcore.ParseProjectID(r.PathValue("project"))
		if err != nil {
			return nil, err
		}
		return s.accounts.DeleteProject(r.Context(), user, project)
	})
	handle("POST /users/{user}/block", func(r *http.Request, user dreamcore.UserID) (any, error) {
		return s.accounts.Block(r.Context(), user, r.URL.Query().Get("reason"))
	})
	handle("POST /users/{user}/unblock", func(_ *http.Request, user dreamcore.UserID) (any, error) {
		return s.accounts.Unblock(user)
	})
}

// DeleteUser deletes a user; see account.Service. Like those of all methods, the error
// is CodeUnreachable if no service is running.
func (c *Client) DeleteUser(ctx context.Context, user dreamcore.UserID) (r account.Report, err error) {
	err = c.call(ctx, http.MethodDelete, "/users/"+string(user), nil, &r)
	return r, err
}

// DeleteProject deletes a project.
func (c *Client) DeleteProject(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (r account.Report, err error) {
	err = c.call(ctx, http.MethodDelete, "/users/"+string(user)+"/projects/"+string(project), nil, &r)
	return r, err
}

// Block blocks a user.
func (c *Client) Block(ctx context.Context, user dreamcore.UserID, reason string) (b account.Blocked, err error) {
	err = c.call(ctx, http.MethodPost, "/users/"+string(user)+"/block?"+url.Values{"reason": {reason}}.Encode(), nil, &b)
	return b, err
}

// Unblock removes the block of a user.
func (c *Client) Unblock(ctx context.Context, user dreamcore.UserID) (b account.Blocked, err error) {
	err = c.call(ctx, http.MethodPost, "/users/"+string(user)+"/unblock", nil, &b)
	return b, err
}
