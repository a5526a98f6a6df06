// Package project reads and changes the files of projects without an agent. A
// change is made as a whole or not at all, and each makes a version.
//
//	editor.go   changes with their versions: apply, remove, restore, log
//	apply.go    changes of files, all or none
//	replace.go  a project whose files are all replaced
//	recover.go  changes that a crash ended
//	serve.go    files for HTTP clients: MIME types, tags, ranges, the first page
//	copy.go     copies of a project for the operator
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
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// lockTimeout is how long a change waits for a project that is in use: long
// enough for another change, too short for a generation.
const lockTimeout = 3 * time.Second

// Editor changes projects. Its methods are safe for concurrent use.
type Editor struct {
	volumes  *volume.Store
	versions *history.Store
}

// New returns an Editor; both stores belong to the caller.
func New(volumes *volume.Store, versions *history.Store) *Editor {
	return &Editor{volumes: volumes, versions: versions}
}

// Applied is the result of a Change.
type Applied struct {
	Path string
	Size int64 // bytes; 0 if the file was removed
}

// Lock locks a project for a change. CodeConflict: it stays in use.
func (e *Editor) Lock(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	unlock, err = e.volumes.Lock(ctx, user, project)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the project is in use", Hint: "wait until the running generation has ended", Err: err}
	}
	return unlock, err
}

// Apply changes files of a project and makes a version. If either fails, nothing
// is changed. CodeInvalid: a path leaves the project, goes through a link, names
// a directory or a name that Git reserves, or occurs twice; CodeTooLarge: the
// disk of the user is full, or the project is too large to be changed. Both
// messages are for clients. Other errors are those of history.Store.Commit. The
// caller must hold the Lock of the project.
func (e *Editor) Apply(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, changes []Change, message string) ([]Applied, error) {
	if _, err := checkChanges(changes); err != nil {
		return nil, err
	}
	room, err := e.volumes.Reserve(ctx, user)
	if err != nil {
		return nil, err
	}
	defer room.Close()
	if _, err := e.Commit(ctx, user, project, beforeChange); err != nil {
		return nil, err
	}
	commit := e.commit(ctx, user, project, message)
	sizes, err := apply(ctx, e.volumes, user, project, changes, noHook, func(root *os.Root) error {
		room.FreeForHost()
		return commit(root)
	})
	if err != nil {
		return nil, err
	}
	// Pruning comes last: the changes may come from a version that it removes.
	// The change is complete even if pruning fails; the service prunes again.
	_, _ = e.versions.Prune(ctx, user, project)
	applied := make([]Applied, len(sizes))
	for i, size := range sizes {
		applied[i] = Applied{Path: path.Clean(changes[i].Path), Size: size}
	}
	return applied, nil
}

// Remove removes a file of a project, or a directory with everything in it if
// all is set, and makes a version. The errors are those of tree.Remove and Apply.
// The caller must hold the Lock of the project.
func (e *Editor) Remove(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, name string, all bool) error {
	if _, err := e.Commit(ctx, user, project, beforeChange); err != nil {
		return err
	}
	_, err := apply(ctx, e.volumes, user, project, nil, func(root *os.Root) error {
		return tree.Remove(root, name, all)
	}, e.commit(ctx, user, project, "Remove "+name))
	return err
}

// commit returns a function that makes a version of a project after the change.
// So at any time, whenever the process is killed, each version is a state that
// the project had.
func (e *Editor) commit(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, message string) func(*os.Root) error {
	return func(root *os.Root) error {
		_, _, err := e.versions.Commit(ctx, user, project, root, message, time.Now())
		return err
	}
}

// beforeChange is the message of the version that saves the state before a change,
// if that is not a version yet: an agent was killed, or an operator copied files.
const beforeChange = "Before a change"

// Commit makes a version of a project, if it exists; made is false if its state is
// a version already. The caller must hold the Lock of the project.
func (e *Editor) Commit(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, message string) (made bool, err error) {
	p, err := e.volumes.Find(user, project)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer p.Close()
	_, made, err = e.versions.Commit(ctx, user, project, p.Root(), message, time.Now())
	return made, err
}

// Log returns the versions of a project, the newest first, at most limit of them
// (1000 if limit is 0). A project that has files and no version gets its first
// one, and made is true. A project that does not exist has no versions.
func (e *Editor) Log(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, limit int) (versions []history.Version, made bool, err error) {
	err = e.volumes.CheckErasing(user, project)
	if dreamcore.ReasonOf(err) == volume.ReasonErasing {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	versions, err = e.versions.Log(ctx, user, project, limit)
	if err != nil || len(versions) > 0 {
		return versions, false, err
	}
	if made, err = e.begin(ctx, user, project); err != nil || !made {
		return nil, false, err
	}
	versions, err = e.versions.Log(ctx, user, project, limit)
	return versions, made, err
}

// beginPatience is how long begin waits for the start of an agent ahead of a job,
// which holds the project.
const beginPatience = 3 * time.Second

// begin makes the first version of a project that is not in use.
func (e *Editor) begin(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (made bool, err error) {
	waiting, cancel := context.WithTimeout(ctx, beginPatience)
	defer cancel()
	unlock, err := e.volumes.Lock(waiting, user, project)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return false, nil // the job that uses it makes a version at its end
	}
	if err != nil {
		return false, err
	}
	defer unlock()
	return e.Commit(ctx, user, project, "Initial commit")
}

// Diff returns the changes of a version; see history.Store.Diff.
func (e *Editor) Diff(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, hash string) (string, error) {
	if err := e.volumes.CheckErasing(user, project); err != nil {
		return "", err
	}
	return e.versions.Diff(ctx, user, project, hash)
}

// Restore puts the code of a project back to its state in a version and leaves
// everything else alone: assets, and files that are newer than the version. It
// makes a new version and returns the paths of the restored files. hash is 7 to
// 40 hexadecimal digits. CodeInvalid: it is not; CodeNotFound: there is no such
// version; CodeConflict: a generation uses the project.
func (e *Editor) Restore(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, hash string) (restored []string, err error) {
	if err := e.volumes.CheckErasing(user, project); err != nil {
		return nil, err
	}
	files, full, err := e.versions.Files(ctx, user, project, hash, isCode)
	if err != nil {
		return nil, err
	}
	unlock, err := e.Lock(ctx, user, project)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if len(files) == 0 {
		return []string{}, nil
	}
	var changes []Change
	for _, f := range files {
		changes = append(changes, Change{Path: f.Path, Write: f.Write})
		restored = append(restored, f.Path)
	}
	if _, err := e.Apply(ctx, user, project, changes, "Restored to "+history.Short(full)); err != nil {
		return nil, fmt.Errorf("restore a version: %w", err)
	}
	return restored, nil
}

// isCode reports whether Restore puts a file back.
func isCode(name string) bool {
	switch name {
	case "index.html", "SPEC.md", "STYLE.md", "PUBLISH.json":
		return true
	}
	return path.Ext(name) == ".js" || path.Ext(name) == ".css"
}
