package engine

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestTheRightToMountLateIsKnown(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root")
	if err := onThread(bindRight); err != nil {
		t.Errorf("root: %v", err)
	}
	for name, bit := range map[string]uint{"CAP_SYS_CHROOT": unix.CAP_SYS_CHROOT, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN} {
		err := onThread(func() error {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var data [2]unix.CapUserData
			if err := unix.Capget(&header, &data[0]); err != nil {
				t.Error(err)
			}
			data[bit/32].Effective &^= 1 << (bit % 32)
			if err := unix.Capset(&header, &data[0]); err != nil {
				t.Error(err)
			}
			return bindRight()
		})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}
