package project

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// Recover puts right what changes left that were ended by a crash; it is for
// the start of a service. What they left beside the projects is removed. A
// project with versions whose newest is not what it holds gets one that is: the
// crash came between the change and its version, or, of an import, between the
// version and the change. Projects that are in use are left alone. The error
// says what could not be put right; the rest is.
func (d *Desk) Recover(ctx context.Context) error {
	all, err := d.volumes.Unfinished()
	errs := []error{err}
	for _, u := range all {
		if err := d.settle(ctx, u); err != nil {
			errs = append(errs, fmt.Errorf("project %s of user %s: %w", u.Project, u.User, err))
		}
	}
	return errors.Join(errs...)
}

func (d *Desk) settle(ctx context.Context, u volume.Unfinished) error {
	unlock, err := d.volumes.TryLock(u.User, u.Project)
	if dreamcore.CodeOf(err) == dreamcore.CodeConflict {
		return nil // it has not ended
	}
	if err != nil {
		return err
	}
	defer unlock()
	newest, err := d.versions.Newest(u.User, u.Project)
	if err == nil && newest != "" {
		err = d.catchUp(ctx, u)
	}
	if err != nil {
		return err // and it stays noted
	}
	return d.volumes.Settle(ctx, u)
}

// catchUp makes a version of what the project holds. One without files is that
// of an import that goes on when it is run again.
func (d *Desk) catchUp(ctx context.Context, u volume.Unfinished) error {
	p, err := d.volumes.Find(u.User, u.Project)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	for _, err := range volume.Walk(ctx, p.Root(), func(string, string) {}) {
		if err != nil {
			return err
		}
		_, _, err = d.versions.Commit(ctx, u.User, u.Project, p.Root(), "After an interrupted change", time.Now())
		return err
	}
	return nil
}
