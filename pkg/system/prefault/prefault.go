// Package prefault makes a program of ours start faster where page faults are
// dear, as in a virtual machine within another: a start of this program takes
// some thousand of them, and a sandbox takes several starts. A program that
// imports the package asks the kernel in a few calls to map itself, and the
// memory that the initialisation of its packages needs.
//
// Packages are initialised in the order of their paths, as far as imports
// permit; so this one imports hardly anything, and runs before those that
// matter. What the kernel refuses, it maps later by itself.
package prefault

import (
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// Advice of madvise: map pages as reading them, or writing to them, would.
const (
	populateRead  = 22
	populateWrite = 23
)

func init() {
	for _, m := range programMaps() {
		if !m.writable { // what is written to becomes memory of our own
			populate(m.from, m.to, populateRead)
		}
	}
	growHeap()
}

// growHeap gives Go's heap stackSize bytes of memory that are mapped already.
//
// The runtime has no call for it. But it takes back the stack of a goroutine
// that has ended at once, without a collection, and that memory is the heap's.
func growHeap() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		deep(false)
	}()
	<-done
}

// The size of a stack that holds a frame with a value of half of it and more:
// the runtime doubles stacks until they are large enough.
const (
	stackSize = 4 << 20
	valueSize = stackSize * 5 / 8
)

// deep has a frame in which the result of huge would be put, and which nobody
// writes to, and maps the stack that it lies in.
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

// span is a mapping of a file.
type span struct {
	from, to uintptr
	writable bool
}

// programMaps are the mappings of the program's file, which the kernel lists
// first; none, where there is no /proc.
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
			break // no file is behind what follows
		}
		maps = append(maps, m)
	}
	return maps
}

// parseMap reads a line such as
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
