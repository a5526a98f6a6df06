package browser

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// attack is a page that attacks the check, as the body of a script or as markup.
type attack struct {
	page  string
	fails verdict.Name // that must fail; "" if any report will do
}

var attacks = map[string]attack{
	"endless loop":           {"for (;;);", verdict.Responsive},
	"endless loop later":     {"setTimeout(() => { for (;;); }, 300)", verdict.Responsive},
	"endless loop on key":    {"onkeydown = () => { for (;;); }", ""},
	"endless loop on tap":    {"onpointerdown = () => { for (;;); }", ""},
	"endless recursion":      {"const f = () => f() + f(); try { f() } catch { f() }", verdict.Errors},
	"endless promises":       {"const f = () => Promise.resolve().then(f); f()", verdict.Responsive},
	"endless getter":         {"Object.defineProperty(Object.prototype, 'x', { get() { for (;;); } }); ({}).x", verdict.Responsive},
	"catastrophic regexp":    {"/^(a+)+$/.test('a'.repeat(40) + 'b')", verdict.Responsive},
	"slow frames":            {"const f = () => { const e = Date.now() + 700; while (Date.now() < e); requestAnimationFrame(f) }; f()", ""},
	"arrays":                 {"const a = []; for (;;) a.push(new Array(1e6).fill({}))", ""},
	"buffers":                {"const a = []; setInterval(() => a.push(new Uint8Array(1e8).fill(1)), 1)", verdict.Memory},
	"buffers at once":        {"const a = []; for (let i = 0; i < 100; i++) a.push(new Uint8Array(2e8).fill(1))", ""},
	"strings":                {"let s = 'x'; for (;;) s += s + Math.random()", ""},
	"elements":               {"setInterval(() => { for (let i = 0; i < 1e5; i++) document.body.append(document.createElement('p')) }, 0)", ""},
	"deep elements":          {"let e = document.body; for (let i = 0; i < 1e5; i++) { const n = document.createElement('div'); e.append(n); e = n }", ""},
	"giant canvas":           {"for (let i = 0; i < 20; i++) { const c = document.createElement('canvas'); c.width = c.height = 16000; const g = c.getContext('2d'); g.fillRect(0, 0, 16000, 16000); document.body.append(c) }", ""},
	"giant WebGL":            {"const g = document.createElement('canvas').getContext('webgl'); for (let i = 0; i < 200; i++) { g.bindTexture(g.TEXTURE_2D, g.createTexture()); g.texImage2D(g.TEXTURE_2D, 0, g.RGBA, 8192, 8192, 0, g.RGBA, g.UNSIGNED_BYTE, null) }", ""},
	"many WebGL contexts":    {"for (let i = 0; i < 200; i++) document.createElement('canvas').getContext('webgl2')", ""},
	"endless shader":         {"const c = document.createElement('canvas'); document.body.append(c); const g = c.getContext('webgl2'); const p = g.createProgram(); for (const [t, s] of [[g.VERTEX_SHADER, '#version 300 es\\nvoid main(){gl_Position=vec4(float(gl_VertexID)-1.,float(gl_VertexID%2)*2.-1.,0,1);}'], [g.FRAGMENT_SHADER, '#version 300 es\\nprecision highp float;out vec4 o;uniform int n;void main(){float x=0.;for(int i=0;i<n;i++)x+=sin(float(i));o=vec4(x);}']]) { const h = g.createShader(t); g.shaderSource(h, s); g.compileShader(h); g.attachShader(p, h) } g.linkProgram(p); g.useProgram(p); g.uniform1i(g.getUniformLocation(p, 'n'), 2147483647); g.drawArrays(g.TRIANGLES, 0, 3)", ""},
	"alerts":                 {"for (let i = 0; i < 10000; i++) alert('x'.repeat(1e5))", verdict.Dialogs},
	"prompts":                {"for (;;) prompt('name', 'y'.repeat(1e5))", verdict.Dialogs},
	"confirms":               {"setInterval(() => confirm('?'), 0)", verdict.Dialogs},
	"alert on every key":     {"onkeydown = () => alert(1)", ""},
	"print":                  {"for (let i = 0; i < 100; i++) print()", ""},
	"beforeunload":           {"onbeforeunload = () => 'stay'; document.onclick = () => location.reload(); document.body.click()", ""},
	"downloads":              {"setInterval(() => { const a = document.createElement('a'); a.href = URL.createObjectURL(new Blob(['x'.repeat(1e6)])); a.download = 'a.exe'; a.click() }, 5)", verdict.Stays},
	"windows":                {"for (let i = 0; i < 1000; i++) open('about:blank?' + i)", verdict.Stays},
	"windows on tap":         {"onclick = () => { for (let i = 0; i < 100; i++) open(location.href) }", ""},
	"leaves":                 {"location = 'https://example.com/'", verdict.Stays},
	"leaves for data":        {"location = 'about:blank'", verdict.Stays},
	"leaves for the browser": {"location = 'chrome://version'; location = 'file:///etc/passwd'", ""},
	"reloads":                {"location.reload()", verdict.Stays},
	"history":                {"setInterval(() => history.pushState(0, '', '?' + Math.random()), 0); setInterval(() => history.back(), 1)", ""},
	"frames":                 {"for (let i = 0; i < 300; i++) { const f = document.createElement('iframe'); f.src = location.href; document.body.append(f) }", ""},
	"frames in frames":       {"const f = document.createElement('iframe'); f.src = '?' + Math.random(); document.body.append(f)", ""},
	"service worker":         {"navigator.serviceWorker.register('sw.js')", ""},
	"workers":                {"const u = URL.createObjectURL(new Blob(['for(;;);'])); for (let i = 0; i < 64; i++) new Worker(u)", ""},
	"worker bomb":            {"const s = 'const u = URL.createObjectURL(new Blob([s])); ' ; setInterval(() => new Worker(URL.createObjectURL(new Blob(['const a=[];for(;;)a.push(new Uint8Array(1e7).fill(1))']))), 20)", ""},
	"debugging ports":        {"for (let p = 9200; p < 9300; p++) { fetch('http://127.0.0.1:' + p + '/json/version').catch(() => {}); try { new WebSocket('ws://127.0.0.1:' + p + '/devtools/browser') } catch {} }", verdict.Offline},
	"requests":               {"setInterval(() => { for (let i = 0; i < 500; i++) fetch('/' + Math.random()).catch(() => {}) }, 1)", verdict.Loads},
	"log flood":              {"setInterval(() => { for (let i = 0; i < 20000; i++) console.log('x'.repeat(1000), i) }, 0)", ""},
	"error flood":            {"setInterval(() => { for (let i = 0; i < 5000; i++) console.error('e' + i) }, 0)", verdict.Errors},
	"long log":               {"for (let i = 0; i < 5; i++) console.error('\\u0007\\u202e' + 'x'.repeat(5e7))", ""},
	"thrown flood":           {"setInterval(() => { for (let i = 0; i < 2000; i++) setTimeout(() => { throw new Error('\\n\\u0000' + i) }) }, 0)", verdict.Errors},
	"thrown proxy":           {"throw new Proxy({}, { get() { for (;;); } })", ""},
	"replaced globals":       {"for (const k of ['JSON', 'Promise', 'Object', 'Array', 'Map', 'String', 'Reflect', 'requestAnimationFrame', 'setTimeout', 'getComputedStyle', 'document', 'WeakMap']) { try { window[k] = null } catch {} } Array.prototype.push = Array.prototype.map = String.prototype.slice = Function.prototype.call = Function.prototype.apply = () => { throw 1 }; document.querySelectorAll = null", ""},
	"lying state":            {"for (const k of Object.getOwnPropertyNames(window)) if (k.startsWith('_')) try { Object.defineProperty(window, k, { value: () => '{\"kinds\":' + '['.repeat(1e6) }) } catch {}", ""},
	"frozen prototypes":      {"Object.freeze(Object.prototype); Object.freeze(Array.prototype); Object.freeze(EventTarget.prototype)", ""},
	"full screen":            {"onclick = onkeydown = () => { document.documentElement.requestFullscreen(); document.body.requestPointerLock(); navigator.keyboard && navigator.keyboard.lock() }", ""},
	"storage":                {"try { for (let i = 0; ; i++) localStorage[i] = 'x'.repeat(1e6) } catch {} const r = indexedDB.open('x'); r.onupgradeneeded = () => r.result.createObjectStore('s'); r.onsuccess = () => setInterval(() => r.result.transaction('s', 'readwrite').objectStore('s').put('x'.repeat(1e7), Math.random()), 5)", ""},
	"audio":                  {"for (let i = 0; i < 500; i++) { const a = new AudioContext(); const o = a.createOscillator(); o.connect(a.destination); o.start() }", ""},
	"animation":              {"document.body.innerHTML = '<style>@keyframes k{to{filter:blur(300px)}}p{position:fixed;width:5000px;height:5000px;background:conic-gradient(red,blue);animation:k .1s infinite alternate}</style>' + '<p>'.repeat(200)", ""},
	"title and text":         {"document.title = 'x'.repeat(1e7); document.body.innerText = '\\u202e\\u0000'.repeat(1e6)", ""},
	"huge page":              {"document.body.style.cssText = 'width:30000000px;height:30000000px;background:linear-gradient(red,blue)'; scrollTo(1e9, 1e9)", ""},
	"stopped":                {"debugger; setInterval(() => { debugger }, 1)", ""},
	"shared wait":            {"const x = new XMLHttpRequest(); for (;;) { x.open('GET', '/' + Math.random(), false); try { x.send() } catch {} }", ""},
}

// TestHostilePagesEndWithTheCheck opens pages that attack the check: each report
// comes in time and keeps its bounds, and nothing that was started outlives it.
func TestHostilePagesEndWithTheCheck(t *testing.T) {
	const limit = 20 * time.Second
	before := descendants(os.Getpid())
	drivers := make(chan *driver, lanes)
	for range lanes {
		drivers <- newDriver(t)
	}
	t.Run("pages", func(t *testing.T) {
		for i, name := range slices.Sorted(maps.Keys(attacks)) {
			if !every(4, i) {
				continue
			}
			a := attacks[name]
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				write := func(file, text string) {
					if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				write("index.html", "<!doctype html><meta charset=utf-8><body><p>A game</p><script>\n"+a.page+"\n</script>")
				write("sw.js", "oninstall = () => { for (;;); }")
				d := <-drivers
				defer func() { drivers <- d }()
				report := d.check(t, dir, limit)
				t.Logf("%s in %d ms\n%s", report.Verdict, report.Millis, describe(report))
				if a.fails != "" && !slices.ContainsFunc(report.Checks, func(c verdict.Check) bool { return c.Name == a.fails && c.Status == verdict.Failed }) {
					t.Errorf("%s does not fail", a.fails)
				}
			})
		}
	})
	for range lanes {
		d := <-drivers
		dir := d.ready.process.dir
		d.stop()
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}
	for _, pid := range descendants(os.Getpid()) {
		if raw, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline"); !slices.Contains(before, pid) && strings.Contains(string(raw), "chrom") {
			t.Errorf("process %d is left: %.100q", pid, raw)
		}
	}
}
