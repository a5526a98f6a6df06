package pid1

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/yamux"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Client is the host's side: it starts programs through the supervisor. Its
// methods are safe for concurrent use.
type Client struct {
	session *yamux.Session
	handles atomic.Uint64
}

// NewClient speaks over conn with a supervisor at its other end. Close closes
// conn too.
func NewClient(conn io.ReadWriteCloser) (*Client, error) {
	s, err := yamux.Client(conn, sessionConfig())
	if err != nil {
		return nil, fmt.Errorf("talk to PID 1: %w", err)
	}
	return &Client{session: s}, nil
}

// Lost is closed when the supervisor is gone or Close was called.
func (c *Client) Lost() <-chan struct{} { return c.session.CloseChan() }

// Close ends the talk. The supervisor then ends every process of the sandbox
// and itself.
func (c *Client) Close() error { return c.session.Close() }

// Ping returns once the supervisor answers, which also means it is up.
func (c *Client) Ping(ctx context.Context) error {
	done := make(chan error, 1)
	go func() {
		_, err := c.session.Ping()
		done <- err
	}()
	select {
	case err := <-done:
		return lost(err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Start implements sandbox.Sandbox.
func (c *Client) Start(ctx context.Context, cmd sandbox.Command) (sandbox.Process, error) {
	if len(cmd.Args) == 0 {
		return nil, errors.New("start: no program named")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o := order{
		Op: opStart, Handle: c.handles.Add(1), Args: cmd.Args, Env: cmd.Env,
		Dir: cmd.Dir, UID: cmd.UID, GID: cmd.GID,
	}
	stream, fr, err := c.open(o)
	if err != nil {
		return nil, err
	}
	// A supervisor that does not answer must not hold the caller past ctx.
	stop := context.AfterFunc(ctx, func() { _ = stream.Close(); _ = stream.SetDeadline(past) })
	k, payload, err := fr.read(MaxFrame)
	if !stop() {
		return nil, ctx.Err()
	}
	if err != nil {
		_ = stream.Close()
		return nil, lost(err)
	}
	if k != kindStarted {
		_ = stream.Close()
		return nil, reported("start "+cmd.Args[0], k, payload)
	}
	p := &process{client: c, handle: o.Handle, stream: stream, frames: fr, cmd: cmd, done: make(chan struct{})}
	go p.feed()
	go p.follow()
	p.stop = context.AfterFunc(ctx, func() { p.kill() })
	return p, nil
}

// EndAll implements sandbox.Sandbox.
func (c *Client) EndAll(ctx context.Context) error { return c.do(ctx, order{Op: opEndAll}) }

// do carries out an order whose answer is one frame.
func (c *Client) do(ctx context.Context, o order) error {
	stream, fr, err := c.open(o)
	if err != nil {
		return err
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { _ = stream.SetDeadline(past) })
	defer stop()
	k, payload, err := fr.read(MaxFrame)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return lost(err)
	case k != kindDone:
		return reported(o.Op, k, payload)
	}
	return nil
}

func (c *Client) open(o order) (*yamux.Stream, *frames, error) {
	stream, err := c.session.OpenStream()
	if err != nil {
		return nil, nil, lost(err)
	}
	fr := newFrames(stream)
	if err := fr.writeJSON(kindOrder, o); err != nil {
		_ = stream.Close()
		return nil, nil, lost(err)
	}
	return stream, fr, nil
}

// process is a program that runs inside.
type process struct {
	client *Client
	handle uint64
	stream *yamux.Stream
	frames *frames
	cmd    sandbox.Command
	stop   func() bool // disarms the kill at the end of the context

	done chan struct{} // closed when exit and err are set
	exit sandbox.Exit
	err  error
	once sync.Once // of kill
}

// feed sends standard input. It is not waited for: a Read of the caller's
// reader may block for ever. It ends when the program does at the latest,
// because the stream is then closed.
func (p *process) feed() {
	if p.cmd.Stdin != nil {
		if p.frames.copyIn(kindStdin, p.cmd.Stdin) != nil {
			return
		}
	}
	_ = p.frames.write(kindEOF, nil)
}

// follow reads what the program writes until it has ended.
func (p *process) follow() {
	defer close(p.done)
	defer p.stream.Close()
	for {
		k, payload, err := p.frames.read(MaxFrame)
		if err != nil {
			p.err = lost(err)
			return
		}
		switch k {
		case kindStdout:
			err = write(p.cmd.Stdout, payload)
		case kindStderr:
			err = write(p.cmd.Stderr, payload)
		case kindExit:
			var e exitReport
			if err := json.Unmarshal(payload, &e); err != nil {
				p.err = fmt.Errorf("read exit of %s: %w", p.cmd.Args[0], err)
				return
			}
			p.exit = sandbox.Exit{Code: e.Code, Signal: syscall.Signal(e.Signal)}
			return
		default:
			err = fmt.Errorf("PID 1 sent a frame of unknown kind %q", k)
		}
		if err != nil {
			p.kill()
			p.err = fmt.Errorf("output of %s: %w", p.cmd.Args[0], err)
			return
		}
	}
}

func (p *process) kill() {
	p.once.Do(func() {
		go func() { _ = p.Signal(syscall.SIGKILL) }()
	})
}

// Signal implements sandbox.Process.
func (p *process) Signal(sig syscall.Signal) error {
	ctx, cancel := context.WithTimeout(context.Background(), signalLimit)
	defer cancel()
	return p.client.do(ctx, order{Op: opSignal, Handle: p.handle, Signal: int(sig)})
}

// Wait implements sandbox.Process.
func (p *process) Wait() (sandbox.Exit, error) {
	<-p.done
	p.stop()
	return p.exit, p.err
}

func write(w io.Writer, b []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(b)
	return err
}

// lost says that the talk itself failed, which means that the sandbox is gone.
func lost(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", sandbox.ErrLost, err)
}

func reported(action string, k kind, payload []byte) error {
	var f failure
	if k != kindFailed || json.Unmarshal(payload, &f) != nil || f.Message == "" {
		return fmt.Errorf("%s: PID 1 answered with a frame of kind %q", action, k)
	}
	return fmt.Errorf("%s: %s", action, f.Message)
}
