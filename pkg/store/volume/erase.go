package volume

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// erasingDir is in the data volume. It has an empty file U or U.P for each user or
// project that is being erased. From then on nothing of it can be opened, so that
// nothing half-erased is ever seen, also after a crash.
const erasingDir = ".erasing"

// usersLock is in the directory of locks. Each user has one byte of it: shared while
// a file of the user is being opened or made, exclusive while an erasure begins. So
// whatever was opened without seeing the erasure was opened before it.
const usersLock = "users.lock"

// ReasonErasing is the reason of the error for a user or project that is being
// erased.
const ReasonErasing dreamcore.Reason = "volume.erasing"

// Erasure is the deletion of a project, or a user if Project is "".
type Erasure struct {
	User    dreamcore.UserID
	Project dreamcore.ProjectID
}

func (e Erasure) name() string {
	if e.Project == "" {
		return string(e.User)
	}
	return Unfinished(e).name()
}

// BeginErase notes on the disk that a user or project is being erased. When it
// returns, nothing of it can be opened any more.
func (s *Store) BeginErase(ctx context.Context, e Erasure) error {
	unlock, err := s.lockUser(ctx, e.User, statefile.Exclusive)
	if err != nil {
		return tree.DiskError("begin the erasure", err)
	}
	defer unlock()
	dir, err := s.makeInData(erasingDir)
	if err != nil {
		return tree.DiskError("begin the erasure", err)
	}
	defer dir.Close()
	if err := statefile.Replace(dir, e.name(), fileMode, statefile.Bytes(nil)); err != nil {
		return tree.DiskError("begin the erasure", err)
	}
	data, err := s.OpenVolume(Data)
	if err != nil {
		return err
	}
	return errors.Join(syncRoot(data), data.Close())
}

// EndErase forgets the erasure, after everything was removed.
func (s *Store) EndErase(e Erasure) error {
	dir, err := s.makeInData(erasingDir)
	if err != nil {
		return tree.DiskError("end the erasure", err)
	}
	defer dir.Close()
	if err := errors.Join(tree.IgnoreMissing(dir.Remove(e.name())), syncRoot(dir)); err != nil {
		return tree.DiskError("end the erasure", err)
	}
	return nil
}

// Erasing lists the erasures that have begun and not ended.
func (s *Store) Erasing() (all []Erasure, err error) {
	marked, err := s.marked(erasingDir, "list the erasures")
	for _, u := range marked {
		all = append(all, Erasure(u))
	}
	return all, err
}

// CheckErasing returns CodeConflict with ReasonErasing if a user, or one of the
// user's projects, is being erased. project may be "".
func (s *Store) CheckErasing(user dreamcore.UserID, project dreamcore.ProjectID) error {
	erasing, err := s.isErasing(user, project)
	if err != nil || !erasing {
		return err
	}
	what := "the user"
	if project != "" {
		what = "the project"
	}
	return &dreamcore.Error{Code: dreamcore.CodeConflict, Reason: ReasonErasing, Message: what + " is being deleted", Hint: "wait until the deletion has ended"}
}

func (s *Store) isErasing(user dreamcore.UserID, project dreamcore.ProjectID) (bool, error) {
	names := []string{Erasure{User: user}.name()}
	if project != "" {
		names = append(names, Erasure{user, project}.name())
	}
	for _, name := range names {
		_, err := s.volumes.Lstat(path.Join(Data, erasingDir, name))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return false, tree.DiskError("check for an erasure", err)
		}
	}
	return false, nil
}

// enter is CheckErasing that keeps an erasure from beginning until leave is called. It
// also asks Options.Admit.
func (s *Store) enter(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, change bool) (leave func(), err error) {
	leave, err = s.lockUser(ctx, user, statefile.Shared)
	if err != nil {
		return nil, tree.DiskError("open the files of the user", err)
	}
	err = s.CheckErasing(user, project)
	if err == nil && s.opts.Admit != nil {
		err = s.opts.Admit(user, change)
	}
	if err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

func (s *Store) lockUser(ctx context.Context, user dreamcore.UserID, mode statefile.Mode) (unlock func(), err error) {
	f, err := s.lockFile(usersLock)
	if f == nil || err != nil {
		return func() {}, err
	}
	sum := sha256.Sum256([]byte(user))
	at := int64(binary.BigEndian.Uint64(sum[:]) >> 2)
	if err := statefile.Wait(ctx, func() error { return statefile.TryRange(f, mode, at, 1) }); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		// Not only by closing it: a child between fork and exec has the file open too.
		_ = statefile.TryRange(f, statefile.Unlocked, at, 1)
		_ = f.Close()
	}, nil
}

// LockErased takes the locks of the projects of an erasure that has begun, and waits
// until those that use the projects have ended.
func (s *Store) LockErased(ctx context.Context, e Erasure) (unlock func(), err error) {
	projects := []dreamcore.ProjectID{e.Project}
	if e.Project == "" {
		if projects, err = s.lockedProjects(e.User); err != nil {
			return nil, err
		}
	}
	var unlocks []func()
	unlock = func() {
		for _, u := range unlocks {
			u()
		}
	}
	for _, p := range projects {
		u, err := s.Lock(ctx, e.User, p)
		if err != nil {
			unlock()
			return nil, err
		}
		unlocks = append(unlocks, u)
	}
	return unlock, nil
}

// lockedProjects returns the projects of a user that were ever changed.
func (s *Store) lockedProjects(user dreamcore.UserID) (projects []dreamcore.ProjectID, err error) {
	err = s.lockNames(func(u dreamcore.UserID, p dreamcore.ProjectID) {
		if u == user {
			projects = append(projects, p)
		}
	})
	return projects, err
}

// Owners returns the users that may have a project of this id: those under whom it
// was ever changed.
func (s *Store) Owners(project dreamcore.ProjectID) (users []dreamcore.UserID, err error) {
	err = s.lockNames(func(u dreamcore.UserID, p dreamcore.ProjectID) {
		if p == project {
			users = append(users, u)
		}
	})
	slices.Sort(users)
	return users, err
}

func (s *Store) lockNames(each func(dreamcore.UserID, dreamcore.ProjectID)) error {
	if s.locks == nil {
		return nil
	}
	names, err := statefile.Names(s.locks, func(name string) bool { return len(name) == len(lockName("", ""))+2*uuidLength })
	if err != nil {
		return tree.DiskError("list the locks of projects", err)
	}
	for _, name := range names {
		user, err := dreamcore.ParseUserID(name[:uuidLength])
		project, err2 := dreamcore.ParseProjectID(name[uuidLength+1 : 2*uuidLength+1])
		if err == nil && err2 == nil && name == lockName(user, project) {
			each(user, project)
		}
	}
	return nil
}

const uuidLength = 36

// RemoveErased removes the files, homes and conversations of an erasure that has
// begun. The caller must hold its locks (LockErased), which are removed too. It may
// be called again after an error or a crash.
func (s *Store) RemoveErased(ctx context.Context, e Erasure) error {
	remove := s.removeUser
	if e.Project != "" {
		remove = s.removeProject
	}
	if err := remove(ctx, e); err != nil {
		return s.UserError("remove the files of the user", err)
	}
	if err := s.removeMarks(e); err != nil {
		return tree.DiskError("remove the files of the user", err)
	}
	return nil
}

func (s *Store) removeProject(ctx context.Context, e Erasure) error {
	top, release, err := s.openTop(ctx, e.User, false)
	if err == nil {
		var errs []error
		for _, dir := range []string{projectsDir, stagingDir, homesInDir} {
			errs = append(errs, removeFrom(top, dir, string(e.Project)))
		}
		err = errors.Join(append(errs, top.Close())...)
		release()
	}
	err = tree.IgnoreMissing(err)
	return errors.Join(err, removeFrom(s.homes, string(e.User), string(e.Project)), removeFrom(s.homes, string(e.User), string(e.Project)+sessionExtension))
}

// removeFrom removes name from a directory, which need not exist.
func removeFrom(root *os.Root, dir, name string) error {
	d, err := tree.OpenDirs(root, dir)
	if err != nil {
		return tree.IgnoreMissing(err)
	}
	return errors.Join(tree.RemoveAll(d, name), tree.RemoveMoved(d), syncRoot(d), d.Close())
}

// removeUser removes the file system of the user as a whole, and plain directories.
func (s *Store) removeUser(ctx context.Context, e Erasure) error {
	disks, err := s.allDisks()
	if err != nil {
		return err
	}
	if disks != nil {
		err = disks.Remove(ctx, string(e.User))
		if disks != s.disks {
			err = errors.Join(err, disks.Close())
		}
		if err != nil {
			return err
		}
	}
	data, err := s.OpenVolume(Data)
	if err != nil {
		return err
	}
	defer data.Close()
	return errors.Join(removeFrom(data, usersDir, string(e.User)), removeFrom(s.homes, ".", string(e.User)))
}

// allDisks returns the file systems of users, also if they are turned off and some
// users still have one; nil if no user has.
func (s *Store) allDisks() (*disk.Store, error) {
	if s.disks != nil {
		return s.disks, nil
	}
	if _, err := s.volumes.Lstat(path.Join(Data, disksDir)); err != nil {
		return nil, tree.IgnoreMissing(err)
	}
	opts := s.diskOptions()
	opts.Bytes = disk.MinBytes
	return disk.New(opts)
}

// removeMarks removes the marks of changes and the locks.
func (s *Store) removeMarks(e Erasure) error {
	all, err := s.Unfinished()
	if err != nil {
		return err
	}
	for _, u := range all {
		if u.User == e.User && (e.Project == "" || u.Project == e.Project) {
			err = errors.Join(err, s.unmark(u))
		}
	}
	projects := []dreamcore.ProjectID{e.Project}
	if e.Project == "" {
		var listed error
		projects, listed = s.lockedProjects(e.User)
		err = errors.Join(err, listed)
	}
	for _, p := range projects {
		err = errors.Join(err, tree.IgnoreMissing(s.locks.Remove(lockName(e.User, p))))
	}
	return errors.Join(err, syncRoot(s.locks))
}

func syncRoot(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
