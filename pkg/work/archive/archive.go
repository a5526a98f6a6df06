// Package archive moves projects in and out: it imports the volume of an old
// backend, exports projects in a form that can be imported again, and makes and
// restores backups of a whole installation. All of them use one layout, in a
// directory or a tar:
//
//	users/U/projects/P/…       the files of a project
//	users/U/projects/P/.git/…  its versions: a repository that stock git reads
//
// A backup contains more; see Backup. Input is hostile: no link is followed,
// every size is bounded, and a report lists the paths that are left out. Output
// appears under its name when it is complete, or not at all.
//
//	archive.go   Depot, reports and locks
//	export.go    projects out of the stores; owner.go prepares their files
//	import.go    projects into the stores
//	backup.go    whole installations; manifest.go lists their entries
//	restore.go   backups into an installation
//	user.go      everything of one user, from one cell to another
//	source.go    reads directories and tars
//	sink.go      writes directories and tars
package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
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

	// DefaultPatience is how long an operation waits for a project that is in use.
	DefaultPatience = 10 * time.Second
)

// Reasons of errors of a Depot.
const (
	ReasonIdentity  dreamcore.Reason = "archive.identity"   // the identity without the secrets
	ReasonNoProject dreamcore.Reason = "archive.no_project" // no project is selected
	ReasonNotBackup dreamcore.Reason = "archive.not_backup" // another kind of file
	ReasonNotEmpty  dreamcore.Reason = "archive.not_empty"  // there is something to be replaced, and Force is not set
)

// Options configures a Depot.
type Options struct {
	StateDir string         // the secrets, jobs and configuration of a backup are here
	Patience time.Duration  // how long to wait for a project in use; default: DefaultPatience
	Progress func(Progress) // optional
	// Owner owns the files that Export writes; default: the user of this process.
	Owner *Owner
}

// Depot moves projects in and out of the stores of one installation.
type Depot struct {
	volumes  *volume.Store
	versions *history.Store
	opts     Options
	meter    *meter
}

// New returns a Depot; both stores belong to the caller.
func New(volumes *volume.Store, versions *history.Store, opts Options) *Depot {
	if opts.Patience == 0 {
		opts.Patience = DefaultPatience
	}
	if opts.Owner == nil {
		opts.Owner = &Owner{UID: os.Geteuid(), GID: os.Getegid()}
	}
	return &Depot{volumes: volumes, versions: versions, opts: opts, meter: &meter{report: opts.Progress}}
}

// States of a Result.
const (
	Copied  = "copied"  // complete
	Present = "present" // it existed already
	Skipped = "skipped" // see Reason
	Failed  = "failed"  // see Reason
)

// Result is the outcome for one project.
type Result struct {
	User     dreamcore.UserID    `json:"user"`
	Project  dreamcore.ProjectID `json:"project"`
	State    string              `json:"state"`
	Reason   string              `json:"reason,omitempty"`
	Files    int                 `json:"files"`
	Bytes    int64               `json:"bytes"`
	Versions int                 `json:"versions"` // commits that were copied
	Notes    []string            `json:"notes,omitempty"`

	partial bool // something within the limits of a project was left out, or is of an earlier time
	unfit   bool // the project is Skipped only because it does not fit on the disk of its user
	excess  bool // the project is Failed only because it exceeds its limits; the rest was copied
}

// bad reports whether a move must not take the result over.
func (r Result) bad() bool { return r.State != Copied && !r.unfit || r.partial }

// Report is the outcome for all projects.
type Report struct {
	Projects []Result `json:"projects"`
	Notes    []string `json:"notes,omitempty"` // about everything that is not a project
}

// Failures counts the projects that were not copied.
func (r Report) Failures() int {
	n := 0
	for _, p := range r.Projects {
		if p.State == Failed || p.State == Skipped {
			n++
		}
	}
	return n
}

// allNotes returns the notes of everything.
func (r Report) allNotes() []string {
	notes := slices.Clone(r.Notes)
	for _, p := range r.Projects {
		for _, n := range append(p.Notes, p.Reason) {
			if n != "" {
				notes = append(notes, "project "+string(p.Project)+": "+n)
			}
		}
	}
	return notes
}

const maxNotes = 20

// skip notes a path that is left out of a project.
func (r *Result) skip(path, reason string) { r.note(leftOut(path, reason)) }

func (r *Result) note(text string) { r.Notes = addNote(r.Notes, maxNotes, text) }

// leftOut is the note about a path that is left out.
func leftOut(path, reason string) string {
	const most = 200
	if len(path) > most {
		path = path[:most] + "…"
	}
	return fmt.Sprintf("%q left out: %s", path, reason)
}

// addNote adds a note to a list that takes a limited number of them.
func addNote(notes []string, limit int, text string) []string {
	switch {
	case len(notes) < limit:
		return append(notes, text)
	case len(notes) == limit:
		return append(notes, "and more")
	}
	return notes
}

// fail records that a project failed. It returns an error only if the whole
// operation has to end: the operator cancelled it, or the disk is full.
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

// Scope selects projects: one, those of a user, or all.
type Scope struct {
	User    dreamcore.UserID    // "" selects all users
	Project dreamcore.ProjectID // "" selects all projects
}

// refs lists the projects of a scope. CodeNotFound: a scope of one user or
// project has no projects.
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
		return nil, &dreamcore.Error{Code: dreamcore.CodeNotFound, Reason: ReasonNoProject, Message: "there is no such project"}
	}
	return refs, nil
}

// lock locks a project and waits for it up to Options.Patience. CodeConflict: it
// stays in use.
func (d *Depot) lock(ctx context.Context, r ref) (unlock func(), err error) {
	limited, cancel := context.WithTimeout(ctx, d.opts.Patience)
	defer cancel()
	unlock, err = d.volumes.Lock(limited, r.user, r.project)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the project is in use", Hint: "try again when its generation has ended", Err: err}
	}
	return unlock, err
}

// fileError returns the error for a file or directory that the operator named.
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
