package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func onlyRemoves(changes []Change) bool {
	return !slices.ContainsFunc(changes, func(c Change) bool { return c.Write != nil })
}

// removeInPlace is apply where the disk of the user is so full that there is no
// room for the directories of a new state: else nobody could make room. Whoever
// reads meanwhile, or comes after a crash, may see some of the files. What
// cannot be removed is found before the first one is.
func (s *Store) removeInPlace(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, changes []Change, check, made func(*os.Root) error) (sizes []int64, err error) {
	paths, err := checkChanges(changes)
	if err != nil {
		return nil, err
	}
	p, err := s.Find(user, project)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := s.markChange(string(user), string(project)); err != nil {
		return nil, diskError("prepare the change", err)
	}
	a := &apply{ctx: ctx, store: s, fresh: p.root}
	for _, name := range paths {
		if err = a.removable(name); err != nil {
			break
		}
	}
	for i := 0; err == nil && i < len(paths); i++ {
		_, err = a.change(paths[i], nil)
	}
	if err != nil {
		return nil, errors.Join(s.applyError(err), s.unmarkChange(string(user), string(project)))
	}
	for _, f := range []func(*os.Root) error{check, made} {
		if f == nil {
			continue
		}
		if err := f(p.root); err != nil {
			return nil, err
		}
	}
	return make([]int64, len(changes)), s.unmarkChange(string(user), string(project))
}

// removable tells whether change would remove name, or finds it gone.
func (a *apply) removable(name string) error {
	dir, err := a.parent(path.Dir(name), false)
	if err == nil {
		defer dir.Close()
		var info fs.FileInfo
		if info, err = dir.Lstat(path.Base(name)); err == nil && info.IsDir() {
			return badPath(name)
		}
	}
	return a.pathError(name, ignoreMissing(err))
}
