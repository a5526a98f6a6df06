// Package volume stores what sandboxes work on: volumes, which are named
// directories, and the projects of the users in the data volume. Next to the
// volumes are the home that the agent has in each project, and the project
// locks.
//
//	volumes/                                  0700, the service's
//	volumes/dreamcore-global/                 0755, the operator's; read-only in sandboxes
//	volumes/dreamcore-data/                   0700, the service's
//	volumes/dreamcore-data/users/U/projects/  0700, the service's
//	volumes/dreamcore-data/users/U/projects/P 0755, the sandbox user's: all that a sandbox sees of the volume
//	volumes/dreamcore-data/users/U/staging/P  the new state of a project during a change; see Stage
//	volumes/dreamcore-data/.changes/U.P       marks a change that has not finished
//	volumes/dreamcore-data/.erasing/U.P       marks a project, or a user U, that is being erased
//	volumes/dreamcore-data/.checks/ID         0755, the sandbox user's, for one check
//	volumes/dreamcore-data/.disks/U.ext4      0600, the service's: the file system of users/U, if disks are limited
//	volumes/dreamcore-data/users/U/homes/P    0700, the sandbox user's: replaces homes/U/P if disks are limited
//	homes/U/P                                 0700, the sandbox user's
//	homes/U/P.session                         0600, the service's
//	locks/U-P.lock                            0600, the service's
//	locks/users.lock                          0600, the service's: one byte for each user
//
// With a disk limit (Options.DiskBytes), everything that the sandboxes of a user
// can write to is in a file system of that size. Package disk mounts it at users/U
// while anything in it is open.
//
// The contents of projects and homes come from a sandbox and are hostile; package
// tree opens them safely.
//
//	volume.go     the store and its volumes
//	user.go       users, and the directories that their sandboxes mount
//	project.go    open projects and their files
//	stage.go      a new state of a project that replaces the current one
//	home.go       homes of the agent and conversations; homeclean.go cleans them
//	location.go   paths of volumes, for the operator
//	guard.go      the limits of a project during a job; reserve.go shares its reserve
//	room.go       disk space that is reserved for a job or change
//	skills.go     the link to the skills in a project
//	scratch.go    directories for checks
//	lock.go       project locks
//	erase.go      users and projects that are being erased
package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// The volumes of the service.
const (
	Data   = "dreamcore-data"
	Global = "dreamcore-global"
)

// Reasons of errors.
const (
	ReasonNoPath   dreamcore.Reason = "volume.no_path"    // a path that is in no project
	ReasonNoVolume dreamcore.Reason = "volume.none"       // a volume of the operator is missing
	ReasonNotSetUp dreamcore.Reason = "volume.not_set_up" // a volume of the service is missing
)

const (
	privateMode = 0o700
	sharedMode  = 0o755
	fileMode    = 0o600
)

// Options configures a Store.
type Options struct {
	HomesDir string // default: "homes" next to the directory of volumes
	LocksDir string // default: "locks" next to the directory of volumes
	Look     bool   // create no directories and no locks: missing parts are empty
	UID, GID int    // the user inside sandboxes, who owns projects and homes

	// DiskBytes limits the size of the projects and homes of one user together;
	// 0 uses plain directories without a limit. A user who has a file system
	// keeps it: once the limit is turned off, such a user is refused, because the
	// plain directory is empty.
	DiskBytes int64
	// MinFreeBytes stay free on the disk: no work begins that could use them.
	MinFreeBytes int64
	Ballast      *disk.Ballast // holds MinFreeBytes of the disk for this program; optional

	DiskIdle time.Duration // how long an unused file system stays mounted; default: disk.DefaultIdle
	Logger   *slog.Logger  // optional

	// Limits of one project: bytes on disk, and names; 0 means the user's limits
	// only. See Guard and FitsProject.
	ProjectBytes int64
	ProjectFiles int

	// Admit returns why nothing of a user may be opened or, with change, be changed, or
	// nil: the user lives in another cell. It may be nil.
	Admit func(user dreamcore.UserID, change bool) error
}

// Store is the directory of volumes. Its methods are safe for concurrent use by
// several goroutines and processes.
type Store struct {
	volumes *os.Root
	homes   *os.Root
	locks   *os.Root
	disks   *disk.Store // nil without a disk limit
	guards  guards      // of this process
	opts    Options
	log     *slog.Logger
	evict   func(context.Context, dreamcore.UserID) error // ends a user's sandbox; may be nil
}

// Info describes a volume.
type Info struct {
	Name string
	Path string // absolute, on the host
}

// nameForm avoids a counted repetition, which is expensive to compile at every
// start of the program.
var nameForm = pattern.New(`^[a-z0-9][a-z0-9-]*$`)

const maxNameBytes = 63

func isName(name string) bool { return len(name) <= maxNameBytes && nameForm().MatchString(name) }

// Open opens the volumes in dir. It makes the missing directories, but no
// volume. The caller must Close the Store.
func Open(dir string, opts Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, tree.DiskError("find the directory of volumes", err)
	}
	if opts.HomesDir == "" {
		opts.HomesDir = filepath.Join(filepath.Dir(dir), "homes")
	}
	if opts.LocksDir == "" {
		opts.LocksDir = filepath.Join(filepath.Dir(dir), "locks")
	}
	if opts.HomesDir, err = filepath.Abs(opts.HomesDir); err != nil {
		return nil, tree.DiskError("find the directory of homes", err)
	}
	s := &Store{opts: opts, log: opts.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		path string
		root **os.Root
	}{{dir, &s.volumes}, {opts.HomesDir, &s.homes}, {opts.LocksDir, &s.locks}} {
		open := statefile.OpenDir
		if opts.Look {
			open = statefile.LookIn
		}
		if *d.root, err = open(d.path); err != nil {
			return nil, errors.Join(tree.DiskError("open "+d.path, err), s.Close())
		}
	}
	if opts.DiskBytes != 0 {
		if s.disks, err = disk.New(s.diskOptions()); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// Close closes the Store and unmounts the file systems of users that are not in
// use. Open projects and homes stay usable and must still be closed.
func (s *Store) Close() error {
	var errs []error
	if s.disks != nil {
		errs = append(errs, s.disks.Close())
	}
	for _, r := range []*os.Root{s.volumes, s.homes, s.locks} {
		if r != nil {
			errs = append(errs, r.Close())
		}
	}
	return errors.Join(errs...)
}

// Create makes a volume; created is false if it exists already. CodeInvalid: the
// name is not allowed.
func (s *Store) Create(name string) (created bool, err error) {
	if err := checkName(name); err != nil {
		return false, err
	}
	mode := fs.FileMode(privateMode)
	if name != Data {
		mode = sharedMode // sandboxes mount it as it is
	}
	err = s.volumes.Mkdir(name, mode)
	created = err == nil
	if created {
		err = s.volumes.Chmod(name, mode) // independent of the umask
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return created, tree.DiskError("create volume "+name, err)
	}
	_, err = s.Path(name)
	return created, err
}

// List returns the volumes, sorted by name.
func (s *Store) List() ([]Info, error) {
	entries, err := fs.ReadDir(s.volumes.FS(), ".")
	if err != nil {
		return nil, tree.DiskError("list the volumes", err)
	}
	var infos []Info
	for _, e := range entries {
		if e.IsDir() && isName(e.Name()) {
			infos = append(infos, Info{Name: e.Name(), Path: filepath.Join(s.volumes.Name(), e.Name())})
		}
	}
	return infos, nil
}

// Path returns the absolute path of a volume on the host, to be mounted.
// CodeNotFound: there is no volume of that name.
func (s *Store) Path(name string) (string, error) {
	root, err := s.OpenVolume(name)
	if err != nil {
		return "", err
	}
	defer root.Close()
	return filepath.Clean(root.Name()), nil
}

// OpenVolume opens the directory of a volume. The caller must close it.
// CodeNotFound: there is no volume of that name.
func (s *Store) OpenVolume(name string) (*os.Root, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	root, err := tree.OpenDir(s.volumes, name)
	if errors.Is(err, fs.ErrNotExist) {
		reason, hint := ReasonNoVolume, "check its name"
		if name == Data || name == Global {
			reason, hint = ReasonNotSetUp, "set the service up, which creates it"
		}
		return nil, &dreamcore.Error{Code: dreamcore.CodeNotFound, Reason: reason, Message: "there is no volume " + name, Hint: hint, Err: err}
	}
	if err != nil {
		return nil, tree.DiskError("open volume "+name, err)
	}
	return root, nil
}

// makeInData opens a directory of the service in the data volume, and makes it if
// it is missing. The caller must close it.
func (s *Store) makeInData(name string) (*os.Root, error) {
	data, err := s.OpenVolume(Data)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	return tree.MakeDirs(data, name)
}

func checkName(name string) error {
	if isName(name) {
		return nil
	}
	return &dreamcore.Error{
		Code:    dreamcore.CodeInvalid,
		Message: "Invalid volume name",
		Hint:    "use 1 to 63 lower-case letters, digits and dashes, such as my-volume",
	}
}

// Owner returns the user and group inside sandboxes.
func (s *Store) Owner() tree.Owner { return tree.Owner{UID: s.opts.UID, GID: s.opts.GID} }

// makeOwned makes a directory of the sandbox's user; see tree.MakeOwned.
func (s *Store) makeOwned(parent *os.Root, name string, mode fs.FileMode) (*os.Root, error) {
	return tree.MakeOwned(parent, name, mode, s.Owner())
}

// ReadFile returns a file of a volume, of at most limit bytes. CodeNotFound:
// there is no such volume or regular file; CodeTooLarge: the file is larger;
// CodeInvalid: the name leaves the volume.
func (s *Store) ReadFile(volume, name string, limit int64) ([]byte, error) {
	root, err := s.OpenVolume(volume)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, info, err := tree.OpenFile(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, tree.DiskError("read "+name, err)
	}
	if int64(len(content)) > limit || info.Size() > limit {
		return nil, &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: fmt.Sprintf("%s is larger than %d bytes", name, limit), Hint: "shorten it"}
	}
	return content, nil
}
