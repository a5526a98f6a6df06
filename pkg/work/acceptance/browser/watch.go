package browser

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The bounds of a page. The sandbox's memory is shared with the user's other
// processes, so a page that takes it is ended before the kernel chooses one.
const (
	maxMemory = 900 << 20 // resident bytes that a process of the browser takes more than at first
	// maxGrowth bounds what all processes together take more than at the beginning
	// of the check. Their sum itself says little: gVisor counts the file of the
	// program, 200 MiB, as resident in each of them, which makes 2 GiB for an idle
	// browser that takes 140 MiB.
	maxGrowth  = 1200 << 20
	watchEvery = 50 * time.Millisecond
	frozenTime = 8 * time.Second // without an answer, while the page computes
	frozenCPU  = 5 * time.Second // of processor time meanwhile
)

var (
	errFrozen  = errors.New("the main thread does not answer")
	errCrashed = errors.New("the page's process ended")
	errDialogs = errors.New("the page opens dialog after dialog")
)

// watcher follows the processes of a browser during a check.
type watcher struct {
	mu       sync.Mutex
	killed   int64                 // growth of a process that was ended
	peak     int64                 // growth of any page's process
	first    map[int]int64         // resident bytes of processes at the beginning
	cpu      map[int]time.Duration // of the pages' processes
	kindOf   map[int]string
	baseline int64 // sum at the beginning
	sum      int64
}

// watch looks at the processes below pid until ctx ends, and ends those that take
// too much memory.
func (w *watcher) watch(ctx context.Context, pid int) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var pids []int
	for n := 0; ; n++ {
		if n%4 == 0 || len(pids) == 0 {
			pids = descendants(pid)
		}
		w.look(pids)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *watcher) look(pids []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var sum, largest int64
	big := 0
	for _, pid := range pids {
		kind, known := w.kindOf[pid]
		if !known {
			// A process is forked as one of another kind.
			if kind = kindOf(pid); kind == "renderer" || kind == "gpu-process" {
				w.kindOf[pid] = kind
			}
		}
		s, ok := readStat(pid)
		if !ok || s.state == 'Z' {
			continue
		}
		if w.baseline == 0 {
			w.first[pid] = s.memory
		}
		grown := s.memory - w.first[pid]
		if kind == "renderer" {
			w.cpu[pid] = s.cpu
			w.peak = max(w.peak, grown)
		}
		sum += s.memory
		if grown > largest && (kind == "renderer" || kind == "gpu-process") {
			largest, big = grown, pid
		}
	}
	w.sum = sum
	if w.baseline == 0 {
		w.baseline = sum
	}
	// Resident bytes count what processes share once for each of them, which is most
	// of what a browser has before it plays anything.
	if big != 0 && (largest > maxMemory || sum-w.baseline > maxGrowth) {
		w.killed = max(w.killed, largest)
		_ = syscall.Kill(big, syscall.SIGKILL)
	}
}

// kindOf returns the type of a process of the browser, such as renderer.
func kindOf(pid int) string {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return ""
	}
	for arg := range strings.FieldsFuncSeq(string(raw), func(r rune) bool { return r == 0 || r == ' ' }) {
		if kind, ok := strings.CutPrefix(arg, "--type="); ok {
			return kind
		}
	}
	return "browser"
}

// computed returns the processor time of the pages' processes.
func (w *watcher) computed() map[int]time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := make(map[int]time.Duration, len(w.cpu))
	for pid, d := range w.cpu {
		m[pid] = d
	}
	return m
}

// used returns the processor time that the process of a page has used since before;
// 0 if it is unknown.
func (w *watcher) used(pid int, before map[int]time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cpu[pid] - before[pid]
}

func (w *watcher) ended() (killed, peak int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.killed, w.peak
}

// heart asks the main thread again and again whether it answers, and ends the play
// with a cause when it no longer does, or when the page is beyond help.
func (t *tab) heart(ctx context.Context, w *watcher, end context.CancelCauseFunc) {
	for ctx.Err() == nil {
		asked, before := time.Now(), w.computed()
		_, dialogs := t.dialogs()
		answered := make(chan error, 1)
		call, cancel := context.WithCancel(ctx)
		go func() { answered <- t.ping(call) }()
		err := t.listen(ctx, w, asked, before, dialogs, answered)
		cancel()
		if err != nil {
			end(err) // of no effect if ctx has ended
			return
		}
		t.lasted(time.Since(asked), dialogs)
		pause(ctx, 100*time.Millisecond)
	}
}

// listen waits for an answer of the main thread.
func (t *tab) listen(ctx context.Context, w *watcher, asked time.Time, before map[int]time.Duration, dialogs int, answered chan error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-answered:
			if errors.Is(err, errClosed) {
				t.gone()
				return err
			}
			if ctx.Err() != nil { // the call was given up
				t.unanswered(time.Since(asked), w.used(t.process(), before))
				return ctx.Err()
			}
			return t.beyond()
		case <-ctx.Done():
			t.unanswered(time.Since(asked), w.used(t.process(), before))
			return ctx.Err()
		case <-tick.C:
		}
		if err := t.beyond(); err != nil {
			return err
		}
		if open, n := t.dialogs(); open || n != dialogs {
			asked, before, dialogs = time.Now(), w.computed(), n // a dialog stops the page rightly
		}
		if d := time.Since(asked); d >= frozenTime && t.unanswered(d, w.used(t.process(), before)) {
			return errFrozen
		}
	}
}

// gone records that there is no browser any more.
func (t *tab) gone() {
	t.ev.mu.Lock()
	defer t.ev.mu.Unlock()
	t.ev.silent = true
}

// unanswered records that the main thread did not answer for d, and reports
// whether that was long and it computed meanwhile: then it is the page, and not a
// slow machine.
func (t *tab) unanswered(d, computed time.Duration) bool {
	t.ev.mu.Lock()
	defer t.ev.mu.Unlock()
	if d < 2500*time.Millisecond {
		return false
	}
	t.ev.silent = true
	t.ev.busy = max(t.ev.busy, d)
	t.ev.frozen = d >= frozenTime && computed >= frozenCPU
	return t.ev.frozen
}

// lasted records the time of an answer.
func (t *tab) lasted(d time.Duration, dialogs int) {
	if _, n := t.dialogs(); n != dialogs {
		return
	}
	t.ev.mu.Lock()
	defer t.ev.mu.Unlock()
	t.ev.silent, t.ev.frozen = false, false
	t.ev.busy = max(t.ev.busy, d)
}

// beyond returns why nothing more can be learned of the page.
func (t *tab) beyond() error {
	t.ev.mu.Lock()
	defer t.ev.mu.Unlock()
	switch {
	case t.ev.crashed != "":
		return errCrashed
	case t.ev.dialogN >= maxDialogs:
		return errDialogs
	}
	return nil
}
