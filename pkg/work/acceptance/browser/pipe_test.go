package browser

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

func TestMessagesThatAreTooLongAreSkipped(t *testing.T) {
	long := `{"id":7,"result":"` + strings.Repeat("x", maxMessage) + `"}`
	r := bufio.NewReaderSize(strings.NewReader(long+"\x00"+`{"id":8}`+"\x00"), 4096)
	raw, over, err := next(r, nil)
	if err != nil || !over || len(raw) > 256 || !strings.HasPrefix(string(raw), `{"id":7,`) {
		t.Errorf("%d bytes, %v, %v", len(raw), over, err)
	}
	if raw, over, err = next(r, nil); err != nil || over || string(raw) != `{"id":8}` {
		t.Errorf("%q, %v, %v", raw, over, err)
	}
	if _, _, err = next(r, nil); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// TestCallsEnd: with an answer, with one that is too long, at the end of their
// context, and when the browser ends.
func TestCallsEnd(t *testing.T) {
	fromDriver, w := io.Pipe()
	r, toDriver := io.Pipe()
	p := newPipe(r, w)
	go func() {
		in := bufio.NewReader(fromDriver)
		for n := 1; ; n++ {
			if _, err := in.ReadString(0); err != nil {
				return
			}
			switch n {
			case 1:
				_, _ = toDriver.Write([]byte("{\"method\":\"x\",\"params\":{}}\x00{\"id\":1,\"result\":{\"usedSize\":3}}\x00"))
			case 2:
				_, _ = toDriver.Write(append([]byte(`{"id":2,"result":"`), append(bytes.Repeat([]byte("x"), maxMessage), 0)...))
			case 4:
				toDriver.Close()
			}
		}
	}()
	s := p.session("")
	if u, err := call(t.Context(), s, runtime.GetHeapUsage, cdp.Empty{}); err != nil || u.UsedSize != 3 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := call(t.Context(), s, runtime.GetHeapUsage, cdp.Empty{}); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := call(ctx, s, runtime.GetHeapUsage, cdp.Empty{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := call(t.Context(), s, runtime.GetHeapUsage, cdp.Empty{}); !errors.Is(err, errClosed) {
		t.Error(err)
	}
	if events, _, ok := s.take(t.Context()); !ok || len(events) != 1 || events[0].method != "x" {
		t.Errorf("%v %v", events, ok)
	}
	if _, _, ok := s.take(t.Context()); ok {
		t.Error("the session goes on")
	}
}

// TestEventsThatNothingReadsAreBounded: a page may cause them without end.
func TestEventsThatNothingReadsAreBounded(t *testing.T) {
	p := newPipe(io.NopCloser(bytes.NewReader(nil)), nopWriter{io.Discard})
	s := &session{pipe: p, wake: make(chan struct{}, 1)}
	for range 2 * maxQueued {
		s.push(event{method: "x"})
	}
	events, dropped, _ := s.take(t.Context())
	if len(events) != maxQueued || dropped != maxQueued {
		t.Errorf("%d events, %d dropped", len(events), dropped)
	}
	large := bytes.Repeat([]byte("x"), maxMessage)
	for range 20 {
		s.push(event{params: large})
	}
	if events, _, _ = s.take(t.Context()); len(events) > maxWaiting/maxMessage {
		t.Errorf("%d large events", len(events))
	}
	var all []*session // one budget for the sessions of all workers
	for range 20 {
		all = append(all, &session{pipe: p, wake: make(chan struct{}, 1)})
		all[len(all)-1].push(event{params: large})
	}
	kept := 0
	for _, s := range all {
		events, _, _ := s.take(t.Context())
		kept += len(events)
	}
	if kept != maxWaiting/maxMessage {
		t.Errorf("%d large events of many sessions", kept)
	}
	all[0].push(event{params: large})
	all[0].discard()
	if n := p.waiting.Load(); n != 0 {
		t.Errorf("%d bytes wait for nothing", n)
	}
}

// TestAFloodDoesNotStopTheFilm: the browser sends the next picture only after the
// answer to the last one.
func TestAFloodDoesNotStopTheFilm(t *testing.T) {
	p := newPipe(io.NopCloser(bytes.NewReader(nil)), nopWriter{io.Discard})
	s := &session{pipe: p, wake: make(chan struct{}, 1)}
	for range 2 * maxQueued {
		s.push(event{method: "Runtime.consoleAPICalled", params: make([]byte, 16<<10)})
	}
	for _, method := range essential {
		s.push(event{method: method})
	}
	events, dropped, ok := s.take(t.Context())
	if !ok || dropped == 0 {
		t.Fatalf("%d dropped, %v", dropped, ok)
	}
	for _, method := range essential {
		if !slices.ContainsFunc(events, func(e event) bool { return e.method == method }) {
			t.Errorf("%s is dropped", method)
		}
	}
	for range 3 * maxQueued {
		s.push(event{method: essential[0]})
	}
	if events, _, _ = s.take(t.Context()); len(events) > 2*maxQueued {
		t.Errorf("%d events wait", len(events))
	}
}

// TestABlankScreenIsNotCertainIfPicturesMayBeLost: only where all were seen.
func TestABlankScreenIsNotCertainIfPicturesMayBeLost(t *testing.T) {
	for lost, want := range map[bool]verdict.Status{true: verdict.Unknown, false: verdict.Failed} {
		ev := newEvidence(verdict.Phone, "http://127.0.0.1:1", nil)
		ev.lost, ev.loaded = lost, true
		r := &round{opened: true, ended: true, after: &state{}, look: look{newest: &frame{}}}
		checks := judge(ev, r, nil)
		for _, name := range []verdict.Name{verdict.Draws, verdict.Moves} {
			if c := find(&verdict.Report{Checks: checks}, name, verdict.Phone); c.Status != want {
				t.Errorf("lost %v: %+v", lost, c)
			}
		}
	}
}

// TestSessionsOfWorkersAreForgotten: a page may start any number.
func TestSessionsOfWorkersAreForgotten(t *testing.T) {
	p := newPipe(io.NopCloser(blocked{}), nopWriter{io.Discard})
	tab := &tab{browser: &process{pipe: p}, page: p.session("page")}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	say := func(e string, id int) {
		raw := fmt.Appendf(nil, `{"sessionId":"w%d","targetInfo":{"targetId":"t","type":"worker"}}`, id)
		if !tab.control(ctx, tab.page, event{method: e, params: raw}) {
			t.Fatal(e)
		}
	}
	for id := range 3 * maxWorkers {
		say(target.AttachedToTarget.Method, id)
	}
	for id := range maxWorkers / 2 {
		say(target.DetachedFromTarget.Method, id)
	}
	count := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.sessions)
	}
	if n := count(); n != 1+maxWorkers/2 {
		t.Errorf("%d sessions", n)
	}
	cancel()
	tab.wait.Wait()
	if n := count(); n != 1 {
		t.Errorf("%d sessions after the check", n)
	}
}

// blocked is a reader without an end.
type blocked struct{}

func (blocked) Read([]byte) (int, error) { select {} }

func FuzzMessages(f *testing.F) {
	f.Add([]byte("{\"id\":1,\"result\":{}}\x00{\"method\":\"Page.frameNavigated\",\"params\":{\"frame\":{\"id\":\"x\"}}}\x00"))
	f.Add([]byte("\x00\x00{\"id\":-1}\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p := newPipe(io.NopCloser(bytes.NewReader(raw)), nopWriter{io.Discard})
		s := p.session("")
		for {
			events, _, ok := s.take(t.Context())
			if !ok {
				return
			}
			tab := &tab{ev: newEvidence("phone", "http://127.0.0.1:1", nil)}
			for _, e := range events {
				tab.recordError(tab.ev, e)
				tab.recordNetwork(tab.ev, e, true)
				tab.recordPage(tab.ev, e)
			}
		}
	})
}

type nopWriter struct{ io.Writer }

func (nopWriter) Close() error { return nil }
