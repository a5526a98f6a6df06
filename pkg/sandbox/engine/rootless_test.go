package engine

import (
	"bufio"
	"context"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// namelessEnv makes this program a process without a command line.
const namelessEnv = "DREAMCORE_TEST_NAMELESS"

func init() {
	if os.Getenv(namelessEnv) == "" {
		return
	}
	if err := dropArguments(); err != nil {
		panic(err)
	}
	os.Stdout.WriteString("ready\n")
	_, _ = os.Stdin.Read(make([]byte, 1)) // until its end
	os.Exit(0)
}

// dropArguments makes the kernel report an empty command line of this process.
func dropArguments() error {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):]))
	field := func(number int) uint64 { // as in proc_pid_stat(5)
		n, err := strconv.ParseUint(fields[number-2], 10, 64)
		if err != nil {
			panic(err)
		}
		return n
	}
	brk, _, _ := unix.RawSyscall(unix.SYS_BRK, 0, 0, 0) // cannot fail
	// struct prctl_mm_map
	layout := struct {
		code, data, brk [2]uint64
		stack           uint64
		arguments, env  [2]uint64
		auxv            uint64
		auxvSize, exe   uint32
	}{
		code: [2]uint64{field(26), field(27)}, data: [2]uint64{field(45), field(46)}, brk: [2]uint64{field(47), uint64(brk)}, stack: field(28),
		arguments: [2]uint64{field(48), field(48)}, env: [2]uint64{field(50), field(51)}, exe: math.MaxUint32, // unchanged
	}
	return unix.Prctl(unix.PR_SET_MM, unix.PR_SET_MM_MAP, uintptr(unsafe.Pointer(&layout)), unsafe.Sizeof(layout), 0)
}

// A sandbox whose processes have all ended is closed, although ctx has ended and a
// process without a command line could be one of them for a moment.
func TestAnEndedContextStopsNoSearchWithoutAFind(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), namelessEnv+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Errorf("the process says %q, %v", line, err)
	}
	if !isNameless("/proc/" + strconv.Itoa(cmd.Process.Pid)) {
		t.Error("the process has a command line")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if killed, err := killNamed(ctx, "/no/process/has/this/argument"); err != nil || len(killed) > 0 {
		t.Errorf("killed %v, %v", killed, err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
