// Package project changes projects without an agent: what a person saves, undoes
// or looks up. Each change is made whole or not at all, and is a version.
package project

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// lockPatience is how long a change waits for a project that is in use: long
// enough for another change, not for a generation.
const lockPatience = 3 * time.Second

// Desk is where projects are changed. Its methods are safe for concurrent use.
type Desk struct {
	volumes  *volume.Store
	versions *history.Store
}

// New returns a Desk; both stores belong to the caller.
func New(volumes *volume.Store, versions *history.Store) *Desk {
	return &Desk{volumes: volumes, versions: versions}
}

// Applied is what has become of a file.
type Applied struct {
	Path string
	Size int64 // bytes; 0 for one that was removed
}

// Lock takes a project for a change. CodeConflict: it stays in use.
func (d *Desk) Lock(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	unlock, err = d.volumes.Lock(ctx, user, project)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the project is in use", Hint: "wait until the running generation has ended", Err: err}
	}
	return unlock, err
}

// Apply makes changes to a project and a version of them. Nothing is changed
// when either fails. The errors are those of volume.Store.Apply and
// history.Store.Commit. The caller has locked the project.
func (d *Desk) Apply(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, changes []volume.Change, message string) ([]Applied, error) {
	for _, c := range changes {
		// The volume refuses .git itself; this is what other systems take for it.
		if history.Reserved(c.Path) {
			return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid file path: Git reserves the name", Hint: "give the file another name: it could not be saved in a version"}
		}
	}
	room, err := d.volumes.Reserve(ctx, user)
	if err != nil {
		return nil, err
	}
	defer room.Close()
	if err := d.keep(ctx, user, project); err != nil {
		return nil, err
	}
	record := d.record(ctx, user, project, message)
	sizes, err := d.volumes.Apply(ctx, user, project, changes, nil, func(root *os.Root) error {
		room.FreeForHost()
		return record(root)
	})
	if err != nil {
		return nil, err
	}
	// Not before: what is changed may come from a version that would go. The
	// change is made, whatever becomes of old versions; the service tries again.
	_, _ = d.versions.Prune(ctx, user, project)
	applied := make([]Applied, len(sizes))
	for i, size := range sizes {
		applied[i] = Applied{Path: path.Clean(changes[i].Path), Size: size}
	}
	return applied, nil
}

// record makes a version of a project once it is changed: so there is never a
// version that the project does not hold, whenever we are killed.
func (d *Desk) record(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, message string) func(*os.Root) error {
	return func(root *os.Root) error {
		_, _, err := d.versions.Commit(ctx, user, project, root, message, time.Now())
		return err
	}
}

// keep makes a version of what a project holds before it is changed, where
// nobody has made one: an agent that was killed, an operator who copied files.
func (d *Desk) keep(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) error {
	p, err := d.volumes.Find(user, project)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	_, _, err = d.versions.Commit(ctx, user, project, p.Root(), "Before a change", time.Now())
	return err
}

// Log returns the versions of a project, the newest first, limit of them (all
// up to 1000 for 0). A project that has files and no version gets its first
// one, and made says so. A project that is not there has none.
func (d *Desk) Log(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, limit int) (versions []history.Version, made bool, err error) {
	versions, err = d.versions.Log(ctx, user, project, limit)
	if err != nil || len(versions) > 0 {
		return versions, false, err
	}
	if made, err = d.begin(ctx, user, project); err != nil || !made {
		return nil, false, err
	}
	versions, err = d.versions.Log(ctx, user, project, limit)
	return versions, made, err
}

// begin makes the first version of a project that nobody is working on.
func (d *Desk) begin(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (made bool, err error) {
	unlock, err := d.volumes.TryLock(user, project)
	if dreamcore.CodeOf(err) == dreamcore.CodeConflict {
		return false, nil // who has it makes a version at the end
	}
	if err != nil {
		return false, err
	}
	defer unlock()
	p, err := d.volumes.Find(user, project)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer p.Close()
	_, made, err = d.versions.Commit(ctx, user, project, p.Root(), "Initial commit", time.Now())
	return made, err
}

// Diff returns what a version changed; see history.Store.Diff.
func (d *Desk) Diff(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, hash string) (string, error) {
	return d.versions.Diff(ctx, user, project, hash)
}

// Restore puts the code of a project back to what it was in a version, and
// leaves everything else alone: the assets, and files that are newer. It
// returns the paths of the files. That is a version, too. hash is 7 to 40
// hexadecimal digits. CodeInvalid: it is not; CodeNotFound: there is no such
// version; CodeConflict: a generation has the project.
func (d *Desk) Restore(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, hash string) (restored []string, err error) {
	files, full, err := d.versions.Files(ctx, user, project, hash, isCode)
	if err != nil {
		return nil, err
	}
	unlock, err := d.Lock(ctx, user, project)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if len(files) == 0 {
		return []string{}, nil
	}
	var changes []volume.Change
	for _, f := range files {
		changes = append(changes, volume.Change{Path: f.Path, Write: f.Write})
		restored = append(restored, f.Path)
	}
	if _, err := d.Apply(ctx, user, project, changes, "Restored to "+history.Short(full)); err != nil {
		return nil, fmt.Errorf("restore a version: %w", err)
	}
	return restored, nil
}

// isCode tells whether a file is one that a restore puts back.
func isCode(name string) bool {
	switch name {
	case "index.html", "SPEC.md", "STYLE.md", "PUBLISH.json":
		return true
	}
	return path.Ext(name) == ".js" || path.Ext(name) == ".css"
}
