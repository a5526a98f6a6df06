package pid1

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// Orphans may end as fast as they are collected. Whoever collects them must
// let others have their turn: with the lock held to the last one, nobody could
// kill those that multiply.
func TestReapTakesSomeAtOnce(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start programs as a user")
	f := &family{children: map[int]*child{}}
	for range 2*reapAtOnce + 1 {
		c, err := f.start("/bin/true", order{Args: []string{"true"}}, []uintptr{0, 1, 2})
		if err != nil {
			t.Fatal(err)
		}
		delete(f.children, c.pid) // as an orphan, for whom nobody waits
		// Until it has ended; it can still be collected.
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
