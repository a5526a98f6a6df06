package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

const (
	disksDir   = ".disks"
	homesInDir = "homes" // below the directory of a user with a disk of its own
)

// openLimit is the time that a project or home may take to open. With a disk
// limit, the first time moves the user's existing files into the file system.
const openLimit = 10 * time.Minute

// User holds the directories of one user, to be mounted into a sandbox that
// serves all of the user's projects.
type User struct {
	projects, homes string
	release         func()
}

// User opens the directories of a user and makes them if they are missing. They
// belong to the service, so that no sandbox can make a project or a home. Project
// and Home make those, before or while a sandbox runs, which sees them at once.
// CodeNotFound: there is no data volume; CodeTooLarge: the user's existing files
// exceed the disk limit. The caller must Close the User when the sandbox has
// ended.
func (s *Store) User(ctx context.Context, user dreamcore.UserID) (*User, error) {
	top, release, err := s.openUser(ctx, user, true)
	if err != nil {
		return nil, s.UserError("prepare the directories of the user", err)
	}
	u, err := s.shareUser(top, user)
	if err = errors.Join(err, top.Close()); err != nil {
		release()
		return nil, s.UserError("prepare the directories of the user", err)
	}
	u.release = release
	return u, nil
}

// shareUser makes the directories readable for the sandbox's user, who cannot
// change anything in them.
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
		// The notes of conversations are there too, but only the service can read them.
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
	dir, err := tree.MakeDirs(parent, name)
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
// agent's homes, one for each project.
func (u *User) HomesPath() string { return u.homes }

// Close releases the user's file system. It may be called more than once.
func (u *User) Close() error {
	u.release()
	return nil
}

// Users returns the users that have or had projects, sorted, without those that are
// being erased.
func (s *Store) Users() ([]dreamcore.UserID, error) {
	data, err := s.OpenVolume(Data)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	erasing, err := s.Erasing()
	if err != nil {
		return nil, err
	}
	erased := map[dreamcore.UserID]bool{}
	for _, e := range erasing {
		erased[e.User] = erased[e.User] || e.Project == ""
	}
	var users []dreamcore.UserID
	for dir, extension := range map[string]string{usersDir: "", disksDir: ".ext4"} {
		entries, err := fs.ReadDir(data.FS(), dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, tree.DiskError("list the users", err)
		}
		for _, e := range entries {
			name, ok := strings.CutSuffix(e.Name(), extension)
			if id, err := dreamcore.ParseUserID(name); ok && err == nil && string(id) == name && !erased[id] {
				users = append(users, id)
			}
		}
	}
	slices.Sort(users)
	return slices.Compact(users), nil
}

// Projects returns the projects of a user, sorted. An unknown user has none.
func (s *Store) Projects(ctx context.Context, user dreamcore.UserID) ([]dreamcore.ProjectID, error) {
	top, release, err := s.openUser(ctx, user, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, s.UserError("list the projects", err)
	}
	defer release()
	defer top.Close()
	entries, err := fs.ReadDir(top.FS(), projectsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, s.UserError("list the projects", err)
	}
	var projects []dreamcore.ProjectID
	for _, e := range entries {
		id, err := dreamcore.ParseProjectID(e.Name())
		if err != nil || string(id) != e.Name() || !e.IsDir() {
			continue
		}
		erasing, err := s.isErasing(user, id)
		if err != nil {
			return nil, err
		}
		if !erasing {
			projects = append(projects, id)
		}
	}
	return projects, nil
}

// CheckFree returns CodeSetup if the disk has less free space than
// Options.MinFreeBytes.
func (s *Store) CheckFree() error { return s.CheckFreeFor(0) }

// CheckFreeFor is CheckFree for a disk that will have so many bytes more.
func (s *Store) CheckFreeFor(bytes int64) error {
	return disk.CheckFree(s.volumes.Name(), s.opts.MinFreeBytes+bytes, s.opts.Ballast)
}

// SweepDisks unmounts the file systems that earlier processes left mounted; it is
// for the start of a service. Without a disk limit it does nothing.
func (s *Store) SweepDisks(ctx context.Context) error {
	if s.disks == nil {
		return nil
	}
	return s.disks.Sweep(ctx)
}

// DiskSize returns the size in bytes of the file system of a user; 0 if there is none.
func (s *Store) DiskSize(user dreamcore.UserID) (int64, error) {
	if s.disks == nil {
		return 0, nil
	}
	size, err := s.disks.Size(string(user))
	if err != nil {
		return 0, s.UserError("look at the disk of the user", err)
	}
	return size, nil
}

// KeepDisksAhead makes the file systems of new users ahead of need, until Close. Only
// the service may call it. Without a disk limit it does nothing.
func (s *Store) KeepDisksAhead() error {
	if s.disks == nil {
		return nil
	}
	return s.disks.KeepBlanks()
}

// diskOptions returns the options of the file systems of users.
func (s *Store) diskOptions() disk.Options {
	data := filepath.Join(s.volumes.Name(), Data)
	users := filepath.Join(data, usersDir)
	return disk.Options{
		Images: filepath.Join(data, disksDir), Mounts: users,
		Bytes: s.opts.DiskBytes, UID: os.Geteuid(), GID: os.Getegid(),
		Idle: s.opts.DiskIdle, Logger: s.opts.Logger, Ballast: s.opts.Ballast,
		Plain: func(user string) []disk.Tree {
			return []disk.Tree{
				{Path: filepath.Join(users, user)},
				{Path: filepath.Join(s.homes.Name(), user), Into: homesInDir, Dirs: true}, // the notes stay
			}
		},
	}
}

// openUser opens the directory of a user, which is a mounted file system with a
// disk limit. It makes a missing directory if create is set, and returns
// fs.ErrNotExist otherwise. A user that is being erased has none, and cannot get
// one. The caller must close root and then call release.
func (s *Store) openUser(ctx context.Context, user dreamcore.UserID, create bool) (root *os.Root, release func(), err error) {
	leave, err := s.enter(ctx, user, "", create)
	if dreamcore.ReasonOf(err) == ReasonErasing && !create {
		return nil, nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	return s.openTop(ctx, user, create)
}

// openTop is openUser for a user that may be erased meanwhile.
func (s *Store) openTop(ctx context.Context, user dreamcore.UserID, create bool) (root *os.Root, release func(), err error) {
	data, err := s.OpenVolume(Data)
	if err != nil {
		return nil, nil, err
	}
	defer data.Close()
	release, err = s.mountUser(ctx, user, create)
	if err != nil {
		return nil, nil, err
	}
	if create {
		root, err = tree.MakeDirs(data, usersDir+"/"+string(user))
	} else {
		root, err = tree.OpenDirs(data, usersDir+"/"+string(user))
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return root, release, nil
}

// openInUser opens a directory in that of a user with open, and makes the user's
// directory if create is set. The caller must close root and then call release.
func (s *Store) openInUser(ctx context.Context, user dreamcore.UserID, create bool, open func(top *os.Root) (*os.Root, error)) (root *os.Root, release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	top, release, err := s.openUser(ctx, user, create)
	if err != nil {
		return nil, nil, err
	}
	root, err = open(top)
	err = errors.Join(err, top.Close())
	if err != nil {
		release() // after every descriptor in the file system is closed
		return nil, nil, err
	}
	return root, release, nil
}

func (s *Store) mountUser(ctx context.Context, user dreamcore.UserID, create bool) (release func(), err error) {
	if s.disks == nil {
		return func() {}, s.checkUnlimited(user)
	}
	if !create {
		_, release, err = s.disks.Find(ctx, string(user))
		if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
			return nil, fs.ErrNotExist
		}
		return release, err
	}
	if err := s.makeUsers(); err != nil {
		return nil, err
	}
	_, release, err = s.disks.Acquire(ctx, string(user))
	return release, err
}

// checkUnlimited refuses a user whose files are in a file system that is not
// mounted: the plain directory is empty.
func (s *Store) checkUnlimited(user dreamcore.UserID) error {
	limited, err := disk.Exists(filepath.Join(s.volumes.Name(), Data, disksDir), string(user))
	if err != nil || !limited {
		return err
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Message: "the files of the user are on a disk of a fixed size, and such disks are turned off",
		Hint: "set disk_mib to its earlier value, such as 2048",
	}
}

// UserError is tree.DiskError for the files of a user: with a disk limit, it is
// the disk of the user that is full.
func (s *Store) UserError(action string, err error) error {
	if s.disks != nil && errors.Is(err, syscall.ENOSPC) && dreamcore.CodeOf(err) == dreamcore.CodeInternal {
		return &dreamcore.Error{
			Code: dreamcore.CodeTooLarge, Message: "cannot " + action + ": the disk of the user is full",
			Hint: "remove files of the user's projects, or increase disk_mib", Err: err,
		}
	}
	if e, ok := errors.AsType[*dreamcore.Error](err); ok {
		return &dreamcore.Error{Code: e.Code, Message: "cannot " + action, Hint: e.Hint, Err: err}
	}
	return tree.DiskError(action, err)
}

// opened is an open directory of a user, whose file system is in use until Close.
type opened struct {
	root    *os.Root
	release func()
	once    sync.Once
	err     error
}

// Path returns the absolute path of the directory on the host, to be mounted.
func (o *opened) Path() string { return filepath.Clean(o.root.Name()) }

// Root returns the directory, which Close closes.
func (o *opened) Root() *os.Root { return o.root }

// Close closes the directory; its files stay. It may be called more than once.
func (o *opened) Close() error {
	o.once.Do(func() {
		o.err = o.root.Close()
		o.release()
	})
	return o.err
}
