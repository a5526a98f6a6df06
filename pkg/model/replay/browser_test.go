package replay_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest/browsertest"
)

// tab is a page with the game that records its errors.
type tab struct {
	t   *testing.T
	ctx context.Context
	url string

	clockID page.ScriptIdentifier

	mu    sync.Mutex
	wrong []string // guarded by mu: errors
}

// fastClock replaces the page's frames: each is 50 ms after the previous one,
// independent of the machine, and several of them run at a time.
func fastClock(steps int) string {
	return fmt.Sprintf(`(() => {
  const frame = window.requestAnimationFrame.bind(window);
  let waiting = [], time = 0;
  window.requestAnimationFrame = (f) => waiting.push(f);
  const tick = () => {
    for (let i = 0; i < %d; i++) {
      const now = waiting;
      waiting = [];
      time += 50;
      for (const f of now) f(time);
    }
    frame(tick);
  };
  frame(tick);
})()`, steps)
}

// openTab opens the game in dir. The test fails at its end if there was a message
// on the console, or a failed or external request.
func openTab(t *testing.T, browser context.Context, files http.Handler) *tab {
	t.Helper()
	p := &tab{t: t}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	p.url = srv.URL + "/"
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithListener(p.listen))
	t.Cleanup(cancel)
	p.ctx = ctx
	p.clock(1)
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, w := range p.wrong {
			t.Error(w)
		}
	})
	return p
}

// clock applies to pages that are opened from now on; the last call wins.
func (p *tab) clock(steps int) {
	p.t.Helper()
	source := page.AddScriptToEvaluateOnNewDocumentParams{Source: fastClock(steps)}
	id, err := chromedp.Call(p.ctx, page.AddScriptToEvaluateOnNewDocument, source)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.clockID != "" {
		if _, err := chromedp.Call(p.ctx, page.RemoveScriptToEvaluateOnNewDocument, page.RemoveScriptToEvaluateOnNewDocumentParams{Identifier: p.clockID}); err != nil {
			p.t.Fatal(err)
		}
	}
	p.clockID = id.Identifier
}

func (p *tab) reduceMotion() {
	p.t.Helper()
	features := []*emulation.MediaFeature{{Name: "prefers-reduced-motion", Value: "reduce"}}
	if _, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *tab) listen(ev any) {
	switch e := ev.(type) {
	case *runtime.EventExceptionThrown:
		p.note("exception: %v %v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception)
	case *runtime.EventConsoleAPICalled:
		p.note("console.%s", e.Type)
	case *log.EventEntryAdded:
		p.note("browser log: %s %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL)
	case *network.EventLoadingFailed:
		p.note("request failed: %s", e.ErrorText)
	case *network.EventResponseReceived:
		if e.Response.Status >= 400 {
			p.note("request failed: %d %s", e.Response.Status, e.Response.URL)
		}
	case *network.EventRequestWillBeSent:
		if u := e.Request.URL; !strings.HasPrefix(u, p.url) && !strings.HasPrefix(u, "data:") {
			p.note("request leaves the game: %s", u)
		}
	}
}

func (p *tab) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wrong = append(p.wrong, fmt.Sprintf(format, args...))
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

func eval[T any](p *tab, expression string) T {
	p.t.Helper()
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits for a condition in the page.
func (p *tab) until(condition string) {
	p.t.Helper()
	_, err := chromedp.Run(p.ctx, chromedp.Poll[bool](condition, chromedp.WithPollingTimeout(20*time.Second)))
	if err != nil {
		p.t.Fatalf("waiting for %s: %v; state of the game: %s", condition, err, eval[string](p, `JSON.stringify([game.state, game.score, game.head])`))
	}
}

func (p *tab) key(kind input.DispatchKeyEventType, code string) {
	p.t.Helper()
	key := strings.TrimPrefix(code, "Key")
	if code == "Space" {
		key = " "
	}
	if _, err := chromedp.Call(p.ctx, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: kind, Code: code, Key: strings.ToLower(key)}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *tab) press(code string) {
	p.t.Helper()
	p.key(input.DispatchKeyEventTypeRawKeyDown, code)
	p.key(input.DispatchKeyEventTypeKeyUp, code)
}

func (p *tab) touch(kind input.DispatchTouchEventType, points ...*input.TouchPoint) {
	p.t.Helper()
	if points == nil {
		points = []*input.TouchPoint{}
	}
	if _, err := chromedp.Call(p.ctx, input.DispatchTouchEvent, input.DispatchTouchEventParams{Type: kind, TouchPoints: points}); err != nil {
		p.t.Fatal(err)
	}
}

const pointingUp = `game.state === 'playing' && Math.sin(game.head.heading) < -0.95`

// playByKeyboard starts a game, steers, pauses and eats.
func playByKeyboard(p *tab) {
	t := p.t
	t.Helper()
	p.do(chromedp.EmulateViewport(640, 400), chromedp.Navigate(p.url))
	p.until(`window.game && game.state === 'ready'`)
	p.press("Space")
	p.until(`game.state === 'playing'`)

	p.key(input.DispatchKeyEventTypeRawKeyDown, "ArrowUp")
	p.until(pointingUp)
	p.key(input.DispatchKeyEventTypeKeyUp, "ArrowUp")

	p.press("KeyP")
	p.until(`game.state === 'paused'`)
	const position = `new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(game.head.x + ' ' + game.head.y))))`
	if a, b := eval[string](p, position), eval[string](p, position); a != b {
		t.Errorf("the snake moves from %s to %s in a pause", a, b)
	}
	if !eval[bool](p, `document.activeElement.id === 'resume' && !document.getElementById('screen-paused').hidden`) {
		t.Error("the pause screen is not shown or has no focus")
	}
	p.press("KeyP")
	p.until(`game.state === 'playing'`)

	if eval[bool](p, `game.sound`) {
		t.Error("the sound is on from the start")
	}
	p.press("KeyM")
	p.until(`game.sound && document.getElementById('sound').getAttribute('aria-pressed') === 'true'`)
	p.press("KeyM")
	p.until(`!game.sound`)

	eatOne(p)
}

// steer presses keys in the page, at each frame, to move the snake to target; it
// looks ahead, since the snake drifts.
func (p *tab) steer(target string) {
	p.t.Helper()
	eval[int](p, `(() => {
  const aim = () => {
    const thing = game.state === 'playing' && (`+target+`);
    let want = {};
    if (thing) {
      const {head} = game;
      const [dx, dy] = [thing.x - head.x - head.vx * 0.4, thing.y - head.y - head.vy * 0.4];
      const far = Math.hypot(dx, dy) * 0.4;
      want = {ArrowLeft: dx < -far, ArrowRight: dx > far, ArrowUp: dy < -far, ArrowDown: dy > far,
        Space: Math.hypot(thing.x - head.x, thing.y - head.y) < 160};
    }
    for (const code of ['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown', 'Space']) {
      if (game.state === 'playing') window.dispatchEvent(new KeyboardEvent(want[code] ? 'keydown' : 'keyup', {code}));
    }
    requestAnimationFrame(aim);
  };
  aim();
})(), 0`)
}

// eatOne steers to a berry and checks the score.
func eatOne(p *tab) {
	p.t.Helper()
	p.steer(`game.food.find((f) => f.kind === 'berry')`)
	p.until(`game.score > 0 && document.getElementById('score').textContent === String(game.score)`)
}

// playByTouch starts a game on a phone with a tap and steers with a finger.
func playByTouch(p *tab) {
	p.t.Helper()
	p.do(chromedp.EmulateViewport(360, 640, chromedp.EmulateMobile, chromedp.EmulateTouch), chromedp.Navigate(p.url))
	p.until(`window.game && game.state === 'ready'`)
	if eval[bool](p, `document.documentElement.scrollWidth > innerWidth`) {
		p.t.Error("the page is wider than the phone")
	}
	p.do(chromedp.Tap(chromedp.ID("start")))
	p.until(`game.state === 'playing'`)
	p.touch(input.DispatchTouchEventTypeTouchStart, &input.TouchPoint{X: 180, Y: 500})
	p.touch(input.DispatchTouchEventTypeTouchMove, &input.TouchPoint{X: 180, Y: 440})
	p.until(pointingUp)
	p.touch(input.DispatchTouchEventTypeTouchEnd)
	p.until(fmt.Sprintf(`game.head.x + game.head.y !== %v`, eval[float64](p, `game.head.x + game.head.y`)))
	p.do(chromedp.Tap(chromedp.ID("pause")))
	p.until(`game.state === 'paused'`)
	p.do(chromedp.Tap(chromedp.ID("resume")))
	p.until(`game.state === 'playing'`)
}

func TestGamePlaysInBrowserAndChangesWithPrompts(t *testing.T) {
	t.Parallel() // these tests mostly wait for the game, each with its own browser
	b := browsertest.Start(t)
	a := newAgent(t)
	files := http.FileServer(http.Dir(a.dir))

	const look = `[game.palette, game.cruise, game.food.filter((f) => f.kind === 'berry').length, document.getElementById('edition').textContent].join()`
	for _, round := range []struct{ prompt, look string }{
		{"a snake game with ice physics", "aurora,200,1,A snake on ice"},
		{"make it faster", "ember,290,1,Turbo edition"},
	} {
		a.prompt(round.prompt)
		t.Run(round.prompt+", by keyboard", func(t *testing.T) {
			p := openTab(t, b, files)
			playByKeyboard(p)
			if got := eval[string](p, look); got != round.look {
				t.Errorf("the game is %s, want %s", got, round.look)
			}
		})
		t.Run(round.prompt+", by touch", func(t *testing.T) { playByTouch(openTab(t, b, files)) })
	}

	a.prompt("more")
	a.prompt("and more")
	t.Run("after two more prompts", func(t *testing.T) {
		p := openTab(t, b, files)
		p.do(chromedp.Navigate(p.url))
		p.until(`window.game && game.state === 'ready'`)
		if got, want := eval[string](p, look), "fjord,290,3,Turbo edition"; got != want {
			t.Errorf("the game is %s, want %s", got, want)
		}
	})
}

func TestGameEndsAndStartsAgain(t *testing.T) {
	t.Parallel()
	p := openTab(t, browsertest.Start(t), http.FileServer(http.Dir("demo")))
	p.clock(4)
	p.reduceMotion() // which is cheaper to draw
	p.do(chromedp.EmulateViewport(480, 320))
	p.do(chromedp.Navigate(p.url))
	p.until(`window.game && game.state === 'ready'`)
	p.do(chromedp.Click(chromedp.ID("start")))
	p.until(`game.state === 'playing'`)
	p.steer(`[...game.holes].sort((a, b) => Math.hypot(a.x - game.head.x, a.y - game.head.y) - Math.hypot(b.x - game.head.x, b.y - game.head.y))[0]`)
	p.until(`game.hearts < 3`)
	_, err := chromedp.Run(p.ctx, chromedp.Poll[bool](`game.state === 'over'`, chromedp.WithPollingTimeout(60*time.Second)))
	if err != nil {
		t.Fatalf("the game does not end: %v", err)
	}
	if got := eval[string](p, `[game.hearts, document.getElementById('screen-over').hidden, document.activeElement.id, document.getElementById('over-score').textContent === String(game.score)].join()`); got != "0,false,again,true" {
		t.Errorf("at the end: %s", got)
	}
	// A key pressed too early was meant for the previous game.
	p.until(`document.activeElement.click(), game.state === 'playing'`)
	if got := eval[string](p, `[game.hearts, game.score, document.getElementById('screen-over').hidden].join()`); got != "3,0,true" {
		t.Errorf("after the restart: %s", got)
	}
}

func TestGameRespectsReducedMotionAndBlockedStorage(t *testing.T) {
	t.Parallel()
	files := http.FileServer(http.Dir("demo"))
	p := openTab(t, browsertest.Start(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "sandbox allow-scripts") // reading localStorage throws
		files.ServeHTTP(w, r)
	}))
	p.reduceMotion()
	p.do(chromedp.Navigate(p.url))
	p.until(`window.game && game.state === 'ready'`)
	const position = `new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(game.head.x))))`
	if a, b := eval[float64](p, position), eval[float64](p, position); a != b {
		t.Error("the start screen moves in spite of reduced motion")
	}
	p.press("Space")
	p.until(`game.state === 'playing'`)
	eatOne(p)
}
