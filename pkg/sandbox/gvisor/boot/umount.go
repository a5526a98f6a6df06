package boot

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// umountRole is the argument of the process that unmounts a directory when it
// is told to: the sentry has no right to it any more when the time has come.
const umountRole = "umount"

// UmountMain is the program of that process, when the command line says that
// this is it.
func UmountMain(args []string) (is bool, err error) {
	if len(args) != 4 || args[1] != umountRole {
		return false, nil
	}
	return true, unmount(args[2], args[3])
}

// unmount takes dir out of the tree once there is a byte to read from the
// descriptor that a flag names. The end of the file is no such order: whoever
// would have given it is dead.
func unmount(flag, dir string) error {
	number, _ := strings.CutPrefix(flag, "--sync-fd=")
	fd, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return fmt.Errorf("unmount %s: no descriptor in %q", dir, flag)
	}
	order := os.NewFile(uintptr(fd), "sync")
	defer order.Close()
	if _, err := order.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("unmount %s: wait for the order: %w", dir, err)
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
