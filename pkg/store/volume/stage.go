package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
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

	store         *Store
	user, project string
	top           *os.Root // of the user
	close         func()
}

// Stage begins a new state of a project, which is made if it is missing, and
// removes the residue of a crash. The caller must hold the Lock of the project
// and Close the Stage.
func (s *Store) Stage(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (*Stage, error) {
	p, err := s.Project(user, project) // corrects its owner, too
	if err != nil {
		return nil, err
	}
	g := &Stage{Current: p.root, store: s, user: string(user), project: string(project), close: func() { _ = p.Close() }}
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
	if err := g.store.markChange(g.user, g.project); err != nil {
		return err
	}
	staging, err := tree.MakeDirs(g.top, stagingDir)
	if err != nil {
		return err
	}
	defer staging.Close()
	if err := clearStaging(staging, g.project); err != nil {
		return err
	}
	g.Next, err = g.store.makeOwned(staging, g.project, sharedMode)
	return err
}

// Close removes the state that is not the project's: the new one, or the old one
// after Exchange.
func (g *Stage) Close() {
	if err := g.remove(); err != nil {
		g.store.log.Warn("remove the unused state of a changed project", "user", g.user, "project", g.project, "error", err)
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
	errs = append(errs, tree.RemoveAll(staging, g.project), staging.Close())
	if err := errors.Join(errs...); err != nil {
		return err // the mark stays, for the next change or start of the service
	}
	return g.store.unmarkChange(g.user, g.project)
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
	swap := func() error {
		return unix.Renameat2(int(staging.Fd()), g.project, int(projects.Fd()), g.project, unix.RENAME_EXCHANGE)
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
	if err := s.markChange(string(user), string(project)); err != nil {
		return nil, tree.DiskError("prepare the change", err)
	}
	return func() error { return s.unmarkChange(string(user), string(project)) }, nil
}

func (s *Store) markChange(user, project string) error {
	data, err := s.OpenVolume(Data)
	if err != nil {
		return err
	}
	defer data.Close()
	dir, err := tree.MakeDirs(data, changesDir)
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
	data, err := s.OpenVolume(Data)
	if err != nil {
		return err
	}
	defer data.Close()
	return tree.IgnoreMissing(data.Remove(changesDir + "/" + user + "." + project))
}

// Unfinished is a change of a project that is running, or that a crash ended.
type Unfinished struct {
	User    dreamcore.UserID
	Project dreamcore.ProjectID
}

// Unfinished lists the changes that have not finished.
func (s *Store) Unfinished() ([]Unfinished, error) {
	data, err := s.OpenVolume(Data)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer data.Close()
	entries, err := fs.ReadDir(data.FS(), changesDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, tree.DiskError("list the unfinished changes", err)
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

// RemoveResidue removes the residue of a change that a crash ended. The project
// is in the state before the change or in the one after it. The caller must hold
// its Lock.
func (s *Store) RemoveResidue(ctx context.Context, u Unfinished) error {
	top, release, err := s.openUser(ctx, u.User, false)
	if errors.Is(err, fs.ErrNotExist) {
		return s.unmarkChange(string(u.User), string(u.Project)) // the user's disk does not exist yet
	}
	if err != nil {
		return s.UserError("open the project", err)
	}
	defer release()
	defer top.Close()
	staging, err := tree.OpenDir(top, stagingDir)
	if err == nil {
		err = errors.Join(clearStaging(staging, string(u.Project)), staging.Close())
	}
	if tree.IgnoreMissing(err) != nil {
		return s.UserError("remove the residue of a change", err)
	}
	return s.unmarkChange(string(u.User), string(u.Project))
}

// clearStaging removes the residue of changes of a project.
func clearStaging(staging *os.Root, project string) error {
	if err := tree.RemoveAll(staging, project); err != nil {
		return err
	}
	return tree.RemoveMoved(staging)
}
