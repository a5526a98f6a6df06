// Package prefault makes the program start faster where page faults are
// expensive, as in nested virtual machines: each start causes some thousand of
// them, and a sandbox needs several starts. On import, the package asks the
// kernel in a few calls to map the program itself and the memory that package
// initialization needs.
//
// Packages are initialized in the order of their import paths as far as their
// dependencies permit, so this package imports hardly anything and runs before
// those that matter. Refused calls are harmless: pages are then mapped on demand.
package prefault

import (
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// Advice values of madvise: map pages as a read, or a write, of them would.
const (
	populateRead  = 22
	populateWrite = 23
)

func init() {
	for _, m := range programMaps() {
		if !m.writable { // written pages become private copies
			populate(m.from, m.to, populateRead)
		}
	}
	growHeap()
}

// growHeap adds stackSize bytes of mapped memory to Go's heap.
//
// The runtime has no call for that. But when a goroutine ends, the runtime takes
// its stack back at once, without a collection, and the memory joins the heap.
func growHeap() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		deep(false)
	}()
	<-done
}

// valueSize is the size of a frame that needs a stack of stackSize: the runtime
// doubles stacks until they are large enough.
const (
	stackSize = 4 << 20
	valueSize = stackSize * 5 / 8
)

// deep has a frame that reserves space for the result of huge without writing
// to it, and maps the stack below it.
//
//go:noinline
func deep(call bool) {
	var here byte
	if call {
		_ = huge()
	}
	end := uintptr(unsafe.Pointer(&here)) &^ uintptr(syscall.Getpagesize()-1)
	populate(end-stackSize, end, populateWrite)
}

//go:noinline
func huge() (value [valueSize]byte) { return value }

// span is a mapping of the program's file.
type span struct {
	from, to uintptr
	writable bool
}

// programMaps returns the mappings of the program's file, which the kernel lists
// first, or nil without /proc.
func programMaps() []span {
	fd, err := syscall.Open("/proc/self/maps", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer syscall.Close(fd)
	var raw [1024]byte
	n, err := syscall.Read(fd, raw[:])
	if err != nil {
		return nil
	}
	var maps []span
	for line := range strings.Lines(string(raw[:n])) {
		m, ok := parseMap(line)
		if !ok {
			break // the mappings that follow have no file
		}
		maps = append(maps, m)
	}
	return maps
}

// parseMap parses a line such as
// "00400000-018d8000 r-xp 00000000 fe:00 9978226    /bin/dreamcore\n".
func parseMap(line string) (m span, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[4] == "0" || !strings.HasSuffix(line, "\n") {
		return span{}, false
	}
	low, high, _ := strings.Cut(fields[0], "-")
	from, ferr := strconv.ParseUint(low, 16, strconv.IntSize)
	to, terr := strconv.ParseUint(high, 16, strconv.IntSize)
	if ferr != nil || terr != nil || from >= to {
		return span{}, false
	}
	return span{uintptr(from), uintptr(to), strings.Contains(fields[1], "w")}, true
}

func populate(from, to, advice uintptr) {
	page := uintptr(syscall.Getpagesize())
	from &^= page - 1
	_, _, _ = syscall.RawSyscall(syscall.SYS_MADVISE, from, to-from, advice)
}
