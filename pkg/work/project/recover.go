package project

import (
	"context"
	"errors"
	"fmt"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// Recover repairs the projects whose changes a crash ended; it is for the start
// of a service. It removes the residue in the staging directories. If the newest
// version of a project differs from its files, it makes a version of them: the
// crash came between the change and its version, or, in an import, between the
// version and the change. It skips projects that are in use. The error names the
// projects that could not be repaired; the others are.
func (e *Editor) Recover(ctx context.Context) error {
	all, err := e.volumes.Unfinished()
	errs := []error{err}
	for _, u := range all {
		if err := e.recover(ctx, u); err != nil {
			errs = append(errs, fmt.Errorf("project %s of user %s: %w", u.Project, u.User, err))
		}
	}
	return errors.Join(errs...)
}

func (e *Editor) recover(ctx context.Context, u volume.Unfinished) error {
	unlock, err := e.volumes.TryLock(u.User, u.Project)
	if dreamcore.CodeOf(err) == dreamcore.CodeConflict {
		return nil // the change is still running
	}
	if err != nil {
		return err
	}
	defer unlock()
	newest, err := e.versions.Newest(u.User, u.Project)
	if err == nil && newest != "" {
		err = e.catchUp(ctx, u)
	}
	if err != nil {
		return err // the mark stays, for the next start
	}
	return e.volumes.RemoveResidue(ctx, u)
}

// catchUp makes a version of the files of a project. It skips a project without
// files: that is an import that continues when it is run again.
func (e *Editor) catchUp(ctx context.Context, u volume.Unfinished) error {
	p, err := e.volumes.Find(u.User, u.Project)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	for _, err := range tree.Walk(ctx, p.Root(), tree.NoSkip) {
		if err != nil {
			return err
		}
		return e.commit(ctx, u.User, u.Project, "After an interrupted change")(p.Root())
	}
	return nil
}
