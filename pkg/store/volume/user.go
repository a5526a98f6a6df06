package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
)

const (
	disksDir   = ".disks"
	homesInDir = "homes" // below the directory of a bounded user
)

// openLimit bounds how long a project or home may take to open: with a bound,
// the first time moves into the file system what the user had before.
const openLimit = 10 * time.Minute

// User is what one user has, to be mounted into a sandbox that serves all of
// his projects.
type User struct {
	projects, homes string
	release         func()
}

// User opens the directories of a user and makes them where they are missing.
// Each is ours, so that no sandbox makes a project or a home: make them with
// Project and Home, before or while a sandbox runs, which sees them at once.
// CodeNotFound: there is no data volume; CodeTooLarge: what the user has from
// before does not fit into his bound. The caller must Close the User when the
// sandbox is gone.
func (s *Store) User(ctx context.Context, user dreamcore.UserID) (*User, error) {
	top, release, err := s.openUser(ctx, user, true)
	if err != nil {
		return nil, s.userError("prepare the directories of the user", err)
	}
	u, err := s.shareUser(top, user)
	if err = errors.Join(err, top.Close()); err != nil {
		release()
		return nil, s.userError("prepare the directories of the user", err)
	}
	u.release = release
	return u, nil
}

// shareUser makes the directories such that the sandbox's user passes through
// them, and can change nothing in them.
func (s *Store) shareUser(top *os.Root, user dreamcore.UserID) (*User, error) {
	u := &User{}
	projects, err := makeShared(top, projectsDir)
	if err != nil {
		return nil, err
	}
	defer projects.Close()
	u.projects = filepath.Clean(projects.Name())
	parent, name := top, homesInDir
	if s.disks == nil {
		// The notes about conversations lie there too, but they are ours, 0600.
		parent, name = s.homes, string(user)
	}
	homes, err := makeShared(parent, name)
	if err != nil {
		return nil, err
	}
	defer homes.Close()
	u.homes = filepath.Clean(homes.Name())
	return u, nil
}

func makeShared(parent *os.Root, name string) (*os.Root, error) {
	dir, err := makeDirs(parent, name)
	if err != nil {
		return nil, err
	}
	info, err := dir.Stat(".")
	if err == nil && info.Mode().Perm() != sharedMode {
		err = dir.Chmod(".", sharedMode)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// ProjectsPath returns the absolute path on the host of the directory with the
// user's projects.
func (u *User) ProjectsPath() string { return u.projects }

// HomesPath returns the absolute path on the host of the directory with the
// homes that the agent has, one for each project.
func (u *User) HomesPath() string { return u.homes }

// Close gives the user's file system back. It may be called more than once.
func (u *User) Close() error {
	u.release()
	return nil
}

// CheckFree reports, with CodeSetup, a disk that has less than what is kept free.
func (s *Store) CheckFree() error {
	return disk.CheckFree(s.volumes.Name(), s.opts.MinFreeBytes, s.opts.Ballast)
}

// SweepDisks unmounts what processes that died have left mounted; it is for
// the start of a service. Without a bound it does nothing.
func (s *Store) SweepDisks(ctx context.Context) error {
	if s.disks == nil {
		return nil
	}
	return s.disks.Sweep(ctx)
}

// diskOptions say where the file systems of users are.
func (s *Store) diskOptions() disk.Options {
	data := filepath.Join(s.volumes.Name(), Data)
	users := filepath.Join(data, usersDir)
	homes, _ := filepath.Abs(s.homes.Name()) // it was made absolute when it was opened
	return disk.Options{
		Images: filepath.Join(data, disksDir), Mounts: users,
		Bytes: s.opts.DiskBytes, UID: os.Geteuid(), GID: os.Getegid(),
		Idle: s.opts.DiskIdle, Logger: s.opts.Logger, Ballast: s.opts.Ballast,
		Plain: func(user string) []disk.Tree {
			return []disk.Tree{
				{Path: filepath.Join(users, user)},
				{Path: filepath.Join(homes, user), Into: homesInDir, Dirs: true}, // the notes stay
			}
		},
	}
}

// openUser opens the directory of a user, and the file system that it is. It
// makes what is missing, or is fs.ErrNotExist. The caller must close root, and
// then call release.
func (s *Store) openUser(ctx context.Context, user dreamcore.UserID, create bool) (root *os.Root, release func(), err error) {
	data, err := s.volume(Data)
	if err != nil {
		return nil, nil, err
	}
	defer data.Close()
	release, err = s.mountUser(ctx, data, user, create)
	if err != nil {
		return nil, nil, err
	}
	if create {
		root, err = makeDirs(data, usersDir, string(user))
	} else {
		root, err = openDirs(data, usersDir+"/"+string(user))
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return root, release, nil
}

func (s *Store) mountUser(ctx context.Context, data *os.Root, user dreamcore.UserID, create bool) (release func(), err error) {
	if s.disks == nil {
		return func() {}, s.checkUnbounded(user)
	}
	if !create {
		_, release, err = s.disks.Find(ctx, string(user))
		if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
			return nil, fs.ErrNotExist
		}
		return release, err
	}
	users, err := makeDirs(data, usersDir)
	if err != nil {
		return nil, err
	}
	if err := users.Close(); err != nil {
		return nil, err
	}
	_, release, err = s.disks.Acquire(ctx, string(user))
	return release, err
}

// checkUnbounded refuses to show an empty directory where the user's files
// are in a file system that is not mounted.
func (s *Store) checkUnbounded(user dreamcore.UserID) error {
	bounded, err := disk.Exists(filepath.Join(s.volumes.Name(), Data, disksDir), string(user))
	if err != nil || !bounded {
		return err
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Message: "the files of the user are on a disk of a fixed size, and such disks are turned off",
		Hint: "set disk_mib to what it was, such as 2048",
	}
}

// userError is diskError for what lies in the directory of a user: with a
// bound, it is his disk that is full.
func (s *Store) userError(action string, err error) error {
	if s.disks != nil && errors.Is(err, syscall.ENOSPC) && dreamcore.CodeOf(err) == dreamcore.CodeInternal {
		return &dreamcore.Error{
			Code: dreamcore.CodeTooLarge, Message: "cannot " + action + ": the disk of the user is full",
			Hint: "remove files of his projects, or set disk_mib to more", Err: err,
		}
	}
	if e, ok := errors.AsType[*dreamcore.Error](err); ok {
		return &dreamcore.Error{Code: e.Code, Message: "cannot " + action, Hint: e.Hint, Err: err}
	}
	return diskError(action, err)
}

// closer gives back a file system after the descriptors in it are closed.
type closer struct {
	root    *os.Root
	release func()
	once    sync.Once
	err     error
}

func (c *closer) close() error {
	c.once.Do(func() {
		c.err = c.root.Close()
		c.release()
	})
	return c.err
}
