package account

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// Project is a project as its newest version has it. The JSON form is that of GET
// /projects.
type Project struct {
	ID           dreamcore.ProjectID `json:"project_id"`
	User         dreamcore.UserID    `json:"user_id"`
	Files        int                 `json:"files"`
	Bytes        int64               `json:"bytes"` // of the files
	Versions     int                 `json:"versions"`
	VersionBytes int64               `json:"version_bytes"`        // on disk
	Changed      time.Time           `json:"changed,omitzero"`     // when the newest version was made
	Commit       string              `json:"commit,omitempty"`     // of the newest version
	Message      string              `json:"message,omitempty"`    // of the newest version
	Acceptance   string              `json:"acceptance,omitempty"` // verdict of the check of the newest version; "" if there was none
}

// Projects is a part of the list of projects, sorted by user and id.
type Projects struct {
	Projects []Project `json:"projects"`
	Next     string    `json:"next,omitempty"` // "" after the last page
}

// ref names a project.
type ref struct {
	user    dreamcore.UserID
	project dreamcore.ProjectID
}

func (r ref) cursor() string { return string(r.user) + "." + string(r.project) }

func parseRef(s string) (r ref, err error) {
	first, second, _ := strings.Cut(s, ".")
	if r.user, err = dreamcore.ParseUserID(first); err == nil {
		r.project, err = dreamcore.ParseProjectID(second)
	}
	return r, err
}

// Projects returns a page of the projects of a user, or of all users if user is "".
// An unknown user has none. CodeInvalid: Page.After is not a Next.
func (s *Service) Projects(ctx context.Context, user dreamcore.UserID, page Page) (list Projects, err error) {
	list.Projects = []Project{}
	var after ref
	if page.After != "" {
		if after, err = parseRef(page.After); err != nil {
			return list, errCursor(err)
		}
	}
	users := []dreamcore.UserID{user}
	if user == "" {
		if users, err = s.listedUsers(ctx); err != nil {
			return list, err
		}
		at, _ := slices.BinarySearch(users, after.user)
		users = users[at:]
	}
	for _, u := range users {
		projects, err := s.projectsOf(u)
		if err != nil {
			return list, err
		}
		for _, p := range projects {
			if u == after.user && p <= after.project {
				continue
			}
			if n := len(list.Projects); n == page.limit() {
				last := list.Projects[n-1]
				list.Next = ref{last.User, last.ID}.cursor()
				return list, nil
			}
			described, err := s.describeProject(ctx, u, p)
			if err != nil {
				return list, err
			}
			list.Projects = append(list.Projects, described)
		}
		if err := ctx.Err(); err != nil {
			return list, context.Cause(ctx)
		}
	}
	return list, nil
}

// projectsOf returns the projects of a user, sorted, without mounting the user's disk:
// those that were ever changed or have a version.
func (s *Service) projectsOf(user dreamcore.UserID) ([]dreamcore.ProjectID, error) {
	projects, err := s.parts.Volumes.Peek(user)
	if err != nil {
		return nil, err
	}
	more, err := s.parts.History.Projects(user)
	if err != nil {
		return nil, err
	}
	projects = append(projects, more...)
	slices.Sort(projects)
	projects = slices.Compact(projects)
	return slices.DeleteFunc(projects, func(p dreamcore.ProjectID) bool { return s.parts.Volumes.CheckErasing(user, p) != nil }), nil
}

func (s *Service) describeProject(ctx context.Context, user dreamcore.UserID, id dreamcore.ProjectID) (Project, error) {
	p := Project{ID: id, User: user}
	sum, err := s.parts.History.Summarize(ctx, user, id)
	if err != nil && ctx.Err() == nil { // one damaged history must not hide the others
		s.log.Warn("a project cannot be measured", "user", string(user), "project", string(id), "error", err)
		p.VersionBytes = sum.Stored
		return p, nil
	}
	if err != nil {
		return p, err
	}
	p.Files, p.Bytes, p.Versions, p.VersionBytes = sum.Files, sum.Bytes, sum.Versions, sum.Stored
	p.Changed, p.Commit, p.Message, p.Acceptance = sum.Changed, history.Short(sum.Newest), sum.Message, sum.Acceptance
	if p.Commit == "" {
		return p, s.measureFiles(ctx, &p)
	}
	return p, nil
}

// measureFiles counts the files of a project that has no version.
func (s *Service) measureFiles(ctx context.Context, p *Project) error {
	dir, err := s.parts.Volumes.Find(p.User, p.ID)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	var u tree.Usage
	if err := u.Measure(ctx, dir.Root()); err != nil {
		return fmt.Errorf("measure the project: %w", err)
	}
	p.Files, p.Bytes = u.Files, u.Bytes
	return nil
}

// Project returns a project of a user. CodeNotFound: it does not exist.
func (s *Service) Project(ctx context.Context, user dreamcore.UserID, id dreamcore.ProjectID) (Project, error) {
	exists, err := s.has(user, id)
	if err != nil {
		return Project{}, err
	}
	if !exists {
		return Project{}, noProject(id)
	}
	return s.describeProject(ctx, user, id)
}

func noProject(id dreamcore.ProjectID) error {
	return &dreamcore.Error{Code: dreamcore.CodeNotFound, Reason: ReasonNoProject, Message: "Project not found", Hint: "check project_id and user_id", Err: fmt.Errorf("project %s", id)}
}

// has reports whether a project exists and is not being deleted.
func (s *Service) has(user dreamcore.UserID, id dreamcore.ProjectID) (bool, error) {
	if err := s.parts.Volumes.CheckErasing(user, id); err != nil {
		if dreamcore.CodeOf(err) == dreamcore.CodeConflict {
			err = nil
		}
		return false, err
	}
	if saved, err := s.parts.History.Has(user, id); saved || err != nil {
		return saved, err
	}
	dir, err := s.parts.Volumes.Find(user, id)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, dir.Close()
}

// Owner returns the user who has a project. CodeNotFound: there is no such project;
// CodeConflict with ReasonManyOwners: several users have one of this id.
func (s *Service) Owner(ctx context.Context, id dreamcore.ProjectID) (dreamcore.UserID, error) {
	candidates, err := s.parts.Volumes.Owners(id)
	if err != nil {
		return "", err
	}
	users, err := s.parts.History.Users()
	if err != nil {
		return "", err
	}
	for _, u := range users {
		saved, err := s.parts.History.Has(u, id)
		if err != nil {
			return "", err
		}
		if saved {
			candidates = append(candidates, u)
		}
	}
	slices.Sort(candidates)
	var owners []dreamcore.UserID
	for _, u := range slices.Compact(candidates) {
		if r := s.parts.Residence; r != nil && r.CheckRead(u) != nil {
			continue // another cell has it
		}
		exists, err := s.has(u, id)
		if err != nil {
			return "", err
		}
		if exists {
			owners = append(owners, u)
		}
	}
	switch len(owners) {
	case 0:
		return "", noProject(id)
	case 1:
		return owners[0], nil
	}
	return "", &dreamcore.Error{
		Code: dreamcore.CodeConflict, Reason: ReasonManyOwners, Message: fmt.Sprintf("%d users have a project of this id", len(owners)),
		Hint: "name the user too", Err: fmt.Errorf("project %s", id),
	}
}

// ProjectIDs returns at most limit ids of projects that begin with a text.
func (s *Service) ProjectIDs(ctx context.Context, prefix string, limit int) (ids []dreamcore.ProjectID, err error) {
	users, err := s.allUsers(ctx)
	if err != nil {
		return nil, err
	}
	for _, u := range users {
		projects, err := s.projectsOf(u)
		if err != nil {
			return ids, err
		}
		for _, p := range projects {
			if strings.HasPrefix(string(p), strings.ToLower(prefix)) {
				ids = append(ids, p)
			}
			if len(ids) == limit {
				return ids, nil
			}
		}
	}
	return ids, nil
}

// FindProject returns a project by its id alone, with the errors of Owner.
func (s *Service) FindProject(ctx context.Context, id dreamcore.ProjectID) (Project, error) {
	user, err := s.Owner(ctx, id)
	if err != nil {
		return Project{}, err
	}
	return s.describeProject(ctx, user, id)
}
