package volume

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

const (
	usersDir    = "users"
	projectsDir = "projects"
)

// Project is the open directory of one project. Its methods are safe for
// concurrent use. Its contents are hostile; see the package comment.
type Project struct {
	opened
	swaps  bool         // a change may replace the directory; see Stage
	erased func() error // returns an error once the project is being erased; may be nil
}

// swapTries limits how often a project is opened again because another directory
// replaced it meanwhile.
const swapTries = 10

// Project opens a project and makes it if it is missing. It corrects an owner or
// mode that a sandbox changed. CodeNotFound: there is no data volume;
// CodeTooLarge: the disk of the user is full, or too small for the user's
// existing files. The caller must Close the Project after everything that it
// opened in it and after the sandboxes that mount it.
func (s *Store) Project(user dreamcore.UserID, project dreamcore.ProjectID) (*Project, error) {
	leave, err := s.enter(context.Background(), user, project, true)
	if err != nil {
		return nil, s.UserError("prepare the project", err)
	}
	defer leave()
	root, release, err := s.openInUser(context.Background(), user, true, func(top *os.Root) (*os.Root, error) {
		return s.makeBelow(top, projectsDir, string(project), sharedMode)
	})
	if err != nil {
		return nil, s.UserError("prepare the project", err)
	}
	return &Project{opened: opened{root: root, release: release}}, nil
}

// makeBelow makes the directory parent/name below top, for the sandbox's user.
func (s *Store) makeBelow(top *os.Root, parent, name string, mode fs.FileMode) (*os.Root, error) {
	dir, err := tree.MakeDirs(top, parent)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return s.makeOwned(dir, name, mode)
}

// Find opens an existing project. CodeNotFound: it does not exist. The caller
// must Close the Project.
func (s *Store) Find(user dreamcore.UserID, project dreamcore.ProjectID) (*Project, error) {
	erased := func() error {
		err := s.CheckErasing(user, project)
		if dreamcore.ReasonOf(err) == ReasonErasing {
			err = fs.ErrNotExist
		}
		return err
	}
	root, release, err := s.openInUser(context.Background(), user, false, func(top *os.Root) (*os.Root, error) {
		if err := erased(); err != nil {
			return nil, err
		}
		return openProject(top, string(project))
	})
	if err != nil {
		return nil, s.findError(err)
	}
	return &Project{opened: opened{root: root, release: release}, swaps: true, erased: func() error {
		if err := erased(); err != nil {
			return s.findError(err)
		}
		return nil
	}}, nil
}

// openProject opens the directory of a project. If the directory differs from
// the one that was looked at, a change replaced it, and it is opened again.
func openProject(top *os.Root, project string) (root *os.Root, err error) {
	for range swapTries {
		root, err = tree.OpenDirs(top, projectsDir+"/"+project)
		if !errors.Is(err, tree.ErrNotPlain) {
			break
		}
	}
	return root, err
}

func (s *Store) findError(err error) error {
	if _, ok := errors.AsType[*dreamcore.Error](err); !ok && errors.Is(err, fs.ErrNotExist) {
		return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Project not found", Hint: "check user_id and project_id", Err: err}
	}
	return s.UserError("open the project", err)
}

// OpenDirectory opens a plain directory, outside of any volume, as a Project.
// The caller must Close it.
func OpenDirectory(path string) (*Project, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, tree.DiskError("open the directory", err)
	}
	return &Project{opened: opened{root: root, release: func() {}}}, nil
}

// replacement opens the directory that has replaced the project's since root was
// opened; it returns nil if root is still the project's. No sandbox can write to
// the parent directory.
func (p *Project) replacement(root *os.Root) *os.Root {
	if !p.swaps {
		return nil
	}
	for range swapTries {
		now, err := os.Lstat(p.Path())
		if err != nil || !now.IsDir() {
			return nil
		}
		if mine, err := root.Stat("."); err == nil && os.SameFile(mine, now) {
			return nil
		}
		next, err := os.OpenRoot(p.Path())
		if err != nil {
			return nil
		}
		if opened, err := next.Stat("."); err == nil && os.SameFile(opened, now) {
			return next
		}
		next.Close()
	}
	return nil
}

// Open opens a regular file of the project for reading. It never waits and
// follows no link. name is relative, with slashes. CodeInvalid: it leaves the
// project; CodeNotFound: there is no regular file of that name. The caller must
// close the file.
func (p *Project) Open(name string) (*os.File, fs.FileInfo, error) {
	f, info, err := tree.OpenFile(p.root, name)
	if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		// A change may have replaced the directory, which is then being removed.
		if next := p.replacement(p.root); next != nil {
			f, info, err = tree.OpenFile(next, name)
			next.Close()
		}
	}
	return f, info, err
}

// Files yields the regular files of the project; see tree.Files.
func (p *Project) Files(ctx context.Context) iter.Seq2[tree.Entry, error] {
	return p.FilesLeftOut(ctx, new(int))
}

// FilesLeftOut is Files and also counts in leftOut what exceeds the limits on
// depth and paths.
func (p *Project) FilesLeftOut(ctx context.Context, leftOut *int) iter.Seq2[tree.Entry, error] {
	if !p.swaps {
		return tree.Files(ctx, p.root, leftOut)
	}
	return func(yield func(tree.Entry, error) bool) {
		all, err := p.list(ctx, leftOut)
		for _, f := range all {
			if !yield(f, nil) {
				return
			}
		}
		if err != nil {
			yield(tree.Entry{}, err)
		}
	}
}

// list returns all files of a project whose directory may be replaced during the
// walk. If that happens, some of the files are gone, and the walk starts again
// in the new directory.
func (p *Project) list(ctx context.Context, leftOut *int) (all []tree.Entry, err error) {
	before := *leftOut
	root := p.replacement(p.root)
	if root == nil {
		if root, err = p.root.OpenRoot("."); err != nil {
			return nil, tree.DiskError("open the project", err)
		}
	}
	defer func() { root.Close() }()
	for range swapTries {
		all, err, *leftOut = nil, nil, before
		for f, failed := range tree.Files(ctx, root, leftOut) {
			if err = failed; err == nil {
				all = append(all, f)
			}
		}
		if ctx.Err() != nil {
			break
		}
		next := p.replacement(root)
		if next == nil {
			break
		}
		root.Close()
		root = next
	}
	if p.erased != nil {
		if gone := p.erased(); gone != nil {
			return nil, gone // part of it may have been removed
		}
	}
	return all, err
}
