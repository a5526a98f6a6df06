package prefault

import (
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
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
		"00400000-018d8000 r-xp 00000000 fe:00 9978226        /bin/dreamc", // truncated
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

// TestProgramMapsFindsTheProgram compares with the name that the kernel reports.
func TestProgramMapsFindsTheProgram(t *testing.T) {
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

// mapped returns how many of n pages are mapped.
func mapped(t *testing.T, start uintptr, n int) (there int) {
	t.Helper()
	states := make([]byte, n)
	_, _, errno := syscall.RawSyscall(syscall.SYS_MINCORE, start, uintptr(n*syscall.Getpagesize()), uintptr(unsafe.Pointer(&states[0])))
	if errno != 0 {
		t.Fatal(errno)
	}
	for _, s := range states {
		there += int(s & 1)
	}
	return there
}

func TestPopulate(t *testing.T) {
	const pages = 64
	page := syscall.Getpagesize()
	memory, err := syscall.Mmap(-1, 0, pages*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(memory)
	start := uintptr(unsafe.Pointer(&memory[0]))
	if n := mapped(t, start, pages); n != 0 {
		t.Fatalf("%d pages are mapped at first", n)
	}
	populate(start+uintptr(page)+5, start+uintptr(page*9), populateWrite)
	if n := mapped(t, start, pages); n != 8 {
		t.Errorf("%d pages are mapped, 8 were asked for", n)
	}
}

// TestStackJoinsTheHeap fails if the runtime does not take back a large stack,
// or does not reuse it: then growHeap has no effect. Small objects are allocated
// from the lowest addresses first.
func TestStackJoinsTheHeap(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	growHeap()
	// The goroutine has signalled that it is done, but may not have ended yet.
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if runtime.ReadMemStats(&after); after.StackInuse <= before.StackInuse+stackSize/4 {
			break
		}
	}
	if got := after.HeapIdle - after.HeapReleased; got < stackSize*3/4 {
		t.Errorf("the heap has only %d bytes in reserve", got)
	}
	if after.StackInuse > before.StackInuse+stackSize/4 {
		t.Errorf("the stack is still in use: %d bytes", after.StackInuse-before.StackInuse)
	}
}

func TestRefusedCallsAreHarmless(t *testing.T) {
	populate(0, 1<<40, populateWrite)
	populate(1<<60, 1<<61, populateRead)
}
