package server

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/account"
)

// Accounts manages users and projects; *account.Service implements it and documents
// the errors.
type Accounts interface {
	Admit(user dreamcore.UserID, project dreamcore.ProjectID) error
	Users(ctx context.Context, page account.Page) (account.Users, error)
	User(ctx context.Context, id dreamcore.UserID) (account.User, error)
	Projects(ctx context.Context, user dreamcore.UserID, page account.Page) (account.Projects, error)
	Project(ctx context.Context, user dreamcore.UserID, id dreamcore.ProjectID) (account.Project, error)
	FindProject(ctx context.Context, id dreamcore.ProjectID) (account.Project, error)
	DeleteUser(ctx context.Context, user dreamcore.UserID) (account.Report, error)
	DeleteProject(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (account.Report, error)
	Block(ctx context.Context, user dreamcore.UserID, reason string) (account.Blocked, error)
	Unblock(user dreamcore.UserID) (account.Blocked, error)
}

// admitted responds with an error and returns false if nothing may be made for a user
// at the moment.
func (s *Server) admitted(x *exchange, user dreamcore.UserID, project dreamcore.ProjectID) bool {
	if s.cfg.Accounts == nil {
		return true
	}
	err := s.cfg.Accounts.Admit(user, project)
	if err != nil {
		x.fail(err)
	}
	return err == nil
}

// accounts responds with an error and returns false if the server manages none.
func (s *Server) accounts(x *exchange, r *http.Request) bool {
	if s.cfg.Accounts == nil {
		x.refuse(r, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Not found"})
		return false
	}
	return true
}

// result responds with the result of a call.
func (x *exchange) result(v any, err error) {
	if err != nil {
		x.fail(err)
		return
	}
	x.answer(http.StatusOK, v)
}

func (s *Server) listUsers(x *exchange, r *http.Request) {
	x.leaveBody(r)
	if !s.accounts(x, r) {
		return
	}
	q, page, err := pageOf(r)
	if err == nil && q.Has("user_id") { // else it would look as if every user were this one
		err = &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid query: the list of users has no user_id", Hint: "one user: GET /users/{user_id}"}
	}
	if err != nil {
		x.fail(err)
		return
	}
	list, err := s.cfg.Accounts.Users(r.Context(), page)
	x.result(list, err)
}

// listProjects lists the projects of one user.
func (s *Server) listProjects(x *exchange, r *http.Request) {
	x.leaveBody(r)
	if !s.accounts(x, r) {
		return
	}
	q, page, err := pageOf(r)
	var text string
	if err == nil {
		text, err = parameter(q, "user_id")
	}
	var user dreamcore.UserID
	if err == nil {
		user, err = dreamcore.ParseUserID(text)
	}
	if err != nil {
		x.fail(err)
		return
	}
	list, err := s.cfg.Accounts.Projects(r.Context(), user, page)
	x.result(list, err)
}

// pageOf returns the query of a request and the page that it selects.
func pageOf(r *http.Request) (url.Values, account.Page, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, account.Page{}, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid query", Err: err}
	}
	var page account.Page
	if page.After, err = parameter(q, "cursor"); err != nil {
		return nil, page, err
	}
	text, err := parameter(q, "limit")
	if err != nil || text == "" {
		return q, page, err
	}
	if page.Limit, err = strconv.Atoi(text); err != nil || page.Limit < 1 {
		return q, page, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid limit: must be a positive number"}
	}
	return q, page, nil
}

// oneUser returns or deletes a user.
func (s *Server) oneUser(x *exchange, r *http.Request) {
	user, ok := s.userInPath(x, r)
	if !ok {
		return
	}
	if r.Method == http.MethodDelete {
		report, err := s.cfg.Accounts.DeleteUser(r.Context(), user)
		x.result(report, s.interrupted(err))
		return
	}
	u, err := s.cfg.Accounts.User(r.Context(), user)
	x.result(u, err)
}

// userInPath returns the user in the path, or responds with an error and returns
// false. It skips the body.
func (s *Server) userInPath(x *exchange, r *http.Request) (dreamcore.UserID, bool) {
	user, ok := s.namedUser(x, r)
	return user, ok && x.skipBody(r)
}

// namedUser is userInPath that leaves the body to the caller.
func (s *Server) namedUser(x *exchange, r *http.Request) (dreamcore.UserID, bool) {
	if !s.accounts(x, r) {
		return "", false
	}
	user, err := dreamcore.ParseUserID(r.PathValue("user_id"))
	if err != nil {
		x.refuse(r, err)
		return "", false
	}
	x.log = x.log.With("user", string(user))
	return user, true
}

// blockUser blocks a user. The reason, the operator's own words, is in the body: logs
// of proxies have queries.
func (s *Server) blockUser(x *exchange, r *http.Request) {
	user, ok := s.namedUser(x, r)
	if !ok {
		return
	}
	fields, ok := x.readMembers(r, "reason")
	if !ok {
		return
	}
	reason, err := textField(fields, "reason")
	if err == nil && r.URL.RawQuery != "" {
		err = &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid query: must be empty", Hint: `send {"reason":"…"} as the body`}
	}
	if err != nil {
		x.fail(err)
		return
	}
	blocked, err := s.cfg.Accounts.Block(r.Context(), user, reason)
	x.result(blocked, s.interrupted(err))
}

func (s *Server) unblockUser(x *exchange, r *http.Request) {
	if user, ok := s.userInPath(x, r); ok {
		unblocked, err := s.cfg.Accounts.Unblock(user)
		x.result(unblocked, err)
	}
}

// oneProject returns a project, whose user need not be named, or deletes one, whose
// user must be: a deletion must not depend on a search.
func (s *Server) oneProject(x *exchange, r *http.Request) {
	if !s.accounts(x, r) {
		return
	}
	project, err := dreamcore.ParseProjectID(r.PathValue("project_id"))
	if err != nil {
		x.refuse(r, err)
		return
	}
	x.log = x.log.With("project", string(project))
	if !x.skipBody(r) {
		return
	}
	q, _, err := pageOf(r)
	text := ""
	if err == nil {
		text, err = parameter(q, "user_id")
	}
	var user dreamcore.UserID
	if err == nil && (text != "" || r.Method == http.MethodDelete) {
		user, err = dreamcore.ParseUserID(text)
	}
	if err != nil {
		x.fail(err)
		return
	}
	switch {
	case r.Method == http.MethodDelete:
		report, err := s.cfg.Accounts.DeleteProject(r.Context(), user, project)
		x.result(report, s.interrupted(err))
	case user != "":
		p, err := s.cfg.Accounts.Project(r.Context(), user, project)
		x.result(p, err)
	default:
		p, err := s.cfg.Accounts.FindProject(r.Context(), project)
		x.result(p, err)
	}
}
