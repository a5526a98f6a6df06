package acceptance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// Browser is a browser in a sandbox, which may be still to start. It lives until
// Close. Its methods are safe for concurrent use.
type Browser struct {
	sandbox  sandbox.Sandbox
	settings Settings
	life     context.Context // ends with Close, or with the context of Start
	end      context.CancelFunc
	now      chan struct{} // closed by the first check: do not wait any longer
	once     sync.Once     // closes now
	ahead    sync.WaitGroup

	mu     sync.Mutex // held for all of a start and of a check
	driver *program   // nil if none runs
	begun  bool       // processes of the browser's user may run
	closed bool
}

// Start starts a browser in sb in the background and returns at once; what fails
// is reported by Check. The caller must Close it, before sb is used for another
// job. When ctx ends, the browser is killed.
func Start(ctx context.Context, sb sandbox.Sandbox, s Settings) *Browser {
	b := &Browser{sandbox: sb, settings: s, now: make(chan struct{})}
	b.life, b.end = context.WithCancel(ctx)
	if s.ahead() {
		b.ahead.Go(b.startAhead)
	}
	return b
}

// startAhead starts the browser after the delay, unless the first check has
// already done so. If that fails, the check tries again.
func (b *Browser) startAhead() {
	delay := time.NewTimer(b.settings.Delay)
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-b.now:
		return
	case <-b.life.Done():
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.now: // a check had the browser meanwhile, and may have ended it
		return
	default:
	}
	if b.closed {
		return
	}
	if err := b.ready(b.life); err != nil && b.life.Err() == nil {
		b.settings.logger().Warn("the browser could not be started ahead of the check", "sandbox", b.sandbox.ID(), "error", err)
	}
}

// Check checks the game in the directory dir inside. It starts the browser if it
// does not run. An error says why there is no verdict, and has one of the reasons
// of this package; the report is then verdict.Unknown.
func (b *Browser) Check(ctx context.Context, dir string) (verdict.Report, error) {
	b.once.Do(func() { close(b.now) })
	b.mu.Lock()
	defer b.mu.Unlock()
	began := time.Now()
	r, err := b.check(ctx, dir)
	if err != nil {
		r = verdict.Report{Verdict: verdict.Unknown, Millis: time.Since(began).Milliseconds()}
		err = b.explain(ctx, err)
	}
	return r, err
}

// explain finds the cause of a check that failed: the end of the sandbox or of
// the caller's context shows in many ways.
func (b *Browser) explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return unknown(ReasonLimit, "the check was stopped", errors.Join(context.Cause(ctx), err))
	case errors.Is(err, sandbox.ErrOutOfMemory):
		return unknown(ReasonSandbox, "the sandbox ran out of memory during the check", err)
	case errors.Is(err, sandbox.ErrLost):
		return unknown(ReasonSandbox, "the sandbox has ended during the check", err)
	}
	return err
}

func (b *Browser) check(ctx context.Context, dir string) (r verdict.Report, err error) {
	if b.closed {
		return r, unknown(ReasonStart, "the browser is closed", nil)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(b.life, cancel)
	defer stop()
	port, err := b.serve(ctx, dir) // ends with ctx
	if err != nil {
		return r, err
	}
	if err := b.ready(ctx); err != nil {
		return r, err
	}
	r, err = b.driver.ask(ctx, verdict.Request{
		Port: port, Hosts: b.settings.Hosts[:min(len(b.settings.Hosts), maxHosts)], Limit: b.settings.Limit, Pixels: b.settings.Pixels,
	})
	if err != nil && dreamcore.ReasonOf(err) != ReasonRefused {
		b.stop() // its next answer could be that of this check
	}
	return r, err
}

// serve starts the file server for dir, which ends with ctx, and returns its port.
func (b *Browser) serve(ctx context.Context, dir string) (port int, err error) {
	d, err := start(ctx, b.sandbox, command(sandbox.Owner{UID: b.settings.UID, GID: b.settings.GID}, "serve", dir))
	if err != nil {
		return 0, unknown(ReasonServe, "the file server of the check does not start", err)
	}
	line, err := d.await(ctx, startLimit)
	if err == nil && (line.Port < 1 || line.Port > 65535) {
		err = fmt.Errorf("it reports port %d", line.Port)
	}
	if err != nil {
		return 0, unknown(ReasonServe, "the file server of the check does not start", err)
	}
	return line.Port, nil
}

// ready starts the driver and the browser if they do not run. It must be called
// with mu held.
func (b *Browser) ready(ctx context.Context) error {
	if b.driver != nil && !b.driver.hasEnded() {
		return nil
	}
	b.stop()
	b.begun = true
	d, err := start(b.life, b.sandbox, command(b.settings.browserUser(), "browse"))
	if err != nil {
		return unknown(ReasonStart, "the browser does not start", err)
	}
	b.driver = d
	line, err := d.await(ctx, startLimit)
	if err == nil && line.Ready == "" {
		err = errors.New(cmp.Or(line.Error, "it is not ready"))
	}
	if err != nil {
		b.stop()
		return unknown(ReasonStart, "the browser does not start", err)
	}
	return nil
}

// stop kills the driver, if there is one. It must be called with mu held.
func (b *Browser) stop() {
	if b.driver == nil {
		return
	}
	b.driver.kill()
	_ = b.driver.stdin.Close()
	// The browser's processes are in groups of their own. What fails here is
	// repeated by Close and by the cleaning of the sandbox, which report it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.life), endLimit)
	defer cancel()
	if b.sandbox.EndUser(ctx, b.settings.browserUser().UID) == nil {
		b.begun = false
	}
	b.driver = nil
}

// Close ends every process of the browser, and returns when they have ended. A
// check that runs is cancelled. It may be called more than once. After an error,
// processes may remain, and the sandbox must be cleaned or closed.
func (b *Browser) Close(ctx context.Context) error {
	b.end()
	b.ahead.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.driver != nil {
		b.driver.kill()
		_ = b.driver.stdin.Close()
	}
	if !b.begun {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	err := b.sandbox.EndUser(ctx, b.settings.browserUser().UID)
	if err != nil && !errors.Is(err, sandbox.ErrLost) { // then all of it has ended
		return fmt.Errorf("end the browser: %w", err)
	}
	if b.driver != nil {
		select {
		case <-b.driver.ended:
		case <-ctx.Done():
			return fmt.Errorf("end the browser: %w", context.Cause(ctx))
		}
	}
	b.driver, b.begun = nil, false
	return nil
}
