package history

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Erase removes the history of a project, or all histories of a user if project is
// "". The caller makes sure that no version is created meanwhile. It waits for a
// pruning. It may be called again after an error or a crash.
func (s *Store) Erase(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) error {
	dir := filepath.Join(s.dir, string(user))
	repos := []string{s.path(user, project)}
	if project == "" {
		var err error
		if repos, err = reposIn(dir); err != nil {
			return diskError("remove the versions", err)
		}
	}
	for _, repo := range repos {
		if err := eraseRepo(ctx, repo); err != nil {
			return diskError("remove the versions", err)
		}
	}
	var err error
	if project == "" {
		err = os.RemoveAll(dir)
	} else {
		err = os.Remove(dir) // if it was the last one
		if errors.Is(err, fs.ErrExist) || notEmpty(dir) {
			err = nil
		}
	}
	err = errors.Join(statefile.IgnoreMissing(err), statefile.IgnoreMissing(statefile.Sync(s.dir)))
	if err != nil {
		return diskError("remove the versions", err)
	}
	return nil
}

func notEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) > 0
}

// eraseRepo removes a repository and one that was being created.
func eraseRepo(ctx context.Context, dir string) error {
	unlock, err := lock(ctx, dir)
	if err == nil {
		defer unlock()
	}
	if err := statefile.IgnoreMissing(err); err != nil {
		return err
	}
	// HEAD goes first: without it there is no repository, so that no reader finds half
	// of one.
	head := statefile.IgnoreMissing(os.Remove(filepath.Join(dir, "HEAD")))
	return errors.Join(head, os.RemoveAll(dir), os.RemoveAll(dir+".new"))
}

// Summary describes a project by its newest version.
type Summary struct {
	Versions int
	Files    int
	Bytes    int64     // of the files
	Stored   int64     // bytes of all versions on disk
	Newest   string    // hash; "" if there is no version
	Message  string    // of the newest version
	Changed  time.Time // when the newest version was created

	Acceptance string // verdict of the check of the newest version; "" if it was not checked
}

// Summarize returns the summary of a project, the zero Summary if it has no history.
func (s *Store) Summarize(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (sum Summary, err error) {
	r, err := s.open(user, project)
	if r == nil {
		return sum, err
	}
	if sum.Stored, err = sizeOf(ctx, r.dir); err != nil {
		return sum, diskError("measure the versions", err)
	}
	head, err := r.head()
	if err != nil || head.IsZero() {
		return sum, err
	}
	c, err := object.GetCommit(r.store, head)
	if err != nil {
		return sum, r.unreadable(ctx, err)
	}
	message, verdict := splitAcceptance(c.Message)
	sum.Newest, sum.Message, sum.Acceptance, sum.Changed = head.String(), shown(message), verdict, c.Committer.When
	if sum.Versions, err = r.count(ctx); err != nil {
		return sum, r.unreadable(ctx, err)
	}
	if x := readIndex(r.dir, head); len(x.files) > 0 {
		for _, e := range x.files {
			sum.Files, sum.Bytes = sum.Files+1, sum.Bytes+e.stat.size
		}
		return sum, nil
	}
	files, err := r.files(ctx, c.Hash, c.TreeHash, func(File) bool { return true })
	for _, f := range files {
		sum.Files, sum.Bytes = sum.Files+1, sum.Bytes+f.Size
	}
	return sum, err
}

// Users returns the users that have versions, sorted.
func (s *Store) Users() (users []dreamcore.UserID, err error) {
	entries, err := os.ReadDir(s.dir)
	if err = statefile.IgnoreMissing(err); err != nil {
		return nil, diskError("list the histories", err)
	}
	for _, e := range entries {
		if id, err := dreamcore.ParseUserID(e.Name()); err == nil && string(id) == e.Name() {
			users = append(users, id)
		}
	}
	return users, nil
}

// Projects returns the projects of a user that have versions, sorted.
func (s *Store) Projects(user dreamcore.UserID) (projects []dreamcore.ProjectID, err error) {
	repos, err := reposIn(filepath.Join(s.dir, string(user)))
	if err != nil {
		return nil, diskError("list the histories", err)
	}
	for _, r := range repos {
		name := strings.TrimSuffix(filepath.Base(r), repoExtension)
		if id, err := dreamcore.ParseProjectID(name); err == nil && string(id) == name {
			projects = append(projects, id)
		}
	}
	slices.Sort(projects)
	return projects, nil
}

// Has reports whether a project has a history.
func (s *Store) Has(user dreamcore.UserID, project dreamcore.ProjectID) (bool, error) {
	_, err := os.Lstat(filepath.Join(s.path(user, project), "HEAD"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("find the history: %w", err)
	}
	return err == nil, nil
}
