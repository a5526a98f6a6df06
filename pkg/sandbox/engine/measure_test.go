package engine

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMemoryFilesAreMeasuredByWhatIsWritten(t *testing.T) {
	before, err := memoryFiles("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "test")
	defer f.Close()
	again, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0) // counts once
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(again)
	const written = 3 << 20
	if err := f.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, written), 1<<30); err != nil {
		t.Fatal(err)
	}
	if after, err := memoryFiles("/proc/self"); err != nil || after-before != written {
		t.Errorf("%d bytes more, want %d: %v", after-before, written, err)
	}
	if own, err := anonymous("/proc/self"); err != nil || own <= 0 || own > 1<<32 {
		t.Errorf("%d bytes of its own: %v", own, err)
	}
}

func TestASandboxNearItsLimitIsMeasuredSooner(t *testing.T) {
	for room, want := range map[int64]time.Duration{
		0: measureSoonest, 1 << 20: measureSoonest, 1 << 30: 250 * time.Millisecond, 1 << 40: measureLatest, 1<<63 - 1: measureLatest,
	} {
		if got := pause(room); got != want {
			t.Errorf("%s with %d bytes left, want %s", got, room, want)
		}
	}
}
