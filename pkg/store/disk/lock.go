package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// The locks of a file system are bytes of its lock file. They belong to the open
// file and end with it or with the process.
const (
	// changeLock is exclusive for the process that creates, mounts, grows, fills or
	// unmounts the file system.
	changeLock = 0
	// useLock is shared by the users of the file system, and exclusive for changes
	// that they must not see. It may be released at any time, but is only taken
	// with changeLock held.
	useLock = 1
	// reserveLock is shared by the processes that have reserved its space, and
	// exclusive for returning the space.
	reserveLock = 2
)

// lockFile is the open lock file.
type lockFile struct{ f *os.File }

func openLock(path string) (lockFile, error) {
	// Only Remove removes the file, and then two processes can hold the same lock, one
	// on the removed file and one on its successor: see isCurrent.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, fileMode)
	return lockFile{f}, err
}

// try changes one of the locks, or returns statefile.ErrLocked.
func (l lockFile) try(which int64, mode statefile.Mode) error {
	return statefile.TryRange(l.f, mode, which, 1)
}

// wait is try that waits for the lock until ctx ends.
func (l lockFile) wait(ctx context.Context, which int64, mode statefile.Mode) error {
	if err := statefile.Wait(ctx, func() error { return l.try(which, mode) }); err != nil {
		return fmt.Errorf("wait for the disk: %w", err)
	}
	return nil
}

// close releases all locks. It releases them one by one before closing the file,
// because a child between its fork and its exec has the file open too, and with
// it the locks.
func (l lockFile) close() {
	_ = l.try(changeLock, statefile.Unlocked)
	_ = l.try(useLock, statefile.Unlocked)
	_ = l.try(reserveLock, statefile.Unlocked)
	_ = l.f.Close()
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
