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

// unchanged is the warning of a job that left every file as it was.
const unchanged = "No file of the project was changed"

// save records a version of the project, also after a failure: nothing that was
// made is lost, and everything can be undone. err is the error of the job so
// far, and save returns the final one: a job whose version is not saved, or
// whose project has no file, has failed.
func (j *job) save(ctx context.Context, project *volume.Project, room *volume.Room, err error) error {
	if err != nil && isSuspended(ctx) {
		return err // the next attempt saves what this one has made
	}
	err = j.checkWritten(project, err)
	room.FreeForHost()
	j.status("Saving the version")
	made, saveErr := j.record(ctx, project, j.versionName())
	switch {
	case saveErr != nil:
		j.log.Error("save the version", "error", saveErr)
		j.emit(dreamcore.LogEvent("The version could not be saved", "error"))
		if err == nil {
			err = &stageError{stage: stageSave, err: saveErr}
		}
		return err
	case err != nil:
	case made.Empty:
		err = &stageError{stage: stageEmpty, err: errors.New("the agent succeeded, and the project has no file")}
	case j.summary.FilesChanged == 0:
		j.emit(dreamcore.WarningEvent(unchanged))
	}
	j.warnLeftOut(made.LeftOut)
	return err
}

// checkWritten returns an error if the user's disk has failed while the agent
// worked. Its programs may have been told that lost data was written, so the job
// has not succeeded, and the failure is not the agent's.
func (j *job) checkWritten(project *volume.Project, err error) error {
	diskErr := j.service.parts.Volumes.CheckWritable(project)
	if !errors.Is(diskErr, disk.ErrFailed) {
		return err
	}
	return &stageError{stage: stageDisk, err: errors.Join(diskErr, err)}
}

// record records a version of that name if anything has changed since the newest
// one, with the result of the last check and its pictures.
func (j *job) record(ctx context.Context, project *volume.Project, name string) (history.Recorded, error) {
	ctx = context.WithoutCancel(ctx) // Record bounds its own time
	made, err := j.service.parts.History.Record(ctx, j.request.User, j.request.Project, project.Root(), history.WithAcceptance(name, j.verdict), time.Now())
	if err != nil || made.Hash == "" {
		return made, err
	}
	j.service.keepShots(ctx, j.request.User, j.request.Project, made.Hash, j.shots)
	j.shots = nil
	j.summary.GitCommit = history.Short(made.Hash)
	j.summary.FilesChanged += made.Files
	if made.Changed {
		j.emit(dreamcore.LogEvent("Git commit created: "+history.Short(made.Hash), "info"))
		ctx, cancel := context.WithTimeout(ctx, pruneLimit)
		defer cancel()
		if _, err := j.service.parts.History.Prune(ctx, j.request.User, j.request.Project); err != nil {
			j.log.Error("remove old versions", "error", err)
		}
	}
	return made, nil
}

// warnLeftOut warns of files that are not in a version.
func (j *job) warnLeftOut(reasons []string) {
	for _, why := range reasons {
		if runes := []rune(why); len(runes) > maxReason {
			why = string(runes[:maxReason-1]) + "…"
		}
		j.emit(dreamcore.WarningEvent("Left out of the version: " + why))
	}
}

// maxReason bounds one reason, in characters: it names a path, which a sandbox
// can make very long.
const maxReason = 500
