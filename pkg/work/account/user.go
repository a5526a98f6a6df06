package account

import (
	"context"
	"slices"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/block"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// User is a user with everything that the user takes. The JSON form is that of GET
// /users.
type User struct {
	ID           dreamcore.UserID  `json:"user_id"`
	Projects     int               `json:"projects"`
	FileBytes    int64             `json:"file_bytes"`    // of the newest version of each project
	Versions     int               `json:"versions"`      // of all projects
	VersionBytes int64             `json:"version_bytes"` // on disk
	DiskBytes    int64             `json:"disk_bytes"`    // on the host, of files and the agent's homes
	Jobs         int               `json:"jobs"`          // with an event log
	LogBytes     int64             `json:"log_bytes"`     // on disk
	Spent        dreamcore.Dollars `json:"spent_usd"`     // this month, in UTC
	Changed      time.Time         `json:"changed,omitzero"`
	Sandbox      workspace.State   `json:"sandbox,omitempty"`
	Block        *block.Block      `json:"blocked,omitempty"`
}

// Page selects a part of a list.
type Page struct {
	Limit int    // 0 means dreamcore.DefaultPage; at most dreamcore.MaxPage
	After string // Next of the page before; "" for the first page
}

func (p Page) limit() int {
	if p.Limit <= 0 {
		return dreamcore.DefaultPage
	}
	return min(p.Limit, dreamcore.MaxPage)
}

// Users is a part of the list of users, sorted by id.
type Users struct {
	Users []User `json:"users"`
	Next  string `json:"next,omitempty"` // "" after the last page
}

// Users returns a page of users. CodeInvalid: Page.After is not a Next.
func (s *Service) Users(ctx context.Context, page Page) (list Users, err error) {
	list.Users = []User{}
	all, err := s.listedUsers(ctx)
	if err != nil {
		return list, err
	}
	if page.After != "" {
		after, err := dreamcore.ParseUserID(page.After)
		if err != nil {
			return list, errCursor(err)
		}
		at, found := slices.BinarySearch(all, after)
		if found {
			at++
		}
		all = all[at:]
	}
	if n := page.limit(); len(all) > n {
		all, list.Next = all[:n], string(all[n-1])
	}
	q, err := s.query(ctx)
	if err != nil {
		return list, err
	}
	for _, id := range all {
		u, err := s.describeUser(ctx, id, q)
		if err != nil {
			return list, err
		}
		list.Users = append(list.Users, u)
	}
	return list, nil
}

func errCursor(err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid cursor", Hint: "pass the next of the page before, unchanged", Err: err}
}

// User returns a user. CodeNotFound: there is nothing of the user.
func (s *Service) User(ctx context.Context, id dreamcore.UserID) (User, error) {
	all, err := s.allUsers(ctx)
	if err != nil {
		return User{}, err
	}
	if _, ok := slices.BinarySearch(all, id); !ok {
		return User{}, notFound(id)
	}
	q, err := s.query(ctx)
	if err != nil {
		return User{}, err
	}
	return s.describeUser(ctx, id, q)
}

// UserIDs returns the ids of all users, sorted: those that have files, versions or
// jobs, and those that are blocked.
func (s *Service) UserIDs(ctx context.Context) ([]dreamcore.UserID, error) { return s.allUsers(ctx) }

// AllUsers is UserIDs that looks at every log again.
func (s *Service) AllUsers(ctx context.Context) ([]dreamcore.UserID, error) {
	s.forgetLogs()
	return s.allUsers(ctx)
}

// listedUsers returns the users that this cell lists.
func (s *Service) listedUsers(ctx context.Context) ([]dreamcore.UserID, error) {
	all, err := s.allUsers(ctx)
	if r := s.parts.Residence; r != nil {
		all = slices.DeleteFunc(all, func(u dreamcore.UserID) bool { return !r.Lists(u) })
	}
	return all, err
}

func (s *Service) allUsers(ctx context.Context) ([]dreamcore.UserID, error) {
	all, err := s.parts.Volumes.Users()
	if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeNotFound { // there are no volumes yet
		return nil, err
	}
	for _, list := range []func() ([]dreamcore.UserID, error){s.parts.History.Users, s.parts.Blocks.Users, s.parts.Volumes.HomeUsers} {
		more, err := list()
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	logs, err := s.logsByUser(ctx)
	if err != nil {
		return nil, err
	}
	for user := range logs {
		if id, err := dreamcore.ParseUserID(string(user)); err == nil && id == user {
			all = append(all, user)
		}
	}
	return s.Remaining(all)
}

// Remaining returns the users, sorted and each once, without those who are being deleted.
func (s *Service) Remaining(users []dreamcore.UserID) ([]dreamcore.UserID, error) {
	slices.Sort(users)
	users = slices.Compact(users)
	erasing, err := s.parts.Volumes.Erasing()
	if err != nil {
		return nil, err
	}
	for _, e := range erasing {
		if at, found := slices.BinarySearch(users, e.User); found && e.Project == "" {
			users = slices.Delete(users, at, at+1)
		}
	}
	return users, nil
}

// query holds values that are read once for a list.
type query struct {
	logs      map[dreamcore.UserID]journal.Usage
	spent     map[dreamcore.UserID]dreamcore.Nano
	sandboxes map[dreamcore.UserID]workspace.State
}

func (s *Service) query(ctx context.Context) (q query, err error) {
	if q.logs, err = s.logsByUser(ctx); err != nil {
		return q, err
	}
	if q.spent, err = s.parts.Spending(); err != nil {
		return q, err
	}
	q.sandboxes = map[dreamcore.UserID]workspace.State{}
	if s.parts.Sandboxes != nil {
		for _, i := range s.parts.Sandboxes.List() {
			q.sandboxes[i.User] = i.State
		}
	}
	return q, nil
}

func (s *Service) describeUser(ctx context.Context, id dreamcore.UserID, q query) (User, error) {
	u := User{ID: id, Spent: dreamcore.Dollars(q.spent[id]), Sandbox: q.sandboxes[id]}
	u.Jobs, u.LogBytes = q.logs[id].Logs, q.logs[id].Bytes
	b, blocked, err := s.parts.Blocks.Get(id)
	if err != nil {
		return u, err
	}
	if blocked {
		u.Block = &b
	}
	if u.DiskBytes, err = s.parts.Volumes.DiskUsage(ctx, id); err != nil {
		return u, err
	}
	projects, err := s.projectsOf(id)
	if err != nil {
		return u, err
	}
	u.Projects = len(projects)
	for _, p := range projects {
		sum, err := s.parts.History.Summarize(ctx, id, p)
		if err != nil && ctx.Err() != nil {
			return u, err
		}
		if err != nil { // one damaged history must not hide every user
			s.log.Warn("a project cannot be measured", "user", string(id), "project", string(p), "error", err)
			continue
		}
		u.FileBytes, u.Versions, u.VersionBytes = u.FileBytes+sum.Bytes, u.Versions+sum.Versions, u.VersionBytes+sum.Stored
		if sum.Changed.After(u.Changed) {
			u.Changed = sum.Changed
		}
	}
	return u, nil
}

// logUsage caches the usage of logs: to find it, each log is opened.
type logUsage struct {
	at    time.Time
	users map[dreamcore.UserID]journal.Usage
}

const logUsageAge = 10 * time.Second

func (s *Service) logsByUser(ctx context.Context) (map[dreamcore.UserID]journal.Usage, error) {
	if s.parts.Logs == nil {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logs.users != nil && time.Since(s.logs.at) < logUsageAge {
		return s.logs.users, nil
	}
	users, err := s.parts.Logs.Usage(ctx)
	if err != nil {
		return nil, err
	}
	s.logs = logUsage{time.Now(), users}
	return users, nil
}

func (s *Service) forgetLogs() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs = logUsage{}
}
