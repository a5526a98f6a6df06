package disk

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestHostileKeysAreRefused(t *testing.T) {
	s := newStore(t)
	for _, name := range []string{"", ".", "..", "../x", "a/b", "/etc", "a.ext4", ".a", "-a", "a\x00", "a\n", "ä", strings.Repeat("a", 129)} {
		_, _, err := s.Acquire(t.Context(), name)
		wantError(t, err, dreamcore.CodeInvalid, "Invalid name", "letters")
		_, _, err = s.Find(t.Context(), name)
		wantError(t, err, dreamcore.CodeInvalid, "Invalid name", "letters")
	}
	if left, _ := os.ReadDir(filepath.Dir(s.opts.Images)); len(left) != 0 {
		t.Fatalf("created %v", left)
	}
}

func TestInvalidOptionsAreRefused(t *testing.T) {
	_, err := New(Options{Images: "/a", Mounts: "/b", Bytes: MinBytes - 1})
	wantError(t, err, dreamcore.CodeInvalid, "too small", "disk_mib")
	_, err = New(Options{Images: "a", Mounts: "/b", Bytes: MinBytes})
	wantError(t, err, dreamcore.CodeInvalid, "absolute", "full path")
}

func TestDirectoriesOfOtherUsersAreRefused(t *testing.T) {
	s := newStore(t)
	if err := os.Mkdir(s.opts.Images, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, spoil := range []func() error{
		func() error { return os.Chmod(s.opts.Images, 0o777) },
		func() error { return errors.Join(os.Chmod(s.opts.Images, 0o700), os.Chown(s.opts.Images, 1, 1)) },
		func() error { return errors.Join(os.Remove(s.opts.Images), os.Symlink(t.TempDir(), s.opts.Images)) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		_, _, err := s.Acquire(t.Context(), key)
		wantError(t, err, dreamcore.CodeSetup, "only this user can write", "chmod 700")
	}
}

func TestAMissingMkfsNamesThePackageToInstall(t *testing.T) {
	_, err := lookPath("mkfs.of-dreams")
	wantError(t, err, dreamcore.CodeSetup, "mkfs.of-dreams", "apt-get install e2fsprogs")
	wantError(t, err, dreamcore.CodeSetup, "mkfs.of-dreams", "disk_mib: 0")
	for _, cause := range []error{unix.ENOENT, unix.EPERM, unix.ENODEV} {
		wantError(t, loopError(&os.PathError{Op: "open", Path: loopControl, Err: cause}), dreamcore.CodeSetup, "no loop devices", "disk_mib: 0")
	}
	wantError(t, machineError("mount", unix.ENODEV), dreamcore.CodeSetup, "cannot mount", "modprobe ext4")
}
