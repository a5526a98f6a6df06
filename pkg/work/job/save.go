package job

import (
	"context"
	"errors"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// unchanged is what a client is told of a job that left every file as it was.
const unchanged = "No file of the project was changed"

// save makes a version of what the project is now, also after a failure:
// nothing that was made is lost, and everything can be undone. It returns the
// error of the job, which so far is err: what is not saved, or is no game, is
// not done.
func (j *job) save(ctx context.Context, project *volume.Project, room *volume.Room, err error) error {
	err = j.checkWritten(project, err)
	room.FreeForHost()
	j.status("Saving the version")
	made, serr := j.record(ctx, project)
	switch {
	case serr != nil:
		j.log.Error("save the version", "error", serr)
		j.tell(dreamcore.LogEvent("The version could not be saved", "error"))
		if err == nil {
			err = &failed{failure: failureOr(serr, dreamcore.FailUnknown), err: serr}
		}
		return err
	case err != nil:
	case made.Empty:
		err = &failed{
			failure: dreamcore.Failure{Code: dreamcore.FailNoGame},
			err:     errors.New("the agent ended well, and the project has no file"),
		}
	case j.summary.FilesChanged == 0:
		j.tell(dreamcore.WarningEvent(unchanged))
	}
	j.tellLeftOut(made.LeftOut)
	return err
}

// checkWritten reports a disk of the user that has failed while the agent
// worked: its programs may have been told that something is written which is
// lost, so the job is no success, and no failure of the agent's either.
func (j *job) checkWritten(project *volume.Project, err error) error {
	werr := j.service.parts.Volumes.CheckWritable(project)
	if !errors.Is(werr, disk.ErrFailed) {
		return err
	}
	return &failed{failure: dreamcore.Failure{Code: dreamcore.FailDisk}, err: errors.Join(werr, err)}
}

// record makes a version where something has changed since the newest one.
func (j *job) record(ctx context.Context, project *volume.Project) (history.Recorded, error) {
	ctx = context.WithoutCancel(ctx) // Record bounds its own time
	made, err := j.service.parts.History.Record(ctx, j.request.User, j.request.Project, project.Root(), j.versionName(), time.Now())
	if err != nil || made.Hash == "" {
		return made, err
	}
	j.summary.GitCommit = history.Short(made.Hash)
	j.summary.FilesChanged += made.Files
	if made.Changed {
		j.tell(dreamcore.LogEvent("Git commit created: "+history.Short(made.Hash), "info"))
		ctx, cancel := context.WithTimeout(ctx, pruneLimit)
		defer cancel()
		if _, err := j.service.parts.History.Prune(ctx, j.request.User, j.request.Project); err != nil {
			j.log.Error("remove old versions", "error", err)
		}
	}
	return made, nil
}
