package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// Find returns the first browser that exists.
func Find() (string, error) {
	for _, c := range verdict.Browsers() {
		if info, err := os.Stat(c); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return c, nil
		}
	}
	return "", errors.New("no browser found: install chromium-headless-shell")
}

// flags are the browser's. It must reach nothing but the loopback, keep timers of
// pages running although no window has the focus, and draw WebGL in software. Only
// WebGL: to compose the pages in the same way takes four times as long.
var flags = []string{
	"--headless", "--no-sandbox", "--remote-debugging-pipe", "--disable-dev-shm-usage",
	"--disable-gpu-compositing", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
	"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-proxy-server", "--disable-quic",
	"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-domain-reliability",
	"--disable-client-side-phishing-detection", "--no-first-run", "--no-default-browser-check", "--no-pings",
	"--disable-default-apps", "--disable-extensions", "--disable-breakpad", "--disable-crash-reporter", "--noerrdialogs",
	"--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding",
	"--disable-hang-monitor", "--disable-ipc-flooding-protection", "--block-new-web-contents", "--mute-audio",
	"--autoplay-policy=no-user-gesture-required", "--password-store=basic", "--use-mock-keychain", "--disable-notifications",
	"--disable-logging", "--log-level=3", "--hide-scrollbars", "--force-color-profile=srgb", "--metrics-recording-only",
	"--disable-site-isolation-trials", "--disable-spell-checking", "--disable-speech-api", "--disable-print-preview",
	"--disable-features=Translate,MediaRouter,OptimizationHints,DialMediaRouteProvider,IsolateOrigins,site-per-process," +
		"PaintHolding,HttpsUpgrades,BackForwardCache,AudioServiceOutOfProcess,CalculateNativeWinOcclusion",
	"--js-flags=--max-old-space-size=512", "--window-size=1280,720", "--lang=en-US",
}

// process is a running browser.
type process struct {
	cmd     *exec.Cmd
	dir     string // of its profile; removed at the end
	pipe    *pipe
	root    *session // the browser's own
	product string   // and version
	exited  chan struct{}
	release func() bool // of the end by a context
}

// start starts a browser, which ends with ctx. The caller must stop it.
func start(ctx context.Context, path string) (*process, error) {
	dir, err := os.MkdirTemp("", "check-")
	if err != nil {
		return nil, err
	}
	p := &process{dir: dir, exited: make(chan struct{})}
	if err := p.run(ctx, path); err != nil {
		p.stop()
		return nil, fmt.Errorf("start the browser: %w", err)
	}
	return p, nil
}

// run starts the browser and waits for its answer.
func (p *process) run(ctx context.Context, path string) error {
	dir := p.dir
	toBrowser, w, err := os.Pipe()
	if err != nil {
		return err
	}
	r, fromBrowser, err := os.Pipe()
	if err != nil {
		return errors.Join(err, w.Close(), toBrowser.Close())
	}
	p.cmd = exec.Command(path, append(flags, "--user-data-dir="+filepath.Join(dir, "profile"), "about:blank")...)
	p.cmd.Dir = dir
	p.cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + dir, "TMPDIR=" + dir, "LANG=C.UTF-8", "XDG_CONFIG_HOME=" + dir, "XDG_CACHE_HOME=" + dir, "DBUS_SESSION_BUS_ADDRESS=disabled:"}
	p.cmd.ExtraFiles = []*os.File{toBrowser, fromBrowser} // 3 and 4
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err = p.cmd.Start()
	_, _ = toBrowser.Close(), fromBrowser.Close() // so that the end of a browser that does not start is seen
	if err != nil {
		p.cmd = nil
		return errors.Join(err, r.Close(), w.Close())
	}
	p.pipe = newPipe(r, w)
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	p.release = context.AfterFunc(ctx, p.kill)
	p.root = p.pipe.session("")
	limited, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	v, err := call(limited, p.root, browser.GetVersion, cdp.Empty{})
	if err != nil {
		return err
	}
	p.product = v.Product
	return nil
}

// ended reports whether the browser answers nothing any more.
func (p *process) ended() bool {
	select {
	case <-p.pipe.done:
		return true
	default:
		return false
	}
}

// kill ends the browser and every process it started.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	for range 10 { // a process may start others while this looks
		pids := descendants(p.cmd.Process.Pid)
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// stop ends the browser, waits for it and removes its files.
func (p *process) stop() {
	if p.cmd != nil {
		p.release()
		p.kill()
		<-p.exited
	}
	for range 20 {
		if os.RemoveAll(p.dir) == nil {
			return
		}
		time.Sleep(10 * time.Millisecond) // a process that is about to end writes its last file
	}
}

// stat is the state of a process, from the kernel.
type stat struct {
	pid, parent int
	state       byte
	cpu         time.Duration // user and system
	memory      int64         // resident bytes
}

// clockTick is the unit of CPU times in /proc: Linux fixes it for programs.
const clockTick = 10 * time.Millisecond

// readStat returns the state of a process; ok is false if it has ended.
func readStat(pid int) (s stat, ok bool) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return s, false
	}
	text := string(raw)
	i := strings.LastIndexByte(text, ')') // the name may contain anything
	if i < 0 {
		return s, false
	}
	f := strings.Fields(text[i+1:])
	if len(f) < 22 {
		return s, false
	}
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(f[i], 10, 64)
		return n
	}
	return stat{
		pid: pid, state: f[0][0], parent: int(number(1)), cpu: time.Duration(number(11)+number(12)) * clockTick,
		memory: number(21) * int64(os.Getpagesize()),
	}, true
}

// descendants returns the processes below one, without those that have ended.
func descendants(of int) []int {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	children := map[int][]int{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if s, ok := readStat(pid); ok && s.state != 'Z' {
			children[s.parent] = append(children[s.parent], pid)
		}
	}
	var pids []int
	for todo := children[of]; len(todo) > 0; {
		pid := todo[0]
		todo = append(todo[1:], children[pid]...)
		pids = append(pids, pid)
	}
	return pids
}
