// Package disk bounds the disk space of users: file systems of a fixed size, each
// in a sparse image file that is mounted through a loop device. Programs get ENOSPC
// at the end of their file system, and the disk of the host stays free.
//
//	Images/KEY.ext4   0600, the file system
//	Images/KEY.lock   0600, three locks: see lock.go
//	Images/KEY.moved  a plain directory was moved into the image; its remaining files can be removed
//	Images/KEY.part   an image that is being filled from a plain directory,
//	Images/KEY.filled where it is mounted meanwhile
//	Images/ID.blank   a file system that is ready for the next new key: see blank.go
//	Mounts/KEY        where the file system is mounted
//
// Only this user may be able to write to both directories. One image is never
// attached to two loop devices: two caches over one file destroy it.
package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// MinBytes is the minimum size of a file system.
const MinBytes = 16 << 20

// DefaultIdle is how long an unused file system stays mounted.
const DefaultIdle = 30 * time.Second

const (
	privateMode = 0o700
	fileMode    = 0o600
)

// Extensions of the files in the directory of images. A key has no dot, so files of
// different keys have different names.
const (
	imageExtension  = ".ext4"
	lockExtension   = ".lock"
	movedExtension  = ".moved"
	partExtension   = ".part"
	filledExtension = ".filled"
	blankExtension  = ".blank"
	tempExtension   = ".new" // appended while a file is being created
)

// Reasons of errors.
const (
	ReasonInUse      dreamcore.Reason = "disk.in_use"
	ReasonNearlyFull dreamcore.Reason = "disk.nearly_full"
)

// HowToTurnOff is the end of the hints of errors that the bound causes.
const HowToTurnOff = "or turn the bound off with disk_mib: 0"

// Options configures a Store.
type Options struct {
	Images   string        // absolute path of the directory of images
	Mounts   string        // absolute path of the directory of mount points
	Bytes    int64         // size of each file system; at least MinBytes
	UID, GID int           // owner of the top directory of each file system
	Idle     time.Duration // 0 means DefaultIdle
	Logger   *slog.Logger  // optional
	Ballast  *Ballast      // on the same disk as the images; optional

	// Plain returns the directories, from before the bound, whose content is moved
	// into a new file system. It may be nil.
	Plain func(key string) []Tree
}

// Tree is a plain directory that is moved into a file system.
type Tree struct {
	Path string // absolute; its entries are moved, not the directory itself
	Into string // destination below the top of the file system; "" means the top
	Dirs bool   // move only directories
}

// Store is a set of file systems. Its methods are safe for concurrent use,
// also by several processes of one machine.
type Store struct {
	opts Options

	done       chan struct{} // closed by Close
	wg         sync.WaitGroup
	allocating chan struct{} // a mutex with a deadline: one Reserve at a time compares and allocates
	blanks     blankStock

	mu      sync.Mutex
	closed  bool             // guarded by mu
	volumes map[string]*disk // guarded by mu
}

// A counted repeat would cost every start of the program milliseconds.
var keyForm = pattern.New(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)

const maxKeyBytes = 128

// New returns a Store; directories are created when they are needed. CodeInvalid:
// the options are wrong. The caller must Close the Store.
func New(opts Options) (*Store, error) {
	if opts.Bytes < MinBytes {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("a disk of %d bytes is too small", opts.Bytes),
			Hint: "set disk_mib to 16 or more, " + HowToTurnOff,
		}
	}
	for _, dir := range []string{opts.Images, opts.Mounts} {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
			return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("the directory of disks %q is not an absolute path", dir), Hint: "use the full path of the state directory"}
		}
	}
	if opts.Idle <= 0 {
		opts.Idle = DefaultIdle
	}
	opts.Logger = cmp.Or(opts.Logger, slog.New(slog.DiscardHandler))
	return &Store{opts: opts, done: make(chan struct{}), allocating: make(chan struct{}, 1), blanks: blankStock{wakeup: make(chan struct{}, 1)}, volumes: map[string]*disk{}}, nil
}

// Exists reports whether there is an image of a key in the directory of images.
func Exists(images, key string) (bool, error) {
	if err := checkKey(key); err != nil {
		return false, err
	}
	return exists(filepath.Join(images, key+imageExtension))
}

// Close unmounts the unused file systems and waits for the goroutines of the Store.
// File systems that are in use here are unmounted when they are released. Close may
// be called more than once.
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
		d.lock()
		if d.users == 0 {
			_, err := s.retire(d)
			errs = append(errs, err)
		}
		d.unlock()
	}
	return errors.Join(errs...)
}

// Sweep removes the residue of processes that died: unused mounts and unfinished
// images. Everything in use stays.
func (s *Store) Sweep(ctx context.Context) error {
	entries, err := os.ReadDir(s.opts.Images)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return machineError("list disks", err)
	}
	var errs []error
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		key, isLock := strings.CutSuffix(e.Name(), lockExtension)
		if !isLock || checkKey(key) != nil {
			continue
		}
		d := s.disk(key)
		d.lock()
		if d.users == 0 {
			_, err := s.retire(d)
			errs = append(errs, err)
		}
		d.unlock()
	}
	return errors.Join(errs...)
}

func checkKey(key string) error {
	if len(key) <= maxKeyBytes && keyForm().MatchString(key) {
		return nil
	}
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid name of a disk", Hint: "use 1 to 128 letters, digits, dashes and underscores"}
}

// prepareDirs creates the directories of the Store and checks that no other user
// can replace an image or a mount point.
func (s *Store) prepareDirs() error {
	for _, dir := range []string{s.opts.Images, s.opts.Mounts} {
		if err := os.Mkdir(dir, privateMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return machineError("create "+dir, err)
		}
		if err := checkOwned(dir); err != nil {
			return err
		}
	}
	return nil
}

func checkOwned(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return machineError("stat "+dir, err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return setupError(dir+" is not a directory that only this user can write to",
			fmt.Sprintf("it must be a real directory of this user: chown %d %s && chmod 700 %s", os.Geteuid(), dir, dir), nil)
	}
	return nil
}

// setupError returns the error of a machine that is not ready. err may be nil.
func setupError(message, hint string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: message, Hint: hint, Err: err}
}

// machineError describes an error of the machine, with a hint that fits the cause.
// It returns nil for nil.
func machineError(action string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*dreamcore.Error](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", action, err)
	}
	e := &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "cannot " + action, Err: err}
	switch {
	case statefile.IsFull(err):
		e.Hint = "the disk of the state directory is full: free space there (df -h and df -i show how much)"
	case errors.Is(err, fs.ErrPermission):
		e.Hint = "mounting needs root, CAP_SYS_ADMIN and loop devices: run as root, " + HowToTurnOff
	case errors.Is(err, syscall.ENODEV):
		e.Hint = "the kernel has no ext4: modprobe ext4, " + HowToTurnOff
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP):
		e.Hint = "a link or a file is in the place of a directory or an image: replace it by the real one"
	default:
		e.Code, e.Hint = dreamcore.CodeInternal, "check the state directory with ls -ld and df -h, and dmesg for errors of the disk"
	}
	return e
}
