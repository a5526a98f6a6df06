package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const (
	usersDir    = "users"
	projectsDir = "projects"
)

// Project is the directory of one project. Its methods are safe for
// concurrent use. What is in it is hostile; see the package's comment.
type Project struct {
	closer
	path  string
	swaps bool // a change may put another directory in its place: see Apply
}

// swapTries bounds how often a project is looked at again because another
// directory has taken its place meanwhile.
const swapTries = 10

// again opens the directory that has taken the project's place since it was
// opened, or returns nil where it is still the same. No sandbox can write to
// the directory that its name is in.
func (p *Project) again() *os.Root {
	if !p.swaps {
		return nil
	}
	for range swapTries {
		now, err := os.Lstat(p.path)
		if err != nil || !now.IsDir() {
			return nil
		}
		if mine, err := p.root.Stat("."); err == nil && os.SameFile(mine, now) {
			return nil
		}
		root, err := os.OpenRoot(p.path)
		if err != nil {
			return nil
		}
		if opened, err := root.Stat("."); err == nil && os.SameFile(opened, now) {
			return root
		}
		root.Close()
	}
	return nil
}

// openProject opens the directory of a project. What is another one between
// the look and the opening was exchanged by a change, and is looked at again.
func openProject(top *os.Root, project string) (root *os.Root, err error) {
	for range swapTries {
		root, err = openDirs(top, projectsDir+"/"+project)
		if !errors.Is(err, errNotPlain) {
			break
		}
	}
	return root, err
}

// Project opens a project and makes it where it is missing. An owner or mode
// that a sandbox changed is put right. CodeNotFound: there is no data volume;
// CodeTooLarge: the disk of the user is full, or what he has from before does
// not fit into it. The caller must Close the Project, after what he opened in
// it and the sandboxes that it is mounted in.
func (s *Store) Project(user dreamcore.UserID, project dreamcore.ProjectID) (*Project, error) {
	ctx, cancel := context.WithTimeout(context.Background(), openLimit)
	defer cancel()
	top, release, err := s.openUser(ctx, user, true)
	if err != nil {
		return nil, s.userError("prepare the projects of the user", err)
	}
	root, err := s.makeBelow(top, projectsDir, string(project), sharedMode)
	if err != nil {
		release()
		return nil, s.userError("prepare the project", err)
	}
	return &Project{closer: closer{root: root, release: release}, path: filepath.Clean(root.Name())}, nil
}

// makeBelow makes the directory parent/name below top, for the sandbox's
// user, and closes top.
func (s *Store) makeBelow(top *os.Root, parent, name string, mode fs.FileMode) (*os.Root, error) {
	defer top.Close()
	dir, err := makeDirs(top, parent)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return s.makeOwned(dir, name, mode)
}

// Find opens a project that is there. CodeNotFound: it is not. The caller must
// Close the Project.
func (s *Store) Find(user dreamcore.UserID, project dreamcore.ProjectID) (*Project, error) {
	ctx, cancel := context.WithTimeout(context.Background(), openLimit)
	defer cancel()
	top, release, err := s.openUser(ctx, user, false)
	if err != nil {
		return nil, s.findError(err)
	}
	root, err := openProject(top, string(project))
	if err = errors.Join(err, top.Close()); err != nil {
		release()
		return nil, s.findError(err)
	}
	return &Project{closer: closer{root: root, release: release}, path: filepath.Clean(root.Name()), swaps: true}, nil
}

// OpenDirectory opens a plain directory, outside of any volume, as a Project.
// The caller must Close it.
func OpenDirectory(path string) (*Project, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, diskError("open the directory", err)
	}
	return &Project{closer: closer{root: root, release: func() {}}, path: filepath.Clean(path)}, nil
}

func (s *Store) findError(err error) error {
	if _, ok := errors.AsType[*dreamcore.Error](err); !ok && errors.Is(err, fs.ErrNotExist) {
		return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Project not found", Hint: "check user_id and project_id", Err: err}
	}
	return s.userError("open the project", err)
}

// Path returns the absolute path of the project on the host, to be mounted.
func (p *Project) Path() string { return p.path }

// Root returns the project's directory. It belongs to the Project.
func (p *Project) Root() *os.Root { return p.root }

// Close closes the Project; its files stay. It may be called more than once.
func (p *Project) Close() error { return p.close() }

// makeDirs opens the directory at the end of names below root, and makes the
// ones that are missing.
func makeDirs(root *os.Root, names ...string) (*os.Root, error) {
	dir, err := root.OpenRoot(".")
	for _, name := range names {
		if err != nil {
			return nil, err
		}
		var next *os.Root
		if err = dir.Mkdir(name, privateMode); err == nil || errors.Is(err, fs.ErrExist) {
			next, err = openDir(dir, name)
		}
		dir.Close()
		dir = next
	}
	return dir, err
}

// makeOwned opens the directory name below parent, which no sandbox can
// write to, makes it where it is missing, and gives it the sandbox's user and
// mode.
func (s *Store) makeOwned(parent *os.Root, name string, mode fs.FileMode) (*os.Root, error) {
	err := parent.Mkdir(name, privateMode)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	info, err := parent.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errNotPlain}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) != s.opts.UID || int(st.Gid) != s.opts.GID {
		if err := parent.Lchown(name, s.opts.UID, s.opts.GID); err != nil {
			return nil, err
		}
	}
	const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if info.Mode()&modeBits != mode {
		if err := parent.Chmod(name, mode); err != nil {
			return nil, err
		}
	}
	return openDir(parent, name)
}
