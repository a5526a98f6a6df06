package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// grow grows the file system in an image to size bytes, and repairs it if it is
// marked as damaged, by the kernel or by an interrupted resize, or if it is
// suspect. It never shrinks it; larger reports that it exceeds size. The file
// system must not be mounted: growing a mounted ext4 needs CAP_SYS_RESOURCE, which
// services and containers often do not have.
func grow(image string, size int64, l lockFile, suspect bool) (larger bool, err error) {
	size = size / blockSize * blockSize
	f, err := os.OpenFile(image, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	blocks, damaged, err := readSuper(f)
	if err != nil {
		return false, err
	}
	damaged = damaged || suspect
	small := blocks*blockSize < size
	if !damaged && !small {
		return blocks*blockSize > size, nil
	}
	if err := repair(image, l); err != nil {
		return false, err
	}
	if !small {
		return false, nil
	}
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if info.Size() < size { // otherwise a process died after this truncation
		if err := f.Truncate(size); err != nil {
			return false, err
		}
	}
	if err := runToEnd(l, "resize2fs", image, fmt.Sprint(size/blockSize)); err != nil {
		return false, fmt.Errorf("grow the disk: %w", err)
	}
	return false, f.Sync()
}

// repair runs e2fsck for the faults that it corrects without asking. It also
// replays the journal, which must be done before a file system grows.
func repair(image string, l lockFile) error {
	err := runToEnd(l, "e2fsck", "-f", "-p", image)
	const corrected = 3 // bits of the exit code that mean success
	if e, ok := errors.AsType[*exec.ExitError](err); ok && e.ExitCode() > 0 && e.ExitCode()&^corrected == 0 {
		return nil
	}
	if err != nil {
		return damaged(image, err)
	}
	return nil
}

func damaged(image string, err error) error {
	if _, ok := errors.AsType[*dreamcore.Error](err); ok {
		return err // e2fsck is not installed
	}
	return setupError("the disk "+image+" is damaged", "repair it: e2fsck -f "+image+" (dmesg may say more)", err)
}

// runToEnd runs a program that must complete, even after the end of this process:
// in a session of its own, and with a duplicate of the lock file, whose locks last
// until both have closed it. So no context interrupts it; it takes a second, not
// minutes.
func runToEnd(l lockFile, program string, args ...string) error {
	path, err := lookPath(program)
	if err != nil {
		return err
	}
	// A pipe would kill it when the reader is gone.
	fd, err := unix.MemfdCreate(program, unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("prepare the output of %s: %w", program, err)
	}
	printed := os.NewFile(uintptr(fd), program)
	defer printed.Close()
	cmd := exec.Command(path, args...)
	cmd.ExtraFiles = []*os.File{l.f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdout, cmd.Stderr = printed, printed
	err = cmd.Run()
	out := &tail{}
	_, readErr := io.Copy(out, io.NewSectionReader(printed, 0, 1<<20))
	if err == nil {
		return nil
	}
	return withOutput(program, errors.Join(err, readErr), out)
}

// readSuper reads the number of blocks in the superblock of an image, and whether
// it is marked as damaged. statfs returns fewer blocks: it leaves out the metadata
// of the file system.
func readSuper(image *os.File) (blocks int64, broken bool, err error) {
	const (
		at    = 1024
		low   = 0x4
		magic = 0x38
		state = 0x3a
		high  = 0x150

		ext4      = 0xef53
		hasErrors = 2
	)
	var super [1024]byte
	if _, err := image.ReadAt(super[:], at); err != nil {
		return 0, false, damaged(image.Name(), err)
	}
	if binary.LittleEndian.Uint16(super[magic:]) != ext4 {
		return 0, false, damaged(image.Name(), errors.New("it has no superblock of ext4"))
	}
	blocks = int64(binary.LittleEndian.Uint32(super[low:])) | int64(binary.LittleEndian.Uint32(super[high:]))<<32
	return blocks, binary.LittleEndian.Uint16(super[state:])&hasErrors != 0, nil
}
