package prefault

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

func TestParseMap(t *testing.T) {
	for line, want := range map[string]span{
		"00400000-018d8000 r-xp 00000000 fe:00 9978226                            /bin/dreamcore\n": {0x400000, 0x18d8000, false},
		"03967000-03a82000 rw-p 03567000 fe:00 9978226                            /a b\n":           {0x3967000, 0x3a82000, true},
	} {
		if got, ok := parseMap(line); !ok || got != want {
			t.Errorf("%q: %v, %t", line, got, ok)
		}
	}
	for _, line := range []string{
		"", "\n", "03a82000-05ad2000 rw-p 00000000 00:00 0 \n",
		"7ffc-7ffe r-xp 00000000 00:00 0                                  [vdso]\n",
		"00400000-018d8000 r-xp 00000000 fe:00 9978226        /bin/dreamc", // cut off
		"018d8000-00400000 r-xp 00000000 fe:00 9978226        /bin/dreamcore\n",
		"x-018d8000 r-xp 00000000 fe:00 9978226        /bin/dreamcore\n",
		"00400000 r-xp 00000000 fe:00 9978226        /bin/dreamcore\n",
		"00400000-fffffffffffffffff r-xp 00000000 fe:00 9978226        /bin/dreamcore\n",
	} {
		if got, ok := parseMap(line); ok {
			t.Errorf("%q: %v", line, got)
		}
	}
}

// TestTheProgramIsFound compares with the name that the kernel gives.
func TestTheProgramIsFound(t *testing.T) {
	raw, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Count(string(raw), exe)
	if got := len(programMaps()); got < 2 || got > want {
		t.Errorf("%d mappings of the program, of %d", got, want)
	}
}

// TestAStackIsTheHeapsAfterwards fails where the runtime does not take a large
// stack, or keeps it: then growHeap helps nobody.
func TestAStackIsTheHeapsAfterwards(t *testing.T) {
	growHeap()
	kept := make([][]byte, stackSize/4>>16)
	for i := range kept {
		kept[i] = make([]byte, 64<<10)
	}
	there := 0
	for _, b := range kept {
		page := uintptr(unsafe.Pointer(&b[0])) &^ uintptr(syscall.Getpagesize()-1)
		var state [1]byte
		_, _, errno := syscall.RawSyscall(syscall.SYS_MINCORE, page, uintptr(syscall.Getpagesize()), uintptr(unsafe.Pointer(&state)))
		if errno != 0 {
			t.Fatal(errno)
		}
		there += int(state[0] & 1)
	}
	if there < len(kept)/2 {
		t.Errorf("%d of %d pieces of the heap are mapped", there, len(kept))
	}
}

func TestWhatTheKernelRefuses(t *testing.T) {
	populate(0, 1<<40, populateWrite)
	populate(1<<60, 1<<61, populateRead)
}
