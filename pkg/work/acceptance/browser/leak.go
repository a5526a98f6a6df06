package browser

import (
	"context"
	"fmt"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/heapprofiler"
	"github.com/chromedp/cdproto/runtime"
)

// The growth of a page's heap.
const (
	muchGrowth = 64 << 20 // bytes while the game is played, from which it is looked at closer
	leakGrowth = 24 << 20 // bytes that stay after a collection, in each of leakTimes
	leakTime   = 1200 * time.Millisecond
	leakTimes  = 3
)

// heap returns the bytes that scripts use, buffers included; 0 if the page does not
// answer.
func (t *tab) heap(ctx context.Context) float64 {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	u, err := call(ctx, t.page, runtime.GetHeapUsage, cdp.Empty{})
	if err != nil {
		return 0
	}
	return u.UsedSize + u.BackingStorageSize
}

// collected returns the heap after a collection.
func (t *tab) collected(ctx context.Context) float64 {
	limited, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := call(limited, t.page, heapprofiler.CollectGarbage, cdp.Empty{}); err != nil {
		return 0
	}
	return t.heap(ctx)
}

// leaks looks closer at the memory if it grew much while the game was played. It
// grows without end if it does so again and again without any input, and
// collections give nothing back.
func (t *tab) leaks(ctx context.Context, r *round) {
	if r.heap == 0 || t.heap(ctx)-r.heap < muchGrowth {
		return
	}
	first := t.collected(ctx)
	last := first
	for range leakTimes {
		pause(ctx, leakTime)
		next := t.collected(ctx)
		if ctx.Err() != nil || last == 0 || next-last < leakGrowth {
			return
		}
		last = next
	}
	t.ev.mu.Lock()
	defer t.ev.mu.Unlock()
	t.ev.leaks = fmt.Sprintf("the memory of its scripts grows by %.0f MiB per second without any input", (last-first)/(leakTimes*leakTime.Seconds())/(1<<20))
}
