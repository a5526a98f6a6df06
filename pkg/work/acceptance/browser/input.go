package browser

import (
	"context"
	"time"

	"github.com/chromedp/cdproto/input"
)

// key is a key of the keyboard.
type key struct {
	key, code, text string
	virtual         int64
}

var (
	keyRight = key{"ArrowRight", "ArrowRight", "", 39}
	keyLeft  = key{"ArrowLeft", "ArrowLeft", "", 37}
	keyUp    = key{"ArrowUp", "ArrowUp", "", 38}
	keyDown  = key{"ArrowDown", "ArrowDown", "", 40}
	keySpace = key{" ", "Space", " ", 32}
	keyEnter = key{"Enter", "Enter", "\r", 13}
	keyD     = key{"d", "KeyD", "d", 68}
	keyA     = key{"a", "KeyA", "a", 65}
	keyW     = key{"w", "KeyW", "w", 87}
	keyS     = key{"s", "KeyS", "s", 83}
	keyOne   = key{"1", "Digit1", "1", 49}
	keyX     = key{"x", "KeyX", "x", 88}
	keyZ     = key{"z", "KeyZ", "z", 90}
)

// held is the time for which an input lasts: games that ask for keys once per
// frame must see it.
const held = 45 * time.Millisecond

// sent records the time of an input.
func (e *evidence) sent() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.input = time.Now()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// The inputs are sent without waiting for the page: one that never answers is
// found by the heartbeat.

func (t *tab) press(ctx context.Context, k key) {
	t.ev.sent()
	kind := input.DispatchKeyEventTypeKeyDown
	if k.text == "" {
		kind = input.DispatchKeyEventTypeRawKeyDown
	}
	params := input.DispatchKeyEventParams{Type: kind, Key: k.key, Code: k.code, Text: k.text, UnmodifiedText: k.text, WindowsVirtualKeyCode: k.virtual, NativeVirtualKeyCode: k.virtual}
	cast(t.page, input.DispatchKeyEvent, params)
	pause(ctx, held)
	params.Type, params.Text, params.UnmodifiedText = input.DispatchKeyEventTypeKeyUp, "", ""
	cast(t.page, input.DispatchKeyEvent, params)
}

func (t *tab) typeText(text string) {
	t.ev.sent()
	cast(t.page, input.InsertText, input.InsertTextParams{Text: text})
}

func (t *tab) mouse(kind input.DispatchMouseEventType, x, y float64, down bool) {
	params := input.DispatchMouseEventParams{Type: kind, X: x, Y: y, Button: input.MouseButtonNone}
	if down {
		params.Buttons = 1
	}
	if kind != input.DispatchMouseEventTypeMouseMoved || down {
		params.Button, params.ClickCount = input.MouseButtonLeft, 1
	}
	cast(t.page, input.DispatchMouseEvent, params)
}

func (t *tab) touch(kind input.DispatchTouchEventType, at ...[2]float64) {
	points := []*input.TouchPoint{}
	for i, p := range at {
		id, force := float64(i), 1.0
		points = append(points, &input.TouchPoint{X: p[0], Y: p[1], ID: &id, Force: &force})
	}
	cast(t.page, input.DispatchTouchEvent, input.DispatchTouchEventParams{Type: kind, TouchPoints: points})
}

// hit taps the phone's screen or clicks with the mouse.
func (t *tab) hit(ctx context.Context, x, y float64) {
	t.ev.sent()
	if t.phone() {
		t.touch(input.DispatchTouchEventTypeTouchStart, [2]float64{x, y})
		pause(ctx, held)
		t.touch(input.DispatchTouchEventTypeTouchEnd)
		return
	}
	t.mouse(input.DispatchMouseEventTypeMouseMoved, x, y, false)
	t.mouse(input.DispatchMouseEventTypeMousePressed, x, y, true)
	pause(ctx, held)
	t.mouse(input.DispatchMouseEventTypeMouseReleased, x, y, false)
}

// drag swipes over the phone's screen or drags with the mouse.
func (t *tab) drag(ctx context.Context, x, y, toX, toY float64) {
	t.ev.sent()
	const steps = 5
	at := func(i int) (float64, float64) {
		f := float64(i) / steps
		return x + (toX-x)*f, y + (toY-y)*f
	}
	for i := range steps + 1 {
		px, py := at(i)
		switch {
		case t.phone() && i == 0:
			t.touch(input.DispatchTouchEventTypeTouchStart, [2]float64{px, py})
		case t.phone():
			t.touch(input.DispatchTouchEventTypeTouchMove, [2]float64{px, py})
		case i == 0:
			t.mouse(input.DispatchMouseEventTypeMouseMoved, px, py, false)
			t.mouse(input.DispatchMouseEventTypeMousePressed, px, py, true)
		default:
			t.mouse(input.DispatchMouseEventTypeMouseMoved, px, py, true)
		}
		pause(ctx, 12*time.Millisecond)
	}
	if t.phone() {
		t.touch(input.DispatchTouchEventTypeTouchEnd)
		return
	}
	t.mouse(input.DispatchMouseEventTypeMouseReleased, toX, toY, false)
}
