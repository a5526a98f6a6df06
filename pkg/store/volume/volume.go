// Package volume keeps what sandboxes work on: volumes, which are named
// directories, and in the data volume the projects of the users. Beside them
// are the homes that the agent has per project, and the locks of projects.
//
//	volumes/                                  0700, ours
//	volumes/dreamcore-global/                 0755, the operator's; read-only in sandboxes
//	volumes/dreamcore-data/                   0700, ours
//	volumes/dreamcore-data/users/U/projects/  0700, ours
//	volumes/dreamcore-data/users/U/projects/P 0755, the sandbox user's: a sandbox sees this and nothing above it
//	volumes/dreamcore-data/users/U/staging/P  a change of a project in the making, see Apply
//	volumes/dreamcore-data/.checks/ID         0755, the sandbox user's, for one check
//	volumes/dreamcore-data/.disks/U.ext4      0600, ours: with a bound, the file system at users/U
//	volumes/dreamcore-data/users/U/homes/P    0700, the sandbox user's: with a bound, in place of homes/U/P
//	homes/U/P                                 0700, the sandbox user's
//	homes/U/P.session                         0600, ours
//	locks/U-P.lock                            0600, ours
//
// With a bound (Options.DiskBytes) all that the sandboxes of a user can write
// to lies in a file system of that size, which package disk mounts at users/U
// as long as something of it is open.
//
// Whatever lies in a project or a home was made in a sandbox and is hostile:
// names, links, FIFOs, sizes, and files that change while they are read. It
// is opened one path element at a time below an os.Root, and every element
// must be what it was when it was looked at, so that no link is followed, not
// even one that stays inside.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
)

// The volumes of the service.
const (
	Data   = "dreamcore-data"
	Global = "dreamcore-global"
)

const (
	privateMode = 0o700
	sharedMode  = 0o755
	fileMode    = 0o600
)

// Options says where things are and whose they are.
type Options struct {
	HomesDir string // default: "homes" beside the directory of volumes
	LocksDir string // default: "locks" beside the directory of volumes
	UID, GID int    // the user inside sandboxes, who owns projects and homes

	// DiskBytes bounds what the projects and homes of one user take together;
	// 0: plain directories without a bound. A user who was bounded once stays
	// in a file system: without the bound he is refused, not shown as empty.
	DiskBytes int64
	// MinFreeBytes are kept free on the disk: no work begins that could take them.
	MinFreeBytes int64
	Ballast      *disk.Ballast // holds MinFreeBytes of the disk for this program; optional

	DiskIdle time.Duration // how long it stays mounted when it is not used; default: disk.DefaultIdle
	Logger   *slog.Logger  // default: none

	// What one project may take: bytes on disk, and names in it; 0: no more
	// bound than the user has. See Guard and Apply.
	ProjectBytes int64
	ProjectFiles int
}

// Store is the directory of volumes. Its methods are safe for concurrent use,
// also by several processes.
type Store struct {
	volumes *os.Root
	homes   *os.Root
	locks   *os.Root
	disks   *disk.Store // nil: no bound
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

// nameForm has no counted repeat, which would cost every start of the program.
var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

const maxNameBytes = 63

func isName(name string) bool { return len(name) <= maxNameBytes && nameForm.MatchString(name) }

// Open opens the volumes in dir and makes the directories that are missing,
// but no volume. The caller must Close the Store.
func Open(dir string, opts Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, diskError("find the directory of volumes", err)
	}
	if opts.HomesDir == "" {
		opts.HomesDir = filepath.Join(filepath.Dir(dir), "homes")
	}
	if opts.LocksDir == "" {
		opts.LocksDir = filepath.Join(filepath.Dir(dir), "locks")
	}
	s := &Store{opts: opts, log: opts.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		path string
		root **os.Root
	}{{dir, &s.volumes}, {opts.HomesDir, &s.homes}, {opts.LocksDir, &s.locks}} {
		if *d.root, err = openBase(d.path); err != nil {
			return nil, errors.Join(diskError("open "+d.path, err), s.Close())
		}
	}
	if opts.DiskBytes != 0 {
		if s.disks, err = disk.New(s.diskOptions()); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

func openBase(dir string) (*os.Root, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, privateMode); err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

// Close closes the Store, and unmounts the file systems of users that nobody
// uses. What is open stays usable, and must be closed all the same.
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

// Create makes a volume; created is false when it is there already.
// CodeInvalid: the name is not allowed.
func (s *Store) Create(name string) (created bool, err error) {
	if err := checkName(name); err != nil {
		return false, err
	}
	mode := fs.FileMode(privateMode)
	if name != Data {
		mode = sharedMode // it is mounted into sandboxes as it is
	}
	err = s.volumes.Mkdir(name, mode)
	created = err == nil
	if created {
		err = s.volumes.Chmod(name, mode) // whatever the umask
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return created, diskError("create volume "+name, err)
	}
	_, err = s.Path(name)
	return created, err
}

// List returns the volumes, sorted by name.
func (s *Store) List() ([]Info, error) {
	entries, err := fs.ReadDir(s.volumes.FS(), ".")
	if err != nil {
		return nil, diskError("list the volumes", err)
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
// CodeNotFound: there is none of that name.
func (s *Store) Path(name string) (string, error) {
	root, err := s.volume(name)
	if err != nil {
		return "", err
	}
	defer root.Close()
	return filepath.Clean(root.Name()), nil
}

func (s *Store) volume(name string) (*os.Root, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	root, err := openDir(s.volumes, name)
	if errors.Is(err, fs.ErrNotExist) {
		hint := "create it: dreamcore volume create " + name
		if name == Data || name == Global {
			hint = "run: dreamcore setup"
		}
		return nil, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "there is no volume " + name, Hint: hint, Err: err}
	}
	if err != nil {
		return nil, diskError("open volume "+name, err)
	}
	return root, nil
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

// errNotPlain says that something is not the directory or regular file that
// it should be: a link, a FIFO, or replaced by another while it was opened.
var errNotPlain = errors.New("not a plain file or directory")

// openDir opens the directory name, which must be one path element, below
// parent. A symbolic link is an error, also one that is put there meanwhile.
func openDir(parent *os.Root, name string) (*os.Root, error) {
	before, err := parent.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !before.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errNotPlain}
	}
	// With the dot behind it, name is opened as a directory; OpenRoot of the
	// name alone would wait on a FIFO that was put there meanwhile.
	root, err := parent.OpenRoot(name + "/.")
	if err != nil {
		return nil, replaced(err)
	}
	after, err := root.Stat(".")
	if err == nil && !os.SameFile(before, after) {
		err = &fs.PathError{Op: "open", Path: name, Err: errNotPlain}
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// replaced turns the error of os.Root about a link that leaves it into
// errNotPlain: there was no link when the name was looked at. That error has
// no name, but unlike all others it is none of the system's.
func replaced(err error) error {
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return err
	}
	return fmt.Errorf("%w: %w", errNotPlain, err)
}

// diskError gives an error of the file system the hint that fits it.
func diskError(action string, err error) error {
	e := &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "cannot " + action, Err: err}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Code, e.Hint = dreamcore.CodeSetup, "the disk of the state directory is full: free space there (df -h and df -i show how much)"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		e.Code, e.Hint = dreamcore.CodeSetup, "the state directory must be writable, and giving files to the sandbox's user needs root: run as root, or choose another directory with --state DIR"
	case errors.Is(err, errNotPlain):
		e.Code, e.Hint = dreamcore.CodeSetup, "symbolic links are not followed there: put a real directory in its place (mount --bind makes one that lies elsewhere)"
	default:
		e.Hint = "check the state directory with ls -ld and df -h"
	}
	return e
}
