package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/cdp/jsonv2"
	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/inspector"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"

	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

// frameInterval is the time from one frame of the film to the next.
const frameInterval = 60 * time.Millisecond

// follow records the events of a session until it ends. isPage is false for
// workers.
func (t *tab) follow(ctx context.Context, s *session, isPage bool) {
	defer s.discard()
	for {
		events, dropped, ok := s.take(ctx)
		if !ok {
			return
		}
		t.mu.Lock()
		ev := t.ev
		t.mu.Unlock()
		for _, e := range events {
			if isPage && t.control(ctx, s, e) {
				continue
			}
			if ev == nil {
				if r, ok := decode(e, network.RequestWillBeSent); ok && isPage {
					t.requested(r.RequestID)
				}
				continue
			}
			t.record(ev, s, e, isPage)
		}
		if dropped > 0 && ev != nil {
			ev.mu.Lock()
			ev.lost = true
			ev.mu.Unlock()
			t.quiet(ev, s)
		}
	}
}

// decode reads the payload of an event.
func decode[E any](e event, of cdp.Event[E]) (v E, ok bool) {
	if e.method != of.Method {
		return v, false
	}
	return v, jsonv2.Unmarshal(e.params, &v, jsonv2.AllowInvalidUTF8(true)) == nil
}

// control handles the events that wait for an answer. It reports whether e was
// one.
func (t *tab) control(ctx context.Context, s *session, e event) bool {
	if f, ok := decode(e, page.ScreencastFrame); ok {
		t.film.add(f.Data, time.Now())
		time.AfterFunc(frameInterval, func() {
			cast(s, page.ScreencastFrameAck, page.ScreencastFrameAckParams{SessionID: f.SessionID})
		})
		return true
	}
	if d, ok := decode(e, page.JavascriptDialogOpening); ok {
		t.answer(s, d)
		return true
	}
	if _, ok := decode(e, page.JavascriptDialogClosed); ok {
		t.mu.Lock()
		t.asking = false
		t.mu.Unlock()
		return true
	}
	if a, ok := decode(e, target.AttachedToTarget); ok {
		t.attach(ctx, a)
		return true
	}
	if d, ok := decode(e, target.DetachedFromTarget); ok {
		if d.SessionID != s.id {
			t.browser.pipe.forget(d.SessionID)
		}
		return true
	}
	if p, ok := decode(e, fetch.RequestPaused); ok {
		t.admit(s, p)
		return true
	}
	return false
}

// answer answers a dialog. The answers alternate, so that a game that asks until
// it hears yes, and one that asks until it hears no, both go on.
func (t *tab) answer(s *session, d page.EventJavascriptDialogOpening) {
	t.mu.Lock()
	t.prompts++
	t.asking = true
	n, ev := t.prompts, t.ev
	t.mu.Unlock()
	params := page.HandleJavaScriptDialogParams{Accept: n%2 == 1}
	switch d.Type {
	case page.DialogTypePrompt:
		params.PromptText = "Player"
		if !params.Accept && n > 1 {
			params.PromptText = ""
		}
	case page.DialogTypeBeforeunload:
		params.Accept = false // the page stays
	}
	cast(s, page.HandleJavaScriptDialog, params)
	if ev == nil || d.Type == page.DialogTypeBeforeunload {
		return
	}
	ev.mu.Lock()
	defer ev.mu.Unlock()
	ev.dialogN++
	if len(ev.dialogs) < 3 {
		ev.dialogs = append(ev.dialogs, string(d.Type)+": "+clean(d.Message, 80))
	}
}

// attach watches a worker or a frame of another process and lets it run.
func (t *tab) attach(ctx context.Context, a target.EventAttachedToTarget) {
	t.mu.Lock()
	t.workers++
	n := t.workers
	t.mu.Unlock()
	s := t.browser.pipe.session(a.SessionID)
	if n <= maxWorkers {
		small := int64(1 << 20)
		cast(s, runtime.Enable, cdp.Empty{})
		cast(s, log.Enable, cdp.Empty{})
		cast(s, network.Enable, network.EnableParams{MaxTotalBufferSize: &small, MaxResourceBufferSize: &small})
		t.wait.Go(func() {
			defer t.browser.pipe.forget(s.id)
			t.follow(ctx, s, false)
		})
	}
	cast(s, runtime.RunIfWaitingForDebugger, cdp.Empty{})
	if n > maxWorkers {
		t.browser.pipe.forget(s.id)
		s.discard()
	}
	if n == maxWorkers {
		no := true
		cast(t.page, target.SetAutoAttach, target.SetAutoAttachParams{AutoAttach: false, WaitForDebuggerOnStart: false, Flatten: &no})
	}
}

// admit lets documents of the project load and stops the others, so that a page
// that wants to leave is seen, and stays.
func (t *tab) admit(s *session, p fetch.EventRequestPaused) {
	t.mu.Lock()
	ev, main, reason := t.ev, t.main, t.reason
	t.mu.Unlock()
	if ev == nil || p.Request == nil {
		cast(s, fetch.ContinueRequest, fetch.ContinueRequestParams{RequestID: p.RequestID})
		return
	}
	outside, _ := ev.foreign(p.Request.URL)
	if !outside {
		cast(s, fetch.ContinueRequest, fetch.ContinueRequestParams{RequestID: p.RequestID})
		return
	}
	cast(s, fetch.FailRequest, fetch.FailRequestParams{RequestID: p.RequestID, ErrorReason: network.ErrorReasonAborted})
	if p.FrameID != main {
		return
	}
	ev.mu.Lock()
	defer ev.mu.Unlock()
	if reason == page.ClientNavigationReasonAnchorClick && ev.recent() {
		ev.leftClick = true
		return
	}
	ev.note(&ev.left, fault{text: "leaves its page for " + short(p.Request.URL)})
}

// recent reports whether an input was sent just now. It must be called with mu held.
func (e *evidence) recent() bool {
	return !e.input.IsZero() && time.Since(e.input) < 1500*time.Millisecond
}

// quiet turns the console off: a page writes faster than anything reads.
func (t *tab) quiet(ev *evidence, s *session) {
	ev.mu.Lock()
	ev.flooded = true
	ev.mu.Unlock()
	if !s.quiet {
		s.quiet = true
		cast(s, runtime.Disable, cdp.Empty{})
		cast(s, log.Disable, cdp.Empty{})
	}
}

// record adds an event to the evidence.
func (t *tab) record(ev *evidence, s *session, e event, isPage bool) {
	switch {
	case strings.HasPrefix(e.method, "Network."):
		t.recordNetwork(ev, e, isPage)
	case strings.HasPrefix(e.method, "Page.") && isPage:
		t.recordPage(ev, e)
	case strings.HasPrefix(e.method, "Runtime."), strings.HasPrefix(e.method, "Log."):
		t.mu.Lock()
		t.talk++
		many := t.talk >= maxTalk
		t.mu.Unlock()
		if many {
			t.quiet(ev, s)
		}
		t.recordError(ev, e)
	case e.method == inspector.TargetCrashed.Method && isPage:
		ev.mu.Lock()
		ev.crashed = "The page's process ended"
		ev.mu.Unlock()
	}
}

func (t *tab) recordPage(ev *evidence, e event) {
	if f, ok := decode(e, page.FrameNavigated); ok && f.Frame != nil && f.Frame.ParentID == "" {
		t.mu.Lock()
		t.main = f.Frame.ID
		t.mu.Unlock()
		ev.mu.Lock()
		defer ev.mu.Unlock()
		ev.navigated++
		_, inside := ev.path(f.Frame.URL)
		switch {
		case f.Frame.UnreachableURL != "":
			ev.noPage = "The page could not be opened"
		case !inside:
			ev.note(&ev.left, fault{text: "leaves its page for " + short(f.Frame.URL)})
		case ev.navigated == maxDocuments:
			ev.note(&ev.left, fault{text: "loads its page again and again"})
		}
		return
	}
	if n, ok := decode(e, page.FrameRequestedNavigation); ok {
		t.mu.Lock()
		defer t.mu.Unlock()
		if n.FrameID == t.main {
			t.reason = n.Reason
		}
		return
	}
	ev.mu.Lock()
	defer ev.mu.Unlock()
	switch e.method {
	case page.LoadEventFired.Method:
		ev.loaded = true
	case page.DomContentEventFired.Method:
		ev.dom = true
	}
}

// maxDocuments is the number of documents of one check that is a loop of reloads.
const maxDocuments = 6

func (t *tab) recordNetwork(ev *evidence, e event, isPage bool) {
	if r, ok := decode(e, network.RequestWillBeSent); ok && r.Request != nil {
		if isPage {
			t.requested(r.RequestID)
		}
		ev.ask(string(r.RequestID), r.Request.URL, string(r.Type), t.asker(ev, r.Initiator, r.DocumentURL))
		return
	}
	if r, ok := decode(e, network.WebSocketCreated); ok {
		ev.ask(string(r.RequestID), r.URL, "WebSocket", t.asker(ev, r.Initiator, ""))
		return
	}
	if r, ok := decode(e, network.ResponseReceived); ok && r.Response != nil {
		if r.Response.Status >= 400 {
			ev.missed(string(r.RequestID), r.Response.Status, "")
			if r.Type == network.ResourceTypeDocument {
				ev.mu.Lock()
				if ev.navigated == 0 {
					ev.noPage = fmt.Sprintf("The project has no page: the answer is status %d", r.Response.Status)
				}
				ev.mu.Unlock()
			}
		}
		return
	}
	if r, ok := decode(e, network.LoadingFinished); ok {
		ev.answered(string(r.RequestID))
		return
	}
	if r, ok := decode(e, network.LoadingFailed); ok {
		ev.answered(string(r.RequestID))
	}
	if r, ok := decode(e, network.LoadingFailed); ok && !r.Canceled && r.BlockedReason == "" && r.ErrorText != "net::ERR_ABORTED" {
		ev.missed(string(r.RequestID), 0, r.ErrorText)
	}
}

// asker returns the place that asked for an address.
func (t *tab) asker(ev *evidence, i *network.Initiator, document string) fault {
	if i == nil {
		return ev.at(fault{}, document, -1, -1)
	}
	for st := i.Stack; st != nil; st = st.Parent {
		for _, f := range st.CallFrames {
			if at := ev.at(fault{}, f.URL, f.LineNumber, f.ColumnNumber); at.file != "" {
				return at
			}
		}
	}
	if i.URL != "" {
		return ev.at(fault{}, i.URL, int64(i.LineNumber), -1)
	}
	return ev.at(fault{}, document, -1, -1)
}

func (t *tab) recordError(ev *evidence, e event) {
	var f fault
	if x, ok := decode(e, runtime.ExceptionThrown); ok && x.ExceptionDetails != nil {
		f = ev.exception(x.ExceptionDetails)
		if harmless().MatchString(f.text) {
			return
		}
	} else if c, ok := decode(e, runtime.ConsoleAPICalled); ok && (c.Type == runtime.ConsoleAPICalledTypeError || c.Type == runtime.ConsoleAPICalledTypeAssert) {
		f = ev.console(c)
	} else if l, ok := decode(e, log.EntryAdded); ok && l.Entry != nil && l.Entry.Level == log.EntryLevelError {
		switch l.Entry.Source {
		case log.EntrySourceJavascript, log.EntrySourceWorker, log.EntrySourceSecurity, log.EntrySourceXML, log.EntrySourceOther:
		default: // missing files have a check of their own; the rest is advice
			return
		}
		if harmless().MatchString(l.Entry.Text) || browserSays().MatchString(l.Entry.Text) {
			return
		}
		f = ev.at(fault{text: l.Entry.Text}, l.Entry.URL, l.Entry.LineNumber, -1)
	} else {
		return
	}
	ev.mu.Lock()
	defer ev.mu.Unlock()
	ev.note(&ev.errors, f)
}

// harmless matches what browsers without a person, a screen or a speaker refuse;
// it says nothing about the game.
var harmless = pattern.New(`(?i)NotAllowedError|AbortError|NotSupportedError|play\(\) (request|failed)|pointer ?lock|fullscreen|vibrat|wake ?lock|ResizeObserver loop|Permissions? policy|orientation\.lock|EncodingError|AudioContext was not allowed`)

// browserSays matches what the browser itself writes to the console about its
// own state.
var browserSays = pattern.New(`(?i)webgl|swiftshader|gpu|fallback|deprecat|autoplay|user gesture|user activation|preload|manifest|favicon|source ?map|third-party cookie|quirks`)

// exception returns an uncaught error or an unhandled rejection.
func (e *evidence) exception(x *runtime.ExceptionDetails) fault {
	text := x.Text
	if x.Exception != nil {
		what := x.Exception.Description
		if what == "" && len(x.Exception.Value) > 0 {
			what = printed(x.Exception.Value)
		}
		what, _, _ = strings.Cut(what, "\n    at ")
		if what != "" && !strings.Contains(text, what) {
			text = strings.TrimSpace(text) + ": " + what
		}
	}
	f := fault{text: text}
	if x.StackTrace != nil {
		for _, c := range x.StackTrace.CallFrames {
			if at := e.at(f, c.URL, c.LineNumber, c.ColumnNumber); at.file != "" {
				return at
			}
		}
	}
	return e.at(f, x.URL, x.LineNumber, x.ColumnNumber)
}

// console returns a call of console.error.
func (e *evidence) console(c runtime.EventConsoleAPICalled) fault {
	var parts []string
	for _, a := range c.Args[:min(len(c.Args), 5)] {
		text := a.Description
		if text == "" {
			text = printed(a.Value)
		}
		text, _, _ = strings.Cut(text, "\n    at ")
		parts = append(parts, clean(text, 200))
	}
	f := fault{text: "console." + string(c.Type) + ": " + strings.Join(parts, " ")}
	if c.StackTrace != nil {
		for _, fr := range c.StackTrace.CallFrames {
			if at := e.at(f, fr.URL, fr.LineNumber, fr.ColumnNumber); at.file != "" {
				return at
			}
		}
	}
	return f
}

// printed returns a JSON value as the console shows it.
func printed(raw []byte) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw[:min(len(raw), 200)])
}
