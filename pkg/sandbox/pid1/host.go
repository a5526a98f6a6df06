package pid1

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"

	"github.com/hashicorp/yamux"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Client is the host's side: it starts programs through the supervisor. Its
// methods are safe for concurrent use.
//
// A guest may have taken over the supervisor. If the supervisor violates the
// protocol, the connection is closed. If it does not answer at all, the context
// ends every call but Wait, and Close ends Wait.
type Client struct {
	session   *yamux.Session
	handles   atomic.Uint64
	killLimit time.Duration

	mu     sync.Mutex // guards closed, and prevents group.Go after Close
	closed bool
	group  sync.WaitGroup // background goroutines except the caller's readers and writers
}

// hostCloseTimeout bounds the memory that a supervisor can hold by never closing
// streams.
const hostCloseTimeout = 60 * time.Second

// NewClient returns a client of the supervisor at the other end of conn. Close
// closes conn too.
func NewClient(conn io.ReadWriteCloser) (*Client, error) {
	s, err := yamux.Client(conn, sessionConfig(hostCloseTimeout))
	if err != nil {
		return nil, fmt.Errorf("connect to PID 1: %w", err)
	}
	c := &Client{session: s, killLimit: killLimit}
	// The supervisor must not open streams, which would cost memory.
	c.spawn(func() { _ = s.GoAway() })
	return c, nil
}

// Lost returns a channel that is closed when the supervisor is gone or Close
// was called.
func (c *Client) Lost() <-chan struct{} { return c.session.CloseChan() }

// Close closes the connection. The supervisor then ends every process of the
// sandbox and itself.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	err := c.session.Close()
	c.group.Wait()
	return err
}

// spawn runs f in the background; Close waits for it. After Close, spawn does
// nothing.
func (c *Client) spawn(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.group.Go(f)
	}
}

// drop closes a stream in the background, because closing blocks while the
// supervisor does not read.
func (c *Client) drop(stream *yamux.Stream) { c.spawn(func() { _ = stream.Close() }) }

// violation closes the connection to a supervisor that violates the protocol:
// nothing that it sends can be trusted any more.
func (c *Client) violation(err error) error {
	c.spawn(func() { _ = c.session.Close() })
	return lost(fmt.Errorf("PID 1 violated the protocol: %w", err))
}

// Ping returns nil once the supervisor answers, which also means that it is up.
func (c *Client) Ping(ctx context.Context) error {
	done := make(chan error, 1)
	c.spawn(func() {
		_, err := c.session.Ping()
		done <- err
	})
	select {
	case err := <-done:
		return lost(err)
	case <-c.Lost():
		return lost(yamux.ErrSessionShutdown)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Start implements sandbox.Sandbox.
func (c *Client) Start(ctx context.Context, cmd sandbox.Command) (sandbox.Process, error) {
	if len(cmd.Args) == 0 {
		return nil, errors.New("start: no program given")
	}
	o := order{
		Op: opStart, Handle: c.handles.Add(1), Args: cmd.Args, Env: cmd.Env,
		Dir: cmd.Dir, UID: cmd.UID, GID: cmd.GID,
	}
	if cmd.Terminal != nil {
		o.Terminal = &cmd.Terminal.Size
	}
	a := c.ask(ctx, o)
	if a.err != nil {
		return nil, a.err
	}
	if a.kind != kindStarted {
		c.drop(a.stream)
		return nil, c.refusal("start "+cmd.Args[0], a)
	}
	p := &process{client: c, handle: o.Handle, stream: a.stream, frames: a.frames, cmd: cmd, done: make(chan struct{})}
	p.stop = context.AfterFunc(ctx, p.kill)
	go p.feed()
	go p.follow()
	if cmd.Terminal != nil {
		go p.followWindow()
	}
	return p, nil
}

// EndAll implements sandbox.Sandbox.
func (c *Client) EndAll(ctx context.Context) error { return c.do(ctx, order{Op: opEndAll}) }

// EndUser implements sandbox.Sandbox.
func (c *Client) EndUser(ctx context.Context, uid uint32) error {
	return c.do(ctx, order{Op: opEndUser, UID: uid})
}

// do carries out an order that is answered by one frame.
func (c *Client) do(ctx context.Context, o order) error {
	a := c.ask(ctx, o)
	if a.err != nil {
		return a.err
	}
	c.drop(a.stream)
	if a.kind != kindDone {
		return c.refusal(o.Op, a)
	}
	return nil
}

// answer is the supervisor's first frame on a stream.
type answer struct {
	stream  *yamux.Stream
	frames  *frames
	kind    kind
	payload []byte
	err     error
}

// ask sends an order on a stream of its own and reads the first frame of the
// answer. If it has no error, the caller must close the stream.
func (c *Client) ask(ctx context.Context, o order) answer {
	b, err := json.Marshal(o)
	switch {
	case err != nil:
		return answer{err: err}
	case len(b) > maxOrder:
		return answer{err: fmt.Errorf("%s: arguments and environment take %d bytes, the limit is %d", o.Op, len(b), maxOrder)}
	case ctx.Err() != nil:
		return answer{err: ctx.Err()}
	}
	// Opening and writing a stream block, regardless of ctx, while the
	// supervisor does not read.
	got := make(chan answer, 1)
	c.spawn(func() { got <- c.talk(ctx, b) })
	select {
	case a := <-got:
		if a.err != nil && ctx.Err() != nil {
			a.err = ctx.Err()
		}
		return a
	case <-c.Lost():
		return answer{err: lost(yamux.ErrSessionShutdown)}
	case <-ctx.Done():
		c.spawn(func() {
			if a := <-got; a.err == nil {
				_ = a.stream.Close()
			}
		})
		return answer{err: ctx.Err()}
	}
}

// talk is the blocking part of ask.
func (c *Client) talk(ctx context.Context, order []byte) answer {
	stream, err := c.session.OpenStream()
	if err != nil {
		return answer{err: lost(err)}
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.SetDeadline(past) })
	defer stop()
	a := answer{stream: stream, frames: newFrames(stream)}
	if err = a.frames.write(kindOrder, order); err == nil {
		a.kind, a.payload, err = a.frames.read(MaxFrame)
	}
	switch {
	case !stop(): // the deadline was set, perhaps only after the answer
		a.err = ctx.Err()
	case err != nil:
		a.err = c.broken(err)
	default:
		return a
	}
	_ = stream.Close()
	return a
}

// broken returns the error for a failed stream. If the connection is still
// open, the supervisor cut the stream, sent a frame that is too long, or did not
// answer in time.
func (c *Client) broken(err error) error {
	if c.session.IsClosed() {
		return lost(err)
	}
	return c.violation(err)
}

// process is a program that runs inside the sandbox.
type process struct {
	client *Client
	handle uint64
	stream *yamux.Stream
	frames *frames
	cmd    sandbox.Command
	stop   func() bool // cancels the kill at the end of the context

	once   sync.Once // guards kill
	killed atomic.Bool

	mu     sync.Mutex
	failed error // why it was killed: its output or input could not be copied

	done chan struct{} // closed when exit and err are set
	exit sandbox.Exit
	err  error
}

// killLimit is how long the supervisor may take to end a program that it was told
// to kill, without the time in which its output is written. The host may be short of CPU time.
const killLimit = 30 * time.Second

// feed sends standard input. Nothing waits for it, because a Read of the
// caller's reader may block forever. It ends with the program at the latest,
// because the stream is then closed.
func (p *process) feed() {
	if p.cmd.Stdin != nil {
		reading, sending := p.frames.copyIn(kindStdin, p.cmd.Stdin)
		if sending != nil {
			return
		}
		if reading != nil {
			// A truncated input must not look complete to the program.
			p.fail(fmt.Errorf("input of %s: %w", p.cmd.Args[0], reading))
			return
		}
	}
	_ = p.frames.write(kindEOF, nil)
}

// follow copies the program's output until it has ended.
func (p *process) follow() {
	p.exit, p.err = p.output()
	if p.err == nil {
		p.mu.Lock()
		p.err = p.failed
		p.mu.Unlock()
	}
	p.stop()
	close(p.done)
	p.client.drop(p.stream)
}

func (p *process) output() (sandbox.Exit, error) {
	stdout, stderr := p.cmd.Stdout, p.cmd.Stderr
	left := p.client.killLimit // of waiting for the supervisor; the caller's writers may take longer
	for {
		began, killed := time.Now(), p.killed.Load()
		if killed {
			_ = p.stream.SetReadDeadline(began.Add(left))
		}
		k, payload, err := p.frames.read(MaxFrame)
		if killed {
			if left -= time.Since(began); left <= 0 && err == nil {
				err = os.ErrDeadlineExceeded // the output does not end
			}
		}
		if err != nil {
			return sandbox.Exit{}, p.client.broken(err)
		}
		switch k {
		case kindStdout:
			err = write(stdout, payload)
		case kindStderr:
			err = write(stderr, payload)
		case kindExit:
			exit, err := parseExit(payload)
			if err != nil {
				return exit, p.client.violation(err)
			}
			return exit, nil
		default:
			return sandbox.Exit{}, p.client.violation(fmt.Errorf("unknown frame kind %q", k))
		}
		if err != nil {
			stdout, stderr = nil, nil
			p.fail(fmt.Errorf("output of %s: %w", p.cmd.Args[0], err))
		}
	}
}

// parseExit parses and checks the exit status of a program.
func parseExit(payload []byte) (sandbox.Exit, error) {
	var e exitReport
	if err := json.Unmarshal(payload, &e); err != nil {
		return sandbox.Exit{}, fmt.Errorf("exit: %w", err)
	}
	if e.Code < 0 || e.Code > 255 || e.Signal < 0 || e.Signal > 64 || e.Signal > 0 && e.Code != 128+e.Signal {
		return sandbox.Exit{}, fmt.Errorf("exit: code %d, signal %d", e.Code, e.Signal)
	}
	return sandbox.Exit{Code: e.Code, Signal: syscall.Signal(e.Signal)}, nil
}

// fail kills the program and makes Wait return the first err.
func (p *process) fail(err error) {
	p.mu.Lock()
	if p.failed == nil {
		p.failed = err
	}
	p.mu.Unlock()
	p.kill()
}

// kill has the supervisor kill the program. If the supervisor then does not end it
// within killLimit, it counts as lost.
func (p *process) kill() {
	p.once.Do(func() {
		p.killed.Store(true)
		_ = p.stream.SetReadDeadline(time.Now().Add(p.client.killLimit))
		p.client.spawn(func() { _ = p.Signal(syscall.SIGKILL) })
	})
}

func (p *process) Signal(sig syscall.Signal) error {
	ctx, cancel := context.WithTimeout(context.Background(), signalLimit)
	defer cancel()
	return p.client.do(ctx, order{Op: opSignal, Handle: p.handle, Signal: int(sig)})
}

func (p *process) Wait() (sandbox.Exit, error) {
	<-p.done
	return p.exit, p.err
}

func write(w io.Writer, b []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(b)
	return err
}

// lost wraps an error of the connection itself, which means that the sandbox is
// gone.
func lost(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", sandbox.ErrLost, err)
}

// refusal returns the error for an order that was not carried out.
func (c *Client) refusal(action string, a answer) error {
	if a.kind != kindFailed {
		return c.violation(fmt.Errorf("%s: unexpected frame kind %q", action, a.kind))
	}
	var f failure
	if err := json.Unmarshal(a.payload, &f); err != nil {
		return c.violation(fmt.Errorf("%s: %w", action, err))
	}
	const most = 1 << 10 // it is shown in logs and on terminals
	if len(f.Message) > most {
		f.Message = f.Message[:most] + "…"
	}
	return fmt.Errorf("%s: %s", action, strings.Map(printable, f.Message))
}

// printable replaces characters that must not reach a terminal.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '?'
}
