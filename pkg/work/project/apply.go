package project

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// Change is a new content of one file of a project, or its removal.
type Change struct {
	Path string // relative to the project, with slashes
	// Write writes the new content; it may be called twice. nil removes the file,
	// which need not exist.
	Write func(io.Writer) error
}

// Text returns a Change.Write that writes a string.
func Text(text string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

// hook is called with the root of a new state of a project.
type hook func(*os.Root) error

func noHook(*os.Root) error { return nil }

// apply makes all changes of a project or none: readers, sandboxes and the next
// start after a crash see either the old state or the new one, never a mix. It
// returns the sizes of the files, 0 for a removed one. It makes a missing
// project. The caller must hold the Lock of the project. The errors are those of
// Editor.Apply.
//
// The new state is built next to the project, from hard links to everything that
// does not change, and replaces the project in one rename. Before the rename,
// check sees it, and an error of check ends the attempt. After the rename, commit
// sees it, and an error of commit puts the old state back; readers in between
// have seen the new one. So what commit records is always a state that the
// project had. A file that a job in another project of the same user writes into
// this one at that very moment may be lost.
func apply(ctx context.Context, volumes *volume.Store, user dreamcore.UserID, project dreamcore.ProjectID, changes []Change, check, commit hook) (sizes []int64, err error) {
	paths, err := checkChanges(changes)
	if err != nil {
		return nil, err
	}
	defer volumes.BeginChange(user)()
	a := &attempt{ctx: ctx, volumes: volumes, user: user, project: project, paths: paths, changes: changes, check: check, commit: commit}
	sizes, err = a.replace()
	full := func() bool {
		return errors.Is(err, syscall.ENOSPC) && dreamcore.CodeOf(err) == dreamcore.CodeTooLarge
	}
	if full() {
		if restore := volumes.FreeReserves(user); restore != nil {
			defer restore()
			sizes, err = a.replace()
		}
	}
	onlyRemoves := !slices.ContainsFunc(changes, func(c Change) bool { return c.Write != nil })
	if full() && onlyRemoves {
		return a.removeInPlace()
	}
	return sizes, err
}

// checkChanges returns the clean paths of changes.
func checkChanges(changes []Change) ([]string, error) {
	paths := make([]string, len(changes))
	seen := make(map[string]bool, len(changes))
	for i, c := range changes {
		if history.Reserved(c.Path) {
			return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid file path: Git reserves the name", Hint: "give the file another name: it could not be saved in a version"}
		}
		clean, err := tree.CleanPath(c.Path)
		if err != nil || strings.HasSuffix(c.Path, "/") || seen[clean] {
			return nil, tree.BadPath(c.Path)
		}
		seen[clean] = true
		paths[i] = clean
	}
	return paths, nil
}

// attempt is one attempt to change a project.
type attempt struct {
	ctx           context.Context
	volumes       *volume.Store
	user          dreamcore.UserID
	project       dreamcore.ProjectID
	paths         []string // of changes, clean
	changes       []Change
	check, commit hook

	root *os.Root // that is changed
}

// replace builds a new state and puts it in the place of the current one.
func (a *attempt) replace() (sizes []int64, err error) {
	stage, err := a.volumes.Stage(a.ctx, a.user, a.project)
	if err != nil {
		return nil, err
	}
	defer stage.Close()
	a.root = stage.Next
	before, err := tree.Link(a.ctx, stage.Current, stage.Next)
	if err != nil {
		return nil, changeError(a.volumes, err)
	}
	grown := before
	for i, c := range a.changes {
		size, err := a.change(a.paths[i], c.Write)
		if err != nil {
			return nil, changeError(a.volumes, err)
		}
		sizes = append(sizes, size)
		grown.Bytes += size
		grown.Files += 1 + strings.Count(a.paths[i], "/")
	}
	if err := a.checkGrown(before, grown); err != nil {
		return nil, changeError(a.volumes, err)
	}
	if err := a.check(stage.Next); err != nil {
		return nil, err
	}
	if err := stage.Exchange(); err != nil {
		return nil, a.volumes.UserError("put the change in place", err)
	}
	if err := a.commit(stage.Next); err != nil {
		return nil, errors.Join(err, stage.Exchange())
	}
	return sizes, nil
}

// checkGrown refuses a new state that exceeds a limit of projects and is larger
// than the old one: a change that shrinks a project is always allowed. grown is
// an upper bound of the new state, which is measured only if it matters.
func (a *attempt) checkGrown(before, grown tree.Usage) error {
	if a.volumes.FitsProject(grown) {
		return nil
	}
	var after tree.Usage
	if err := after.Measure(a.ctx, a.root); err != nil {
		return err
	}
	if a.volumes.FitsProject(after) || after.Bytes <= before.Bytes && after.Files <= before.Files {
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeTooLarge, Message: "the project would be larger than a project may be",
		Hint: "remove files of it, or increase project_mib or project_files",
	}
}

// changeError keeps a dreamcore.Error as it is.
func changeError(volumes *volume.Store, err error) error {
	if e, ok := errors.AsType[*dreamcore.Error](err); ok {
		return e
	}
	return volumes.UserError("change the project", err)
}

// change makes one change below root.
func (a *attempt) change(name string, write func(io.Writer) error) (size int64, err error) {
	if err := a.ctx.Err(); err != nil {
		return 0, err
	}
	dir, err := a.parent(name, write != nil)
	if write == nil && errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, tree.PathError(name, err)
	}
	defer dir.Close()
	base := path.Base(name)
	before, err := dir.Lstat(base)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return 0, tree.PathError(name, err)
	case err == nil && before.IsDir():
		return 0, tree.BadPath(name)
	case write == nil && err != nil:
		return 0, nil
	case write == nil:
		return 0, dir.Remove(base)
	}
	mode := fs.FileMode(0o644)
	if err == nil && before.Mode().IsRegular() && before.Mode()&0o100 != 0 {
		mode = 0o755
	}
	owner := a.volumes.Owner()
	err = tree.ReplaceFile(dir, base, 0o600, func(f *os.File) error {
		if err := write(f); err != nil {
			return err
		}
		if size, err = f.Seek(0, io.SeekCurrent); err != nil {
			return err
		}
		return errors.Join(f.Chown(owner.UID, owner.GID), f.Chmod(mode), f.Sync())
	})
	return size, tree.PathError(name, err)
}

// parent opens the directory of a file; create makes the missing ones for the
// sandbox's user.
func (a *attempt) parent(name string, create bool) (*os.Root, error) {
	if create {
		return tree.MakeOwnedDirs(a.root, path.Dir(name), a.volumes.Owner())
	}
	return tree.OpenDirs(a.root, path.Dir(name))
}

// removeInPlace removes files from the project itself. It is for a disk that is
// too full for the directories of a new state: without it, no client could free
// space. Readers meanwhile, and the next start after a crash, may see some of the
// files. Before it removes the first file it checks that all can be removed.
func (a *attempt) removeInPlace() (sizes []int64, err error) {
	p, err := a.volumes.Find(a.user, a.project)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	unmark, err := a.volumes.MarkChange(a.user, a.project)
	if err != nil {
		return nil, err
	}
	a.root = p.Root()
	for _, name := range a.paths {
		if err = a.checkRemovable(name); err != nil {
			break
		}
	}
	for i := 0; err == nil && i < len(a.paths); i++ {
		_, err = a.change(a.paths[i], nil)
	}
	if err != nil {
		return nil, errors.Join(changeError(a.volumes, err), unmark())
	}
	for _, h := range []hook{a.check, a.commit} {
		if err := h(a.root); err != nil {
			return nil, err
		}
	}
	return make([]int64, len(a.paths)), unmark()
}

// checkRemovable returns an error if change cannot remove name; a missing file
// is fine.
func (a *attempt) checkRemovable(name string) error {
	dir, err := a.parent(name, false)
	if err == nil {
		defer dir.Close()
		var info fs.FileInfo
		if info, err = dir.Lstat(path.Base(name)); err == nil && info.IsDir() {
			return tree.BadPath(name)
		}
	}
	return tree.PathError(name, tree.IgnoreMissing(err))
}
