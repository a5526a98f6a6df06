package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// stagingDir is beside the projects of a user: in their file system, and where
// no sandbox sees it.
const stagingDir = "staging"

// changesDir is in the data volume. It has an empty file U.P for each project
// that is being changed, so that what a crash left is found without mounting
// the file system of every user. A power cut may take the file: then the next
// change of the project removes what is left.
const changesDir = ".changes"

func (s *Store) markChange(user, project string) error {
	data, err := s.volume(Data)
	if err != nil {
		return err
	}
	defer data.Close()
	dir, err := makeDirs(data, changesDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	f, err := dir.OpenFile(user+"."+project, os.O_WRONLY|os.O_CREATE, fileMode)
	if err != nil {
		return err
	}
	return f.Close()
}

func (s *Store) unmarkChange(user, project string) error {
	data, err := s.volume(Data)
	if err != nil {
		return err
	}
	defer data.Close()
	return ignoreMissing(data.Remove(changesDir + "/" + user + "." + project))
}

// Unfinished is a change of a project that runs, or whose maker has died.
type Unfinished struct {
	User    dreamcore.UserID
	Project dreamcore.ProjectID
}

// Unfinished lists the changes that have not ended, by Apply or Replace.
func (s *Store) Unfinished() ([]Unfinished, error) {
	data, err := s.volume(Data)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer data.Close()
	entries, err := fs.ReadDir(data.FS(), changesDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, diskError("list the changes that have not ended", err)
	}
	var all []Unfinished
	for _, e := range entries {
		first, second, _ := strings.Cut(e.Name(), ".")
		user, err := dreamcore.ParseUserID(first)
		project, err2 := dreamcore.ParseProjectID(second)
		if err == nil && err2 == nil {
			all = append(all, Unfinished{user, project})
		}
	}
	return all, nil
}

// Settle removes what a change left that was ended by a crash. The project is
// as it was before the change, or as it is to be after it. The caller holds its
// Lock.
func (s *Store) Settle(ctx context.Context, u Unfinished) error {
	top, release, err := s.openUser(ctx, u.User, false)
	if errors.Is(err, fs.ErrNotExist) {
		return s.unmarkChange(string(u.User), string(u.Project)) // his disk was not even made
	}
	if err != nil {
		return s.userError("open the project", err)
	}
	defer release()
	defer top.Close()
	staging, err := openDir(top, stagingDir)
	if err == nil {
		err = errors.Join(clearStaging(staging, string(u.Project)), staging.Close())
	}
	if ignoreMissing(err) != nil {
		return s.userError("remove what a change has left", err)
	}
	return s.unmarkChange(string(u.User), string(u.Project))
}

// clearStaging removes what a crash left of changes of a project, and what had
// been taken out of the depth of one.
func clearStaging(staging *os.Root, name string) error {
	if err := removeTree(staging, name); err != nil {
		return err
	}
	entries, err := fs.ReadDir(staging.FS(), ".")
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), removedPrefix) {
			errs = append(errs, removeTree(staging, e.Name()))
		}
	}
	return errors.Join(errs...)
}
