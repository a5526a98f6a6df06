package project

import (
	"context"
	"os"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// Remove removes a file of a project, or a directory with all that is in it
// when all is set, and makes a version of the rest. The errors are those of
// volume.Remove and Apply. The caller has locked the project.
func (d *Desk) Remove(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, name string, all bool) error {
	if err := d.keep(ctx, user, project); err != nil {
		return err
	}
	_, err := d.volumes.Apply(ctx, user, project, nil, func(root *os.Root) error {
		return volume.Remove(root, name, all)
	}, d.record(ctx, user, project, "Remove "+name))
	return err
}
