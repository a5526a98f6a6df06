package project

import (
	"context"
	"os"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// Replace replaces all files of a project with those that fill writes, or changes
// nothing. Before that, check sees the new state, and an error of check ends the
// attempt. Replace makes a missing project. It makes no version. The caller must
// hold the Lock of the project. The errors are those of Editor.Apply, fill and
// check.
func Replace(ctx context.Context, volumes *volume.Store, user dreamcore.UserID, project dreamcore.ProjectID, fill func(*tree.Filler) error, check func(*os.Root) error) error {
	stage, err := volumes.Stage(ctx, user, project)
	if err != nil {
		return err
	}
	defer stage.Close()
	f := tree.NewFiller(stage.Next, volumes.Owner())
	if err := fill(f); err != nil {
		return changeError(volumes, err)
	}
	if err := f.Finish(); err != nil {
		return changeError(volumes, err)
	}
	if err := check(stage.Next); err != nil {
		return err
	}
	if err := stage.Flush(); err != nil {
		return volumes.UserError("put the project in place", err)
	}
	if err := stage.Exchange(); err != nil {
		return volumes.UserError("put the project in place", err)
	}
	return nil
}
