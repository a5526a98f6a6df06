package server

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/account"
)

// fakeAccounts has one user with one project.
type fakeAccounts struct {
	mu      sync.Mutex
	blocked bool
	calls   []string
	err     error // of deletions
}

func (f *fakeAccounts) called(parts ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, strings.Join(parts, " "))
}

func (f *fakeAccounts) last() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.calls) == 0 {
		return ""
	}
	return f.calls[len(f.calls)-1]
}

func (f *fakeAccounts) Admit(dreamcore.UserID, dreamcore.ProjectID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blocked {
		return &dreamcore.Error{Code: dreamcore.CodeBlocked, Message: "The user is blocked"}
	}
	return nil
}

func (f *fakeAccounts) Users(_ context.Context, page account.Page) (account.Users, error) {
	f.called("users", page.After)
	return account.Users{Users: []account.User{{ID: user}}, Next: user}, nil
}

func (f *fakeAccounts) User(_ context.Context, id dreamcore.UserID) (account.User, error) {
	f.called("user", string(id))
	if id != user {
		return account.User{}, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "User not found"}
	}
	return account.User{ID: id}, nil
}

func (f *fakeAccounts) Projects(_ context.Context, id dreamcore.UserID, _ account.Page) (account.Projects, error) {
	f.called("projects", string(id))
	return account.Projects{Projects: []account.Project{}}, nil
}

func (f *fakeAccounts) Project(_ context.Context, id dreamcore.UserID, p dreamcore.ProjectID) (account.Project, error) {
	f.called("project", string(id), string(p))
	return account.Project{ID: p, User: id}, nil
}

func (f *fakeAccounts) FindProject(_ context.Context, p dreamcore.ProjectID) (account.Project, error) {
	f.called("find", string(p))
	return account.Project{ID: p, User: user}, nil
}

func (f *fakeAccounts) DeleteUser(_ context.Context, id dreamcore.UserID) (account.Report, error) {
	f.called("delete", string(id))
	return account.Report{User: id}, f.err
}

func (f *fakeAccounts) DeleteProject(_ context.Context, id dreamcore.UserID, p dreamcore.ProjectID) (account.Report, error) {
	f.called("delete", string(id), string(p))
	return account.Report{User: id, Project: p}, nil
}

func (f *fakeAccounts) Block(_ context.Context, id dreamcore.UserID, reason string) (account.Blocked, error) {
	f.called("block", string(id), reason)
	return account.Blocked{User: id, Blocked: true}, nil
}

func (f *fakeAccounts) Unblock(id dreamcore.UserID) (account.Blocked, error) {
	f.called("unblock", string(id))
	return account.Blocked{User: id}, nil
}

func TestUsersAndProjectsAreManaged(t *testing.T) {
	f := &fakeAccounts{}
	sv := start(t, options{config: func(c *Config) { c.Accounts = f }})
	for _, test := range []struct {
		method, path string
		status       int
		call         string
		body         string
	}{
		{"GET", "/users?limit=3&cursor=" + user, 200, "users " + user, ""},
		{"GET", "/users?limit=0", 400, "", ""},
		{"GET", "/users/" + user, 200, "user " + user, ""},
		{"GET", "/users/" + projectID, 404, "user " + projectID, ""},
		{"GET", "/users/x", 400, "", ""},
		{"DELETE", "/users/" + strings.ToUpper(user), 200, "delete " + user, ""},
		{"PUT", "/users/" + user, 405, "", ""},
		{"GET", "/users?user_id=" + user, 400, "", ""},
		{"POST", "/users/" + user + "/block", 200, "block " + user + " spam", `{"reason":"spam"}`},
		{"POST", "/users/" + user + "/block", 200, "block " + user + " ", ""},
		{"POST", "/users/" + user + "/block", 400, "", `{"reason":1}`},
		{"POST", "/users/" + user + "/block", 400, "", "spam"},
		{"POST", "/users/" + user + "/block?reason=spam", 400, "", ""},
		{"POST", "/users/" + user + "/unblock", 200, "unblock " + user, ""},
		{"GET", "/projects?user_id=" + user, 200, "projects " + user, ""},
		{"GET", "/projects", 400, "", ""},
		{"GET", "/projects/" + projectID, 200, "find " + projectID, ""},
		{"GET", "/projects/" + projectID + "?user_id=" + user, 200, "project " + user + " " + projectID, ""},
		{"DELETE", "/projects/" + projectID, 400, "", ""},
		{"DELETE", "/projects/" + projectID + "?user_id=" + user + "&user_id=" + projectID, 400, "", ""},
		{"DELETE", "/projects/" + projectID + "?user_id=" + user, 200, "delete " + user + " " + projectID, ""},
	} {
		f.called("")
		res := sv.do(sv.request(test.method, test.path, test.body))
		if res.StatusCode != test.status || f.last() != test.call {
			t.Errorf("%s %s: %s, called %q", test.method, test.path, res.Status, f.last())
		}
		req := sv.request(test.method, test.path, "")
		req.Header.Set(SecretHeader, "wrong")
		if res := sv.do(req); res.StatusCode != http.StatusUnauthorized && test.status != 405 {
			t.Errorf("%s %s without the secret: %s", test.method, test.path, res.Status)
		}
	}
}

// A deletion that the stop of the service has ended is not refused for good.
func TestADeletionThatTheStopEndsIsTriedAgain(t *testing.T) {
	f := &fakeAccounts{err: &dreamcore.Error{Code: dreamcore.CodeBusy, Message: "the service is stopping", Hint: "it is completed later"}}
	sv := start(t, options{config: func(c *Config) { c.Accounts = f }})
	for _, want := range []struct {
		status int
		code   string
	}{{http.StatusTooManyRequests, "BUSY"}, {http.StatusServiceUnavailable, "STOPPING"}} {
		status, header, o := object(t, sv.do(sv.request(http.MethodDelete, "/users/"+user, "")))
		if status != want.status || o["code"] != want.code || header.Get("Retry-After") == "" || o["hint"] != "it is completed later" {
			t.Errorf("%d %v", status, o)
		}
		sv.server.Drain()
	}
}

func TestABlockedUserIsRefusedWithASentence(t *testing.T) {
	f := &fakeAccounts{blocked: true}
	sv := start(t, options{config: func(c *Config) { c.Accounts = f }})
	sv.generator.err = f.Admit("", "") // as job.Service does
	for _, c := range []struct{ path, body string }{
		{"/generate_game", generateBody}, {"/prewarm_sandbox", generateBody}, {"/apply_files", applyBody(`"files":[{"path":"a.txt","content":"x"}]`)},
		{"/apply_files", applyBody(`"action":"git_restore","commit":"1234567"`)},
	} {
		req := sv.request(http.MethodPost, c.path, c.body)
		req.Header.Set("Accept-Language", "ja")
		status, _, o := object(t, sv.do(req))
		if status != http.StatusForbidden || o["code"] != "BLOCKED" || o["error"] != "The user is blocked" || o["userMessage"] != dreamcore.BlockedMessage(dreamcore.Japanese) {
			t.Errorf("%s: %d %v", c.path, status, o)
		}
	}
	for _, action := range []string{"git_log", "git_diff"} { // they only read
		if status, _, o := sv.post("/apply_files", applyBody(`"action":"`+action+`","commit":"1234567"`)); status == http.StatusForbidden {
			t.Errorf("%s: %d %v", action, status, o)
		}
	}
}
