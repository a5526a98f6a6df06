package boot

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// umountRole is the argument of the process that unmounts a directory on
// request, because the sentry itself has dropped the privilege by then.
const umountRole = "umount"

// UmountMain runs that process if the command line has its role. It reports
// whether that was the case.
func UmountMain(args []string) (is bool, err error) {
	if len(args) != 4 || args[1] != umountRole {
		return false, nil
	}
	return true, unmount(args[2], args[3])
}

// unmount detaches dir once there is a byte to read from the descriptor that
// flag names. EOF means that the requester died, so nothing is unmounted.
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
