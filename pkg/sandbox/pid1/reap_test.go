package pid1

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// Orphans may end as fast as they are collected. The reaper must release its
// lock in between: otherwise programs that multiply could not be killed.
func TestReapIsBounded(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start programs as a user")
	f := &family{children: map[int]*child{}, users: map[uint32]bool{}}
	for range 2*reapAtOnce + 1 {
		c, err := f.start("/bin/true", order{Args: []string{"true"}}, []uintptr{0, 1, 2})
		if err != nil {
			t.Fatal(err)
		}
		delete(f.children, c.pid) // like an orphan, which has no waiter
		// Wait until it has ended, but leave it to be collected.
		if err := unix.Waitid(unix.P_PID, c.pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []bool{true, true, false} {
		if left, more := f.reap(); left != want || more != want {
			t.Errorf("round %d: left %v, more %v, want %v", i, left, more, want)
		}
	}
}
