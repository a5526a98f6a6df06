package browser

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// TestAPageIsFrozenOnlyIfItsOwnProcessComputes: for long, also if the check ends
// meanwhile. The other screen, another page, or a slow machine is no reason.
func TestAPageIsFrozenOnlyIfItsOwnProcessComputes(t *testing.T) {
	for name, c := range map[string]struct {
		pid    int
		silent time.Duration
		used   time.Duration
		want   bool
	}{
		"it computes":       {7, frozenTime + time.Second, frozenCPU, true},
		"another one does":  {8, frozenTime + time.Second, time.Hour, false},
		"not long":          {7, frozenTime - time.Second, time.Hour, false},
		"it does not":       {7, time.Hour, frozenCPU - time.Second, false},
		"unknown process":   {0, time.Hour, time.Hour, false},
		"it only was short": {7, time.Second, time.Hour, false},
	} {
		for _, ends := range []bool{true, false} {
			ev := newEvidence(verdict.Phone, "http://127.0.0.1:1", nil)
			tab := &tab{ev: ev, pid: c.pid}
			before := map[int]time.Duration{7: time.Minute, 8: time.Minute}
			w := &watcher{cpu: map[int]time.Duration{7: time.Minute + c.used, 8: time.Minute}}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if ends {
				cancel()
			}
			err := tab.listen(ctx, w, time.Now().Add(-c.silent), before, 0, make(chan error))
			cancel()
			if ev.frozen != c.want || err == nil {
				t.Errorf("%s, %v: frozen %v, %v", name, ends, ev.frozen, err)
			}
		}
	}
}

// TestTheKindOfAProcessMayChange: a zygote becomes a renderer.
func TestTheKindOfAProcessMayChange(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", `read go; exec /bin/sh -c "read end" sh $KIND`, "sh", "--type=zygote")
	cmd.Env = []string{"KIND=--type=renderer"}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	w := &watcher{first: map[int]int64{}, cpu: map[int]time.Duration{}, kindOf: map[int]string{}}
	pid := cmd.Process.Pid
	wait := func(kind string) {
		for end := time.Now().Add(10 * time.Second); kindOf(pid) != kind; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s, want %s", kindOf(pid), kind)
			}
		}
		w.look([]int{pid})
	}
	wait("zygote")
	if _, ok := w.cpu[pid]; ok {
		t.Error("it counts already")
	}
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	wait("renderer")
	if _, ok := w.cpu[pid]; !ok {
		t.Error("a renderer is not followed")
	}
}

// TestAnEndlessLoopIsFoundOnItsScreen: the other one can be played.
func TestAnEndlessLoopIsFoundOnItsScreen(t *testing.T) {
	d := newDriver(t)
	r := d.check(t, game(t, `<h1 style="background:#8cf">Game</h1><button onclick="this.style.background='red'">Start</button>
<script>if (innerWidth < 500) for (;;);</script>`), 20*time.Second)
	if phone, desktop := find(r, verdict.Responsive, verdict.Phone), find(r, verdict.Responsive, verdict.Desktop); phone.Status != verdict.Failed || desktop.Status != verdict.Passed {
		t.Error(describe(r))
	}
}
