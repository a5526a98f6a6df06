package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// disk is the state of one file system in this process.
type disk struct {
	key   string
	image string
	dir   string
	mu    chan struct{} // a mutex with a deadline; guards the fields below

	users    int
	reserved int      // number of reservations of its space, each of which is also a use
	locks    lockFile // open while there are users
	plain    bool     // there is no image: the users read the plain directory
	warned   bool     // of being larger than configured
	failed   bool     // the kernel has stopped it: run e2fsck before the next mount
	watched  bool     // a goroutine will unmount it after it was idle
	idle     time.Time
}

func (d *disk) lock()   { d.mu <- struct{}{} }
func (d *disk) unlock() { <-d.mu }

// lockContext is lock that gives up when ctx ends.
func (d *disk) lockContext(ctx context.Context) error {
	select {
	case d.mu <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the disk: %w", ctx.Err())
	}
}

// lockWhen locks d once ready, which is called with d locked, returns true, and gives
// up when ctx ends.
func (d *disk) lockWhen(ctx context.Context, ready func() bool) error {
	for {
		if err := d.lockContext(ctx); err != nil {
			return err
		}
		if ready() {
			return nil
		}
		d.unlock()
		if err := sleep(ctx, busyPause); err != nil {
			return err
		}
	}
}

func (s *Store) disk(key string) *disk {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.volumes[key]
	if !ok {
		d = &disk{key: key, image: s.file(key, imageExtension), dir: filepath.Join(s.opts.Mounts, key), mu: make(chan struct{}, 1)}
		s.volumes[key] = d
	}
	return d
}

func (s *Store) file(key, extension string) string {
	return filepath.Join(s.opts.Images, key+extension)
}

func (s *Store) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Acquire mounts the file system of a key, creates it if it is missing, and grows
// it if the Store's size is larger. It stays mounted until release, which may be
// called more than once: a use lasts as long as the last sandbox, file or directory
// on it, and those must be closed first. CodeInvalid: the key is not allowed;
// CodeTooLarge: the content of a plain directory does not fit; CodeSetup: the
// machine does not support it.
func (s *Store) Acquire(ctx context.Context, key string) (path string, release func(), err error) {
	return s.acquire(ctx, key, true)
}

// Find is Acquire for an existing file system; it creates nothing. Without an
// image, the path is that of the plain directory, which is not moved until release.
// CodeNotFound: there is neither.
func (s *Store) Find(ctx context.Context, key string) (path string, release func(), err error) {
	return s.acquire(ctx, key, false)
}

func (s *Store) acquire(ctx context.Context, key string, create bool) (string, func(), error) {
	if err := checkKey(key); err != nil {
		return "", nil, err
	}
	if !create {
		if err := s.checkThere(key); err != nil {
			return "", nil, err
		}
	}
	d := s.disk(key)
	// A plain directory is moved once its readers are done.
	if err := d.lockWhen(ctx, func() bool { return d.users == 0 || !d.plain || !create }); err != nil {
		return "", nil, err
	}
	defer d.unlock()
	if s.isClosed() {
		return "", nil, fmt.Errorf("open the disk: %w", os.ErrClosed)
	}
	if d.users == 0 {
		if err := s.prepare(ctx, d, create); err != nil {
			return "", nil, machineError("open the disk", err)
		}
	}
	d.users++
	return d.dir, sync.OnceFunc(func() { s.release(d) }), nil
}

func (s *Store) checkThere(key string) error {
	for _, path := range []string{s.file(key, imageExtension), filepath.Join(s.opts.Mounts, key)} {
		if there, err := exists(path); there || err != nil {
			return err
		}
	}
	return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "there is no disk " + key, Hint: "it is created with the first project", Err: fs.ErrNotExist}
}

// release ends one use. After the last one, other processes may unmount the file
// system; this process does when it was idle for a while, or at once after Close.
func (s *Store) release(d *disk) {
	d.lock()
	defer d.unlock()
	d.users--
	if d.users > 0 {
		return
	}
	d.locks.close()
	d.idle = time.Now()
	if d.plain {
		return
	}
	s.mu.Lock()
	closed := s.closed
	if !closed && !d.watched {
		d.watched = true
		s.wg.Go(func() { s.watch(d) })
	}
	s.mu.Unlock()
	if closed {
		if _, err := s.retire(d); err != nil {
			s.opts.Logger.Error("unmount a disk", "disk", d.key, "error", err)
		}
	}
}

// watch unmounts a file system after it was idle, and ends then or with the Store.
func (s *Store) watch(d *disk) {
	wait := s.opts.Idle
	for {
		timer := time.NewTimer(wait)
		select {
		case <-s.done:
			timer.Stop()
			return // Close unmounts it
		case <-timer.C:
		}
		d.lock()
		wait = s.opts.Idle
		if d.users == 0 {
			if left := s.opts.Idle - time.Since(d.idle); left > 0 {
				wait = left
			} else if busy, err := s.retire(d); err != nil {
				s.opts.Logger.Warn("a disk stays mounted", "disk", d.key, "error", err)
			} else if !busy {
				d.watched = false
				d.unlock()
				return
			}
		}
		d.unlock()
	}
}

// prepare mounts a file system for its first user in this process, and takes the
// use lock.
func (s *Store) prepare(ctx context.Context, d *disk, create bool) (err error) {
	if err := s.prepareDirs(); err != nil {
		return err
	}
	l, err := s.lockChange(ctx, d)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	there, err := exists(d.image)
	if err != nil {
		return err
	}
	d.plain = !there && !create
	if !d.plain {
		if err := s.ready(ctx, d, l, there); err != nil {
			return err
		}
	}
	if err := l.try(useLock, statefile.Shared); err != nil {
		return fmt.Errorf("lock the disk: %w", err) // it is exclusive only together with the change lock, which l holds
	}
	d.locks = l
	return l.try(changeLock, statefile.Unlocked)
}

// lockChange opens the lock file and takes the change lock.
func (s *Store) lockChange(ctx context.Context, d *disk) (lockFile, error) {
	path := s.file(d.key, lockExtension)
	for {
		l, err := openLock(path)
		if err != nil {
			return l, err
		}
		err = l.wait(ctx, changeLock, statefile.Exclusive)
		if err == nil && l.isCurrent(path) {
			return l, nil
		}
		l.close()
		if err != nil {
			return l, err
		}
	}
}

// ready creates the image if it is missing, completes an interrupted move, and
// mounts and grows the file system. It must be called with the change lock held.
func (s *Store) ready(ctx context.Context, d *disk, l lockFile, there bool) error {
	if err := os.Mkdir(d.dir, privateMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	state, err := mounted(d.image, d.dir)
	if err != nil {
		return err
	}
	if state == otherMounted {
		return setupError("something else is mounted at "+d.dir, "unmount it: umount "+d.dir, nil)
	}
	if !there {
		// Wait for readers of the plain directory in other processes.
		if err := l.wait(ctx, useLock, statefile.Exclusive); err != nil {
			return err
		}
		if err := s.create(ctx, d); err != nil {
			return err
		}
	}
	if state == imageMounted {
		return nil
	}
	if err := s.removeMoved(d); err != nil {
		return err
	}
	dev, err := s.openSized(ctx, d, l)
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := mount(dev, d.dir); err != nil {
		return mountError(d, err)
	}
	if err := s.setOwner(d.dir); err != nil {
		return errors.Join(err, unmount(d.image, d.dir))
	}
	return nil
}

// openSized returns the loop device of an image of the Store's size. An image that
// is still mounted in another mount namespace, or in a sandbox that is ending,
// grows at a later use.
func (s *Store) openSized(ctx context.Context, d *disk, l lockFile) (*os.File, error) {
	for try := 0; ; try++ {
		dev, err := findAttached(ctx, d.image)
		if err != nil {
			return nil, err
		}
		if dev == nil {
			break
		}
		if try == busyTries || !s.isSmall(d.image) {
			return dev, nil
		}
		// It may be about to be detached, or held open by a program that inspects
		// new devices.
		if err := errors.Join(dev.Close(), sleep(ctx, busyPause)); err != nil {
			return nil, err
		}
	}
	larger, err := grow(d.image, s.opts.Bytes, l, d.failed)
	if err != nil {
		return nil, err
	}
	d.failed = false
	if larger && !d.warned {
		s.opts.Logger.Warn("a disk is larger than disk_mib and stays so: disks do not shrink", "disk", d.key, "image", d.image)
		d.warned = true
	}
	return attach(ctx, d.image)
}

func (s *Store) isSmall(image string) bool {
	info, err := os.Lstat(image)
	return err == nil && info.Size() < s.opts.Bytes/blockSize*blockSize
}

// setOwner sets the owner and mode of the top directory.
func (s *Store) setOwner(dir string) error {
	return errors.Join(os.Chown(dir, s.opts.UID, s.opts.GID), os.Chmod(dir, privateMode))
}

// mountError returns the error of an image that the kernel does not mount.
func mountError(d *disk, err error) error {
	for _, cause := range []error{unix.EUCLEAN, unix.EINVAL, unix.EIO, unix.EBADMSG} {
		if errors.Is(err, cause) {
			return damaged(d.image, err)
		}
	}
	return err
}

// retire unmounts a file system without users here, and removes the residue of
// processes that died. busy means that another process uses it, and it stays
// mounted. It must be called with d locked.
func (s *Store) retire(d *disk) (busy bool, err error) {
	const action = "unmount a disk"
	path := s.file(d.key, lockExtension)
	if there, err := exists(path); !there || err != nil {
		return false, err // it was never used
	}
	l, err := openLock(path)
	if err != nil {
		return false, machineError(action, err)
	}
	defer l.close()
	for _, which := range []int64{changeLock, useLock} {
		if err := l.try(which, statefile.Exclusive); errors.Is(err, statefile.ErrLocked) {
			return true, nil
		} else if err != nil {
			return false, machineError(action, err)
		}
	}
	if !l.isCurrent(path) {
		return false, nil // it was removed
	}
	if err := errors.Join(unmount(d.image, d.dir), s.removePart(d.key), remove(d.image+tempExtension)); err != nil {
		return false, machineError(action, err)
	}
	if err := punchHoles(context.Background(), d.image); err != nil {
		s.opts.Logger.Warn("the unused space of a disk stays allocated", "disk", d.key, "error", err)
	}
	return false, nil
}
