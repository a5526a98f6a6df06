package browser

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/chromedp/cdproto/browser"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// The limits of a request.
const (
	minLimit     = time.Second
	maxLimit     = 5 * time.Minute
	defaultLimit = 20 * time.Second
	margin       = 700 * time.Millisecond // of the limit, for the report
)

// ready is a browser with the pages of the next check.
type ready struct {
	process *process
	tabs    []*tab
}

// prepare opens a page for each screen.
func prepare(ctx context.Context, p *process) (*ready, error) {
	r := &ready{process: p, tabs: make([]*tab, len(verdict.Screens))}
	errs := make([]error, len(verdict.Screens))
	var wait sync.WaitGroup
	for i, screen := range verdict.Screens {
		wait.Go(func() { r.tabs[i], errs[i] = newTab(ctx, p, screen) })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *ready) close() {
	var wait sync.WaitGroup
	for _, t := range r.tabs {
		if t != nil {
			wait.Go(t.close)
		}
	}
	wait.Wait()
}

// check opens the game on every screen at the same time and returns the report,
// within the limit of the request. usable is false if the browser is not to be used
// again.
func (r *ready) check(ctx context.Context, q verdict.Request) (report *verdict.Report, usable bool) {
	began := time.Now()
	limit := min(max(q.Limit, minLimit), maxLimit)
	if q.Limit == 0 {
		limit = defaultLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit-min(margin, limit/4))
	defer cancel()
	watching, stop := context.WithCancel(context.Background())
	w := &watcher{first: map[int]int64{}, cpu: map[int]time.Duration{}, kindOf: map[int]string{}}
	var background, plays sync.WaitGroup
	background.Go(func() { w.watch(watching, r.process.cmd.Process.Pid) })
	origin := fmt.Sprintf("http://127.0.0.1:%d", q.Port)
	rounds := make([]*round, len(r.tabs))
	evidences := make([]*evidence, len(r.tabs))
	for i, t := range r.tabs {
		evidences[i] = newEvidence(t.screen, origin, q.Hosts)
		rounds[i] = &round{}
		t.begin(evidences[i])
	}
	background.Go(func() { r.downloads(watching) })
	for i, t := range r.tabs {
		plays.Go(func() {
			play, end := context.WithCancelCause(ctx)
			defer end(nil)
			var heart sync.WaitGroup
			heart.Go(func() { t.heart(play, w, end) })
			t.play(play, origin+"/", rounds[i])
			t.leaks(play, rounds[i])
			if q.Pixels {
				t.portrait(play)
			}
			end(nil)
			heart.Wait()
		})
	}
	late := time.AfterFunc(time.Until(deadline(ctx))+margin/3, r.process.kill) // the plays end with ctx, unless the machine is too busy
	plays.Wait()
	usable = late.Stop()
	stop()
	background.Wait()
	killed, peak := w.ended()
	report = &verdict.Report{Browser: clean(r.process.product, 100)}
	for i, t := range r.tabs {
		ev := evidences[i]
		ev.mu.Lock()
		if killed > 0 || ev.crashed != "" && peak > crashMemory {
			ev.grown = max(killed, peak)
		}
		report.Checks = append(report.Checks, judge(ev, rounds[i], rounds[len(rounds)-1-i])...)
		usable = usable && ev.crashed == "" && !ev.silent && killed == 0
		ev.mu.Unlock()
		if raw := t.film.picture(); q.Pixels && len(raw) > 0 && len(raw) <= verdict.MaxShot {
			report.Shots = append(report.Shots, verdict.Shot{Screen: t.screen, PNG: raw})
		}
	}
	report.Verdict = conclude(report.Checks)
	report.Millis = time.Since(began).Milliseconds()
	return report, usable
}

func deadline(ctx context.Context) time.Time {
	d, _ := ctx.Deadline()
	return d
}

// crashMemory is the memory of a page from which its crash is one of memory.
const crashMemory = 350 << 20

// downloads records what the pages download, which the browser denies.
func (r *ready) downloads(ctx context.Context) {
	for {
		events, _, ok := r.process.root.take(ctx)
		if !ok {
			return
		}
		for _, e := range events {
			d, ok := decode(e, browser.DownloadWillBegin)
			if !ok {
				continue
			}
			for _, t := range r.tabs {
				t.downloaded(d)
			}
		}
	}
}

// downloaded records a download of the tab's page.
func (t *tab) downloaded(d browser.EventDownloadWillBegin) {
	t.mu.Lock()
	main := t.main
	t.mu.Unlock()
	if d.FrameID != main {
		return
	}
	t.ev.mu.Lock()
	defer t.ev.mu.Unlock()
	if t.ev.recent() {
		t.ev.leftClick = true
		return
	}
	t.ev.note(&t.ev.left, fault{text: "downloads " + clean(d.SuggestedFilename, 80)})
}
