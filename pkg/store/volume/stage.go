package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// stagingDir is next to the projects of a user: in the same file system, and
// where no sandbox sees it.
const stagingDir = "staging"

// changesDir is in the data volume. It has an empty file U.P for each project
// that is being changed, so that the residue of a crash is found without
// mounting the file system of every user. A power failure may lose the file:
// then the next change of the project removes the residue.
const changesDir = ".changes"

// Stage is a new state of a project. It is built next to the project, where no
// sandbox sees it, and replaces the current state in one rename.
type Stage struct {
	Current *os.Root // the project as it is
	Next    *os.Root // the new state; empty at first, owned by the sandbox's user

	store  *Store
	change Unfinished
	top    *os.Root // of the user
	close  func()
}

// Stage begins a new state of a project, which is made if it is missing, and
// removes the residue of a crash. The caller must hold the Lock of the project
// and Close the Stage.
func (s *Store) Stage(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (*Stage, error) {
	p, err := s.Project(user, project) // corrects its owner, too
	if err != nil {
		return nil, err
	}
	g := &Stage{Current: p.root, store: s, change: Unfinished{user, project}, close: func() { _ = p.Close() }}
	if err := hideSkills(p.root, false); err != nil { // left by a job that was killed
		g.close()
		return nil, err
	}
	top, release, err := s.openUser(ctx, user, true)
	if err != nil {
		g.close()
		return nil, s.UserError("open the project", err)
	}
	g.top, g.close = top, func() {
		_ = top.Close()
		release()
		_ = p.Close()
	}
	if err := g.begin(); err != nil {
		err = errors.Join(err, g.remove())
		g.close()
		return nil, s.UserError("prepare the change", err)
	}
	return g, nil
}

// begin makes an empty directory for the new state.
func (g *Stage) begin() error {
	if err := g.store.mark(g.change); err != nil {
		return err
	}
	staging, err := tree.MakeDirs(g.top, stagingDir)
	if err != nil {
		return err
	}
	defer staging.Close()
	if err := clearStaging(staging, g.change.Project); err != nil {
		return err
	}
	g.Next, err = g.store.makeOwned(staging, string(g.change.Project), sharedMode)
	return err
}

// Close removes the state that is not the project's: the new one, or the old one
// after Exchange.
func (g *Stage) Close() {
	if err := g.remove(); err != nil {
		g.store.log.Warn("remove the unused state of a changed project", "user", string(g.change.User), "project", string(g.change.Project), "error", err)
	}
	g.close()
}

func (g *Stage) remove() error {
	var errs []error
	if g.Next != nil {
		errs = append(errs, g.Next.Close())
	}
	staging, err := tree.OpenDir(g.top, stagingDir)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs, tree.RemoveAll(staging, string(g.change.Project)), staging.Close())
	if err := errors.Join(errs...); err != nil {
		return err // the mark stays, for the next change or start of the service
	}
	return g.store.unmark(g.change)
}

// Flush writes the new state to disk, all files at once.
func (g *Stage) Flush() error {
	d, err := g.Next.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd()))), d.Close())
}

// Exchange swaps the new state with the current one, which is then in the
// staging directory; a second call swaps them back. After an error nothing is
// swapped.
func (g *Stage) Exchange() error {
	projects, err := g.top.Open(projectsDir)
	if err != nil {
		return err
	}
	defer projects.Close()
	staging, err := g.top.Open(stagingDir)
	if err != nil {
		return err
	}
	defer staging.Close()
	name := string(g.change.Project)
	swap := func() error {
		return unix.Renameat2(int(staging.Fd()), name, int(projects.Fd()), name, unix.RENAME_EXCHANGE)
	}
	err = swap()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the file system cannot exchange two directories", Err: err,
			Hint: "put the state directory on ext4, XFS, Btrfs or tmpfs, or set disk_mib, which makes an ext4 for each user",
		}
	}
	if err != nil {
		return os.NewSyscallError("renameat2", err)
	}
	if err := errors.Join(projects.Sync(), staging.Sync()); err != nil {
		return errors.Join(err, os.NewSyscallError("renameat2", swap()))
	}
	return nil
}

// MarkChange marks a project as being changed in place, without a Stage, until
// unmark is called. If the process ends before that, Unfinished returns the
// project.
func (s *Store) MarkChange(user dreamcore.UserID, project dreamcore.ProjectID) (unmark func() error, err error) {
	leave, err := s.enter(context.Background(), user, project, true)
	if err != nil {
		return nil, err
	}
	defer leave()
	u := Unfinished{user, project}
	if err := s.mark(u); err != nil {
		return nil, tree.DiskError("prepare the change", err)
	}
	return func() error { return s.unmark(u) }, nil
}

func (s *Store) mark(u Unfinished) error {
	dir, err := s.makeInData(changesDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	f, err := dir.OpenFile(u.name(), os.O_WRONLY|os.O_CREATE, fileMode)
	if err != nil {
		return err
	}
	return f.Close()
}

func (s *Store) unmark(u Unfinished) error {
	data, err := s.OpenVolume(Data)
	if err != nil {
		return err
	}
	defer data.Close()
	return tree.IgnoreMissing(data.Remove(changesDir + "/" + u.name()))
}

// Unfinished is a change of a project that is running, or that a crash ended.
type Unfinished struct {
	User    dreamcore.UserID
	Project dreamcore.ProjectID
}

// name is the name of the file that marks the project.
func (u Unfinished) name() string { return string(u.User) + "." + string(u.Project) }

// Unfinished lists the changes that have not finished.
func (s *Store) Unfinished() ([]Unfinished, error) {
	all, err := s.marked(changesDir, "list the unfinished changes")
	return slices.DeleteFunc(all, func(u Unfinished) bool { return u.Project == "" }), err
}

// marked lists what the names of files in a directory of the data volume stand for: a
// project, or with "" as its Project a user.
func (s *Store) marked(dir, action string) (all []Unfinished, err error) {
	data, err := s.OpenVolume(Data)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer data.Close()
	entries, err := fs.ReadDir(data.FS(), dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, tree.DiskError(action, err)
	}
	for _, e := range entries {
		first, second, ofProject := strings.Cut(e.Name(), ".")
		user, err := dreamcore.ParseUserID(first)
		if err != nil {
			continue // a temporary file
		}
		u := Unfinished{User: user}
		if ofProject {
			if u.Project, err = dreamcore.ParseProjectID(second); err != nil {
				continue
			}
		}
		all = append(all, u)
	}
	return all, nil
}

// RemoveResidue removes the residue of a change that a crash ended. The project
// is in the state before the change or in the one after it. The caller must hold
// its Lock.
func (s *Store) RemoveResidue(ctx context.Context, u Unfinished) error {
	top, release, err := s.openUser(ctx, u.User, false)
	if errors.Is(err, fs.ErrNotExist) {
		return s.unmark(u) // the user's disk does not exist yet
	}
	if err != nil {
		return s.UserError("open the project", err)
	}
	defer release()
	defer top.Close()
	staging, err := tree.OpenDir(top, stagingDir)
	if err == nil {
		err = errors.Join(clearStaging(staging, u.Project), staging.Close())
	}
	if tree.IgnoreMissing(err) != nil {
		return s.UserError("remove the residue of a change", err)
	}
	return s.unmark(u)
}

// clearStaging removes the residue of changes of a project.
func clearStaging(staging *os.Root, project dreamcore.ProjectID) error {
	if err := tree.RemoveAll(staging, string(project)); err != nil {
		return err
	}
	return tree.RemoveMoved(staging)
}
