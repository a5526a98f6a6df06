// Package archive moves projects in and out: the import of an old backend's
// volume, exports that it takes again, backups of everything and their
// restoration. All of them have projects in one layout, as a directory or in a
// tar:
//
//	users/U/projects/P/…       the files of a project
//	users/U/projects/P/.git/…  its versions: a repository that stock git reads
//
// A backup has more around that, see Backup. Whatever is read from outside is
// hostile: no link is followed, everything is bounded, and what is left out is
// said. Whatever is written is there whole under its name, or not at all.
package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

const (
	usersDir    = "users"
	projectsDir = "projects"
	gitDir      = ".git"

	dirMode  = 0o700
	fileMode = 0o600

	// DefaultPatience is how long a project that is in use is waited for.
	DefaultPatience = 10 * time.Second
)

// Options of a Depot.
type Options struct {
	StateDir string        // whose secrets, jobs and configuration a backup has
	Patience time.Duration // for a project in use; 0: DefaultPatience
	Progress func(Progress)
	// Owner owns what Export writes. nil: the user of this process.
	Owner *Owner
}

// Progress says how far a long copy is.
type Progress struct {
	Done, Total int // projects; Total is 0 where nobody knows it
	Project     dreamcore.ProjectID
}

// Depot moves projects in and out of the stores of one installation.
type Depot struct {
	volumes  *volume.Store
	versions *history.Store
	opts     Options
}

// New returns a Depot; both stores belong to the caller.
func New(volumes *volume.Store, versions *history.Store, opts Options) *Depot {
	if opts.Patience == 0 {
		opts.Patience = DefaultPatience
	}
	if opts.Progress == nil {
		opts.Progress = func(Progress) {}
	}
	if opts.Owner == nil {
		opts.Owner = &Owner{UID: os.Geteuid(), GID: os.Getegid()}
	}
	return &Depot{volumes: volumes, versions: versions, opts: opts}
}

// What has become of a project.
const (
	Copied  = "copied"  // all of it is where it should be
	Present = "present" // it was there already
	Skipped = "skipped" // see Reason
	Failed  = "failed"  // see Reason
)

// Result is what has become of one project.
type Result struct {
	User     dreamcore.UserID    `json:"user"`
	Project  dreamcore.ProjectID `json:"project"`
	State    string              `json:"state"`
	Reason   string              `json:"reason,omitempty"`
	Files    int                 `json:"files"`
	Bytes    int64               `json:"bytes"`
	Versions int                 `json:"versions"` // commits that came along
	Notes    []string            `json:"notes,omitempty"`
}

// Report is what has become of all of them.
type Report struct {
	Projects []Result `json:"projects"`
	Notes    []string `json:"notes,omitempty"` // about what is no project
}

// Failures counts the projects that are not where they should be.
func (r Report) Failures() int {
	n := 0
	for _, p := range r.Projects {
		if p.State == Failed || p.State == Skipped {
			n++
		}
	}
	return n
}

const maxNotes = 20

// skip notes what is left out of a project.
func (r *Result) skip(path, reason string) {
	r.note(fmt.Sprintf("%q left out: %s", short(path), reason))
}

// short cuts a path for a note.
func short(path string) string {
	const most = 200
	if len(path) <= most {
		return path
	}
	return path[:most] + "…"
}

func (r *Result) note(text string) {
	switch {
	case len(r.Notes) < maxNotes:
		r.Notes = append(r.Notes, text)
	case len(r.Notes) == maxNotes:
		r.Notes = append(r.Notes, "and more")
	}
}

// fail ends the work on a project. An error of the whole is returned: the
// operator has given up, or the disk is full.
func (r *Result) fail(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("copy the projects: %w", context.Cause(ctx))
	}
	r.State, r.Reason = Failed, err.Error()
	if dreamcore.CodeOf(err) == dreamcore.CodeSetup {
		return err
	}
	return nil
}

// ref names a project.
type ref struct {
	user    dreamcore.UserID
	project dreamcore.ProjectID
}

func (r ref) path() string {
	return usersDir + "/" + string(r.user) + "/" + projectsDir + "/" + string(r.project)
}

// Scope says which projects are meant: one, those of a user, or all.
type Scope struct {
	User    dreamcore.UserID    // "": of all
	Project dreamcore.ProjectID // "": all
}

// refs lists the projects of a scope. CodeNotFound: there is none.
func (d *Depot) refs(ctx context.Context, s Scope) (refs []ref, err error) {
	users := []dreamcore.UserID{s.User}
	if s.User == "" {
		if users, err = d.volumes.Users(); err != nil {
			return nil, err
		}
	}
	for _, u := range users {
		projects, err := d.volumes.Projects(ctx, u)
		if err != nil {
			return nil, err
		}
		for _, p := range projects {
			if s.Project == "" || s.Project == p {
				refs = append(refs, ref{u, p})
			}
		}
	}
	if len(refs) == 0 && (s.Project != "" || s.User != "") {
		return nil, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "there is no such project", Hint: "list them with: dreamcore volume ls " + volume.Data + " users"}
	}
	return refs, nil
}

// lock waits for a project as long as the Depot's patience lasts. CodeConflict:
// it stays in use.
func (d *Depot) lock(ctx context.Context, r ref) (unlock func(), err error) {
	limited, cancel := context.WithTimeout(ctx, d.opts.Patience)
	defer cancel()
	unlock, err = d.volumes.Lock(limited, r.user, r.project)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the project is in use", Hint: "try again when its generation has ended", Err: err}
	}
	return unlock, err
}

// fileError is about a file or directory that the operator has named.
func fileError(action, path string, err error) error {
	if e, ok := errors.AsType[*dreamcore.Error](err); ok {
		return e
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", action, err)
	}
	code, hint := dreamcore.CodeInvalid, "check it with ls -ld and df -h, or name another"
	if errors.Is(err, os.ErrNotExist) {
		code, hint = dreamcore.CodeNotFound, "check the path with ls -ld"
	}
	return &dreamcore.Error{Code: code, Message: fmt.Sprintf("cannot %s %q", action, path), Hint: hint, Err: err}
}
