package volume

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Replace makes a project anew: what fill writes takes the place of all its
// files, or nothing changes. Before that it is shown to check, whose error
// ends the attempt. The project is made where it is missing. The caller holds
// its Lock. The errors are those of Apply, fill and check.
func (s *Store) Replace(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, fill func(*Filler) error, check func(*os.Root) error) error {
	p, err := s.Project(user, project)
	if err != nil {
		return err
	}
	defer p.Close()
	top, release, err := s.openUser(ctx, user, true)
	if err != nil {
		return s.userError("open the project", err)
	}
	defer release()
	defer top.Close()
	a := &apply{ctx: ctx, store: s, user: string(user), name: string(project), top: top, old: p.root}
	if err := a.begin(); err != nil {
		return s.userError("prepare the project", errors.Join(err, a.end()))
	}
	defer func() {
		if e := a.end(); e != nil {
			s.log.Warn("remove what a project has replaced", "user", string(user), "project", string(project), "error", e)
		}
	}()
	f := NewFiller(a.fresh, s.opts.UID, s.opts.GID)
	if err := fill(f); err != nil {
		return s.applyError(err)
	}
	if err := f.Finish(); err != nil {
		return s.applyError(err)
	}
	if err := check(a.fresh); err != nil {
		return err
	}
	if err := a.flush(); err != nil {
		return s.userError("put the project in place", err)
	}
	if err := a.exchange(); err != nil {
		return s.userError("put the project in place", err)
	}
	return nil
}

// flush writes the new state to disk: one flush for all files.
func (a *apply) flush() error {
	d, err := a.fresh.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd()))), d.Close())
}

// Users returns the users who have, or had, projects, sorted.
func (s *Store) Users() ([]dreamcore.UserID, error) {
	data, err := s.volume(Data)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	var users []dreamcore.UserID
	for dir, extension := range map[string]string{usersDir: "", disksDir: ".ext4"} {
		entries, err := fs.ReadDir(data.FS(), dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, diskError("list the users", err)
		}
		for _, e := range entries {
			name, ok := strings.CutSuffix(e.Name(), extension)
			if id, err := dreamcore.ParseUserID(name); ok && err == nil && string(id) == name {
				users = append(users, id)
			}
		}
	}
	slices.Sort(users)
	return slices.Compact(users), nil
}

// Projects returns the projects of a user, sorted. One without any has none.
func (s *Store) Projects(ctx context.Context, user dreamcore.UserID) ([]dreamcore.ProjectID, error) {
	top, release, err := s.openUser(ctx, user, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, s.userError("list the projects", err)
	}
	defer release()
	defer top.Close()
	entries, err := fs.ReadDir(top.FS(), projectsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, s.userError("list the projects", err)
	}
	var projects []dreamcore.ProjectID
	for _, e := range entries {
		if id, err := dreamcore.ParseProjectID(e.Name()); err == nil && string(id) == e.Name() && e.IsDir() {
			projects = append(projects, id)
		}
	}
	return projects, nil
}

// FindHome opens the home of the agent in a project when there is one; else it
// is fs.ErrNotExist. The caller must Close the Home.
func (s *Store) FindHome(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (*Home, error) {
	if s.disks == nil {
		dir, err := openDirs(s.homes, path.Join(string(user), string(project)))
		if err != nil {
			return nil, err
		}
		return s.foundHome(dir, func() {}, user, project), nil
	}
	top, release, err := s.openUser(ctx, user, false)
	if err != nil {
		return nil, err
	}
	dir, err := openDirs(top, path.Join(homesInDir, string(project)))
	if err = errors.Join(err, top.Close()); err != nil {
		release()
		return nil, err
	}
	return s.foundHome(dir, release, user, project), nil
}

func (s *Store) foundHome(root *os.Root, release func(), user dreamcore.UserID, project dreamcore.ProjectID) *Home {
	return &Home{closer: closer{root: root, release: release}, store: s, user: string(user), project: string(project), path: filepath.Clean(root.Name())}
}

// Root returns the home's directory. It belongs to the Home.
func (h *Home) Root() *os.Root { return h.root }

// Fill makes the home anew. The caller holds the Lock of the project.
func (h *Home) Fill(fill func(*Filler) error) error {
	entries, err := fs.ReadDir(h.root.FS(), ".")
	for _, e := range entries {
		err = errors.Join(err, removeTree(h.root, e.Name()))
	}
	if err != nil {
		return diskError("empty the agent's home", err)
	}
	f := NewFiller(h.root, h.store.opts.UID, h.store.opts.GID)
	if err := fill(f); err != nil {
		return err
	}
	return f.Finish()
}

// OpenVolume opens the directory of a volume. The caller must close it.
// CodeNotFound: there is none of that name.
func (s *Store) OpenVolume(name string) (*os.Root, error) { return s.volume(name) }

// OpenDir opens the directory name below root, one path element at a time; a
// link on the way is refused. "." is root once more. The caller must close it.
func OpenDir(root *os.Root, name string) (*os.Root, error) { return openDirs(root, path.Clean(name)) }

// OpenFile opens a regular file below root for reading, like Project.Open.
func OpenFile(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	p := &Project{closer: closer{root: root}}
	return p.Open(name)
}

// Remove removes what lies at name below root, a directory only when all is
// set. CodeNotFound: there is nothing; CodeInvalid: it is a directory, or name
// leaves root or goes through a link.
func Remove(root *os.Root, name string, all bool) error {
	clean, err := cleanPath(name)
	if err != nil {
		return err
	}
	dir, err := openDirs(root, path.Dir(clean))
	if err != nil {
		return fileError(err)
	}
	defer dir.Close()
	info, err := dir.Lstat(path.Base(clean))
	if err != nil {
		return fileError(err)
	}
	if info.IsDir() && !all {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: name + " is a directory", Hint: "remove it with all that is in it: -r"}
	}
	if err := removeTree(dir, path.Base(clean)); err != nil {
		return diskError("remove "+name, err)
	}
	return nil
}

// PutFile writes an entry below root, a directory of the operator's: a file is
// there whole or as it was before, a directory is made. Everybody may read
// them, whatever the umask and the entry say, sandboxes among them, and nobody
// else may write; a program stays one. Links on the way are refused. CodeConflict: it is there, and force is not set; CodeInvalid: the
// path leaves root, goes through a link or names a directory.
func PutFile(ctx context.Context, root *os.Root, e Entry, src io.Reader, force bool) error {
	clean, err := cleanPath(e.Path)
	if err != nil {
		return err
	}
	dir, err := makePublicDirs(root, path.Dir(clean), sharedMode)
	if err != nil {
		return putError(e.Path, err)
	}
	defer dir.Close()
	name := path.Base(clean)
	mode := fs.FileMode(0o644)
	if e.Mode&0o100 != 0 {
		mode = 0o755
	}
	before, err := dir.Lstat(name)
	switch {
	case err == nil && before.IsDir() != e.Mode.IsDir():
		return badPath(e.Path)
	case e.Mode.IsDir() && err == nil:
		return nil
	case e.Mode.IsDir():
		err := dir.Mkdir(name, sharedMode)
		if err == nil {
			err = dir.Chmod(name, sharedMode)
		}
		return putError(e.Path, err)
	case err == nil && !force:
		return &dreamcore.Error{Code: dreamcore.CodeConflict, Message: e.Path + " exists already", Hint: "replace it with --force"}
	}
	temp := ".dreamcore-" + uuid.NewString()
	if e.Mode&fs.ModeSymlink != 0 {
		err = dir.Symlink(e.Link, temp)
	} else {
		err = putContent(ctx, dir, temp, mode, src)
	}
	if err == nil {
		err = dir.Rename(temp, name)
	}
	if err != nil {
		return putError(e.Path, errors.Join(err, ignoreMissing(dir.Remove(temp))))
	}
	return nil
}

func putContent(ctx context.Context, dir *os.Root, name string, mode fs.FileMode, src io.Reader) error {
	f, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	_, err = copyBytes(ctx, f, src, MaxCopyBytes)
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}

func putError(name string, err error) error {
	if err = fillError(name, err); err == nil {
		return nil
	}
	if _, ok := errors.AsType[*dreamcore.Error](err); ok || errors.Is(err, context.Canceled) {
		return err
	}
	return diskError("write "+name, err)
}
