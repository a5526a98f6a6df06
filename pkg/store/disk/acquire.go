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
)

// disk is what this process knows about one file system.
type disk struct {
	key   string
	image string
	dir   string
	own   chan struct{} // who has put something in has the fields below

	users    int
	reserved int      // reservations of its space, each of which is a use
	lock     lockFile // while there are users
	plain    bool     // the users look at the plain directory, for there is no image
	told     bool     // that it is larger than it should be
	failed   bool     // the kernel has stopped it: e2fsck looks at it before it is mounted
	watched  bool     // a goroutine unmounts it when it was idle for long enough
	idle     time.Time
}

func (d *disk) enter() { d.own <- struct{}{} }
func (d *disk) leave() { <-d.own }

func (d *disk) enterBefore(ctx context.Context) error {
	select {
	case d.own <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the disk: %w", ctx.Err())
	}
}

func (s *Store) disk(key string) *disk {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.volumes[key]
	if !ok {
		d = &disk{key: key, image: s.file(key, imageExtension), dir: filepath.Join(s.opts.Mounts, key), own: make(chan struct{}, 1)}
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

// Acquire mounts the file system of a key, makes it where it is missing, and
// grows it when the Store's size is larger than its own. It stays mounted
// until release, which may be called more than once: a use lasts as long as
// the last sandbox, file or directory of it, and those must be closed first.
// CodeInvalid: the key is not allowed; CodeTooLarge: what a plain directory
// has does not fit in; CodeSetup: the machine cannot do it.
func (s *Store) Acquire(ctx context.Context, key string) (path string, release func(), err error) {
	return s.acquire(ctx, key, true)
}

// Find is Acquire of what is there, and makes nothing: without an image the
// path is that of the plain directory, which nobody moves until release.
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
	for {
		if err := d.enterBefore(ctx); err != nil {
			return "", nil, err
		}
		if d.users == 0 || !d.plain || !create {
			break
		}
		// Readers of the plain directory: it is moved when they are done.
		d.leave()
		if err := sleep(ctx, busyPause); err != nil {
			return "", nil, err
		}
	}
	defer d.leave()
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
	return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "there is no disk " + key, Hint: "it is made with the first project", Err: fs.ErrNotExist}
}

// release ends one use. After the last one others may unmount; we do when it
// was idle for a while, or at once after Close.
func (s *Store) release(d *disk) {
	d.enter()
	defer d.leave()
	d.users--
	if d.users > 0 {
		return
	}
	d.lock.close()
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

// watch unmounts a file system that was idle for long enough, and ends then or
// with the Store.
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
		d.enter()
		wait = s.opts.Idle
		if d.users == 0 {
			if left := s.opts.Idle - time.Since(d.idle); left > 0 {
				wait = left
			} else if busy, err := s.retire(d); err != nil {
				s.opts.Logger.Warn("a disk stays mounted", "disk", d.key, "error", err)
			} else if !busy {
				d.watched = false
				d.leave()
				return
			}
		}
		d.leave()
	}
}

// prepare makes a file system ready for its first user in this process, and
// takes the lock that says so.
func (s *Store) prepare(ctx context.Context, d *disk, create bool) (err error) {
	if err := s.prepareDirs(); err != nil {
		return err
	}
	l, err := openLock(s.file(d.key, lockExtension))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if err := l.wait(ctx, turn, unix.F_WRLCK); err != nil {
		return err
	}
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
	if err := l.try(use, unix.F_RDLCK); err != nil {
		return fmt.Errorf("take the disk: %w", err) // exclusive only with the turn, which we have
	}
	d.lock = l
	return l.try(turn, unix.F_UNLCK)
}

// ready makes the image where it is missing, ends a move that was cut off, and
// mounts and grows the file system. The caller has the turn.
func (s *Store) ready(ctx context.Context, d *disk, l lockFile, there bool) error {
	if err := os.Mkdir(d.dir, privateMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	state, err := mounted(d.image, d.dir)
	if err != nil {
		return err
	}
	if state == others {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "something else is mounted at " + d.dir,
			Hint: "unmount it: umount " + d.dir,
		}
	}
	if !there {
		// Readers of the plain directory in other processes are waited for.
		if err := l.wait(ctx, use, unix.F_WRLCK); err != nil {
			return err
		}
		if err := s.create(ctx, d); err != nil {
			return err
		}
	}
	if state == right {
		return nil
	}
	if err := s.clearMoved(d); err != nil {
		return err
	}
	dev, err := s.openSized(ctx, d, l)
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := mount(dev, d.dir); err != nil {
		return brokenError(d, err)
	}
	if err := s.ownTop(d.dir); err != nil {
		return errors.Join(err, unmount(d.image, d.dir))
	}
	return nil
}

// openSized returns the loop device of an image that has the Store's size. An
// image that another mount namespace has mounted, or a sandbox that is about
// to end, grows another time.
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
		// Perhaps it goes with us, or with a program that looks at new devices.
		if err := errors.Join(dev.Close(), sleep(ctx, busyPause)); err != nil {
			return nil, err
		}
	}
	larger, err := grow(d.image, s.opts.Bytes, l, d.failed)
	if err != nil {
		return nil, err
	}
	d.failed = false
	if larger && !d.told {
		s.opts.Logger.Warn("a disk is larger than disk_mib says and stays so: disks grow, but do not shrink", "disk", d.key, "image", d.image)
		d.told = true
	}
	return attach(ctx, d.image)
}

func (s *Store) isSmall(image string) bool {
	info, err := os.Lstat(image)
	return err == nil && info.Size() < s.opts.Bytes/blockSize*blockSize
}

// ownTop puts the top directory right.
func (s *Store) ownTop(dir string) error {
	return errors.Join(os.Chown(dir, s.opts.UID, s.opts.GID), os.Chmod(dir, privateMode))
}

// brokenError tells of an image that the kernel does not mount.
func brokenError(d *disk, err error) error {
	for _, cause := range []error{unix.EUCLEAN, unix.EINVAL, unix.EIO, unix.EBADMSG} {
		if errors.Is(err, cause) {
			return damaged(d.image, err)
		}
	}
	return err
}

// retire unmounts a file system that nobody uses, and removes what a process
// that died has left of it. busy: another process uses it, and it stays. The
// caller has entered d, which has no users here.
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
	for _, which := range []int64{turn, use} {
		if err := l.try(which, unix.F_WRLCK); errors.Is(err, errLocked) {
			return true, nil
		} else if err != nil {
			return false, machineError(action, err)
		}
	}
	if err := errors.Join(unmount(d.image, d.dir), s.dropPart(d.key), remove(d.image+tempExtension)); err != nil {
		return false, machineError(action, err)
	}
	if err := thin(context.Background(), d.image); err != nil {
		s.opts.Logger.Warn("the unused space of a disk stays allocated", "disk", d.key, "error", err)
	}
	return false, nil
}
