// Package disk bounds what may be written to disk: file systems of a fixed
// size, each in a sparse image file that is mounted through a loop device.
// Programs on one see ENOSPC at its end, and the disk of the host is safe.
//
//	Images/KEY.ext4   0600, the file system
//	Images/KEY.lock   0600, two locks: whose turn it is to change something, and who uses it
//	Images/KEY.moved  a plain directory was moved into the image; what is left of it can go
//	Images/KEY.part   an image that is being filled from a plain directory,
//	Images/KEY.filled where it is mounted meanwhile
//	Mounts/KEY        where the file system is mounted
//
// Both directories must be such that only we can write to them. One image is
// never attached to two loop devices: two caches over one file destroy it.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// MinBytes is the smallest file system that is made.
const MinBytes = 16 << 20

// DefaultIdle is how long a file system that nobody uses stays mounted.
const DefaultIdle = 30 * time.Second

const (
	privateMode = 0o700
	fileMode    = 0o600
)

// What the names in the directory of images end with. A key has no dot, so
// the files of two keys never have the same name.
const (
	imageExtension  = ".ext4"
	lockExtension   = ".lock"
	movedExtension  = ".moved"
	partExtension   = ".part"
	filledExtension = ".filled"
	tempExtension   = ".new" // behind that of what is being made
)

// HowToTurnOff ends the hints of errors that the bound causes.
const HowToTurnOff = "or turn the bound off with disk_mib: 0"

// Options says where file systems are and how large they are.
type Options struct {
	Images   string        // the directory of images, absolute
	Mounts   string        // the directory that they are mounted in, absolute
	Bytes    int64         // the size of each; at least MinBytes
	UID, GID int           // who owns the top directory of each
	Idle     time.Duration // default: DefaultIdle
	Logger   *slog.Logger  // default: none
	Ballast  *Ballast      // of the disk that the images are on; optional

	// Plain returns the directories whose content belongs into a file system
	// that is made now, because it is from a time before the bound. nil: none.
	Plain func(key string) []Tree
}

// Tree is a plain directory that is moved into a file system.
type Tree struct {
	Path string // absolute; its entries are moved, not itself
	Into string // below the top of the file system; "": the top
	Dirs bool   // only directories are moved
}

// Store is a set of file systems. Its methods are safe for concurrent use,
// also by several processes of one machine.
type Store struct {
	opts Options

	done       chan struct{} // closed by Close
	wg         sync.WaitGroup
	allocating chan struct{} // a mutex with a deadline: one Reserve at a time compares and allocates

	mu      sync.Mutex
	closed  bool             // guarded by mu
	volumes map[string]*disk // guarded by mu
}

// A counted repeat would cost every start of the program milliseconds.
var keyForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)

const maxKeyBytes = 128

// New makes a Store; the directories are made when they are needed.
// CodeInvalid: the options are wrong. The caller must Close the Store.
func New(opts Options) (*Store, error) {
	if opts.Bytes < MinBytes {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("a disk of %d bytes is too small", opts.Bytes),
			Hint: "set disk_mib to 16 or more, " + HowToTurnOff,
		}
	}
	for _, dir := range []string{opts.Images, opts.Mounts} {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
			return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("the directory of disks %q is not an absolute path", dir), Hint: "name the state directory with its full path"}
		}
	}
	if opts.Idle <= 0 {
		opts.Idle = DefaultIdle
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Store{opts: opts, done: make(chan struct{}), allocating: make(chan struct{}, 1), volumes: map[string]*disk{}}, nil
}

// Exists tells whether there is an image of a key in the directory of images.
func Exists(images, key string) (bool, error) {
	if err := checkKey(key); err != nil {
		return false, err
	}
	_, err := os.Lstat(filepath.Join(images, key+imageExtension))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Close unmounts what nobody uses, and waits for what the Store runs. What is
// in use here is unmounted when it is released. It may be called more than
// once.
func (s *Store) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	all := make([]*disk, 0, len(s.volumes))
	for _, d := range s.volumes {
		all = append(all, d)
	}
	s.mu.Unlock()
	if first {
		close(s.done)
	}
	s.wg.Wait()
	var errs []error
	for _, d := range all {
		d.enter()
		if d.users == 0 {
			_, err := s.retire(d)
			errs = append(errs, err)
		}
		d.leave()
	}
	return errors.Join(errs...)
}

// Sweep removes what processes that died have left: mounts that nobody uses,
// and images that were not finished. What is in use stays.
func (s *Store) Sweep(ctx context.Context) error {
	entries, err := os.ReadDir(s.opts.Images)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return machineError("look for disks", err)
	}
	var errs []error
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		key, isLock := trimExtension(e.Name(), lockExtension)
		if !isLock || checkKey(key) != nil {
			continue
		}
		d := s.disk(key)
		d.enter()
		if d.users == 0 {
			_, err := s.retire(d)
			errs = append(errs, err)
		}
		d.leave()
	}
	return errors.Join(errs...)
}

func trimExtension(name, extension string) (string, bool) {
	if filepath.Ext(name) != extension {
		return name, false
	}
	return name[:len(name)-len(extension)], true
}

func checkKey(key string) error {
	if len(key) <= maxKeyBytes && keyForm.MatchString(key) {
		return nil
	}
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid name of a disk", Hint: "use 1 to 128 letters, digits, dashes and underscores"}
}

// prepareDirs makes the directories of the Store and makes sure that nobody
// else can put something in the place of an image or of a mount point.
func (s *Store) prepareDirs() error {
	for _, dir := range []string{s.opts.Images, s.opts.Mounts} {
		if err := os.Mkdir(dir, privateMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return machineError("make "+dir, err)
		}
		if err := checkOurs(dir); err != nil {
			return err
		}
	}
	return nil
}

func checkOurs(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return machineError("look at "+dir, err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: dir + " is not a directory that only we can write to",
			Hint: fmt.Sprintf("put a real directory in its place: chown %d %s && chmod 700 %s", os.Geteuid(), dir, dir),
		}
	}
	return nil
}

// machineError gives an error of the machine the hint that fits it.
func machineError(action string, err error) error {
	if _, ok := errors.AsType[*dreamcore.Error](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", action, err)
	}
	e := &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "cannot " + action, Err: err}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Hint = "the disk of the state directory is full: free space there (df -h and df -i show how much)"
	case errors.Is(err, fs.ErrPermission):
		e.Hint = "mounting needs root, CAP_SYS_ADMIN and loop devices: run as root, " + HowToTurnOff
	case errors.Is(err, syscall.ENODEV):
		e.Hint = "the kernel has no ext4: modprobe ext4, " + HowToTurnOff
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP):
		e.Hint = "a link or a file is in the place of a directory or an image: put the real one there"
	default:
		e.Code, e.Hint = dreamcore.CodeInternal, "check the state directory with ls -ld and df -h, and dmesg for errors of the disk"
	}
	return e
}
