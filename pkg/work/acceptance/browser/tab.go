package browser

import (
	"context"
	"crypto/rand"
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/inspector"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

//go:embed instrument.js
var instrument string

// size is a screen in points.
type size struct {
	width, height int64
	scale         float64 // pixels of a point
	film          int64   // width of the pictures that are compared, in pixels
	shot          int64   // width of the picture in the report
}

var sizes = map[verdict.Screen]size{
	verdict.Phone:   {390, 844, 2, 195, 390},
	verdict.Desktop: {1280, 720, 1, 320, 640},
}

// tab is an empty page in a context of its own, prepared before the request
// comes. It serves one check.
type tab struct {
	screen  verdict.Screen
	size    size
	browser *process
	context cdp.BrowserContextID
	target  target.ID
	page    *session
	secret  string // name of the function of the instrumentation
	film    *film

	mu      sync.Mutex
	ev      *evidence // nil before the check
	main    cdp.FrameID
	reason  page.ClientNavigationReason // of the newest navigation that the page asked for
	prompts int
	asking  bool // a dialog is open
	workers int
	pid     int // of the page's process; 0 if unknown
	talk    int // console messages

	stop context.CancelFunc
	wait sync.WaitGroup
}

const (
	maxWorkers = 16   // whose errors are recorded; more run unwatched
	maxTalk    = 3000 // console messages until the console is turned off
)

// newTab prepares a page. The caller must close it.
func newTab(ctx context.Context, p *process, screen verdict.Screen) (*tab, error) {
	t := &tab{screen: screen, size: sizes[screen], browser: p, secret: "_" + rand.Text(), film: newFilm(), stop: func() {}}
	if err := t.open(ctx); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// open creates the tab's context and its page.
func (t *tab) open(ctx context.Context) error {
	p, yes := t.browser, true
	c, err := call(ctx, p.root, target.CreateBrowserContext, target.CreateBrowserContextParams{DisposeOnDetach: &yes})
	if err != nil {
		return err
	}
	t.context = c.BrowserContextID
	if _, err := call(ctx, p.root, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
		Behavior: browser.SetDownloadBehaviorBehaviorDeny, BrowserContextID: t.context, EventsEnabled: &yes,
	}); err != nil {
		return err
	}
	created, err := call(ctx, p.root, target.CreateTarget, target.CreateTargetParams{
		URL: "about:blank", BrowserContextID: t.context, Width: t.size.width, Height: t.size.height, NewWindow: &yes,
	})
	if err != nil {
		return err
	}
	// The browser gives the main frame the name of its page. What comes before the
	// event that says so belongs to it too, such as a download at the start.
	t.target, t.main = created.TargetID, cdp.FrameID(created.TargetID)
	a, err := call(ctx, p.root, target.AttachToTarget, target.AttachToTargetParams{TargetID: t.target, Flatten: &yes})
	if err != nil {
		return err
	}
	t.page = p.pipe.session(a.SessionID)
	follow, stop := context.WithCancel(context.Background())
	t.stop = stop
	t.wait.Go(func() { t.follow(follow, t.page, true) })
	return t.prepare(ctx)
}

// prepare turns on the features that the check needs. The order of the commands is that of the
// calls, so only the last answer is awaited.
func (t *tab) prepare(ctx context.Context) error {
	yes, phone := true, t.screen == verdict.Phone
	s := t.page
	cast(s, page.Enable, page.EnableParams{})
	cast(s, runtime.Enable, cdp.Empty{})
	cast(s, log.Enable, cdp.Empty{})
	cast(s, inspector.Enable, cdp.Empty{})
	small := int64(1 << 20)
	cast(s, network.Enable, network.EnableParams{MaxTotalBufferSize: &small, MaxResourceBufferSize: &small})
	cast(s, fetch.Enable, fetch.EnableParams{Patterns: []*fetch.RequestPattern{{ResourceType: network.ResourceTypeDocument}}})
	cast(s, target.SetAutoAttach, target.SetAutoAttachParams{AutoAttach: true, WaitForDebuggerOnStart: true, Flatten: &yes})
	cast(s, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: t.size.width, Height: t.size.height, DeviceScaleFactor: t.size.scale, Mobile: phone,
		ScreenWidth: t.size.width, ScreenHeight: t.size.height,
	})
	cast(s, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
	if phone {
		cast(s, emulation.SetTouchEmulationEnabled, emulation.SetTouchEmulationEnabledParams{Enabled: true, MaxTouchPoints: 5})
		cast(s, emulation.SetUserAgentOverride, emulation.SetUserAgentOverrideParams{
			UserAgent: "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/" + t.browser.version() + " Mobile Safari/537.36",
			Platform:  "Linux armv81",
		})
	}
	cast(s, runtime.Evaluate, runtime.EvaluateParams{Expression: "fetch('data:,').catch(() => 0)"}) // for requested
	_, err := call(ctx, s, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{
		Source: strings.TrimSpace(instrument) + "(" + fmt.Sprintf("%q", t.secret) + ");",
	})
	return err
}

// close ends the page and what it started. It does not wait for the page itself:
// a page may never answer.
func (t *tab) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if t.target != "" {
		cast(t.browser.root, target.CloseTarget, target.CloseTargetParams{TargetID: t.target})
	}
	if t.context != "" {
		_, _ = call(ctx, t.browser.root, target.DisposeBrowserContext, target.DisposeBrowserContextParams{BrowserContextID: t.context})
	}
	t.stop()
	t.wait.Wait()
	if t.page != nil {
		t.browser.pipe.forget(t.page.id)
	}
}

// begin assigns the evidence of a check and starts to film.
func (t *tab) begin(ev *evidence) {
	t.mu.Lock()
	t.ev = ev
	t.mu.Unlock()
	yes := true
	cast(t.page, page.StartScreencast, page.StartScreencastParams{
		Format: page.StartScreencastFormatPng, MaxWidth: t.size.film, MaxHeight: t.size.film * t.size.height / t.size.width,
		EveryNthFrame: 1, MaxFramesInFlight: 1, SendLastFrame: &yes,
	})
}

// portrait takes the picture for the report. If it does not come in time, the
// report has the newest picture of the film.
func (t *tab) portrait(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, portraitTime)
	defer cancel()
	cast(t.page, page.StopScreencast, cdp.Empty{})
	yes, scale := true, float64(t.size.shot)/float64(t.size.width)/t.size.scale
	shot, err := call(ctx, t.page, page.CaptureScreenshot, page.CaptureScreenshotParams{
		Format: page.CaptureScreenshotFormatPng, OptimizeForSpeed: &yes,
		Clip: &page.Viewport{Width: float64(t.size.width), Height: float64(t.size.height), Scale: scale},
	})
	if err == nil {
		t.film.portray(shot.Data)
	}
}

// navigate opens an address. refused says why there is no page at it. An error says
// nothing about the page: the browser did not answer.
func (t *tab) navigate(ctx context.Context, address string) (refused string, err error) {
	r, err := call(ctx, t.page, page.Navigate, page.NavigateParams{URL: address})
	return r.ErrorText, err
}

// ping reports whether the main thread answered in time.
func (t *tab) ping(ctx context.Context) error {
	_, err := call(ctx, t.page, runtime.Evaluate, runtime.EvaluateParams{Expression: "0"})
	return err
}

// dialogOpen reports whether the page waits for the answer to a dialog, and the
// number of dialogs so far.
func (t *tab) dialogs() (open bool, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.asking, t.prompts
}

// requested takes the page's process from a request: the browser numbers requests
// within processes, as in 4711.3. Those for documents have other names.
func (t *tab) requested(id network.RequestID) {
	process, _, ok := strings.Cut(string(id), ".")
	pid, err := strconv.Atoi(process)
	if !ok || err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pid = pid
}

// process returns the page's process, or 0 if it is unknown.
func (t *tab) process() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pid
}

// version returns the version of the browser without its name.
func (p *process) version() string {
	_, v, _ := strings.Cut(p.product, "/")
	major, _, _ := strings.Cut(v, ".")
	return major + ".0.0.0"
}
