package pid1

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// hostile returns the client of a supervisor that a guest has taken over.
// answer is called with each stream after its order was read.
func hostile(t testing.TB, answer func(stream *yamux.Stream, o []byte)) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	session, err := yamux.Server(theirs, sessionConfig(0))
	if err != nil {
		t.Fatal(err)
	}
	var streams sync.WaitGroup
	streams.Go(func() {
		for {
			stream, err := session.AcceptStream()
			if err != nil {
				return
			}
			streams.Go(func() {
				defer stream.Close()
				if _, o, err := newFrames(stream).read(maxOrder); err == nil {
					answer(stream, o)
				}
			})
		}
	})
	c, err := NewClient(ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		_ = session.Close()
		streams.Wait()
	})
	return c
}

// frame encodes a frame. n is the length that it claims; -1 means the true one.
func frame(k kind, n int64, payload string) string {
	if n < 0 {
		n = int64(len(payload))
	}
	b := binary.BigEndian.AppendUint32([]byte{byte(k)}, uint32(n))
	return string(b) + payload
}

// silence waits until the other side has closed the stream.
func silence(stream *yamux.Stream) { _, _ = io.Copy(io.Discard, stream) }

// within fails the test if f does not return in time.
func within(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("timeout")
	}
}

func TestSupervisorThatViolatesTheProtocol(t *testing.T) {
	started := frame(kindStarted, 0, "")
	tests := map[string]struct {
		answer  string
		started bool // Start succeeds, Wait fails
	}{
		"nothing":                  {"", false},
		"half a frame":             {"s\x00\x00", false},
		"oversize frame":           {frame(kindStarted, 1<<32-1, "x"), false},
		"frame one byte too long":  {frame(kindStarted, MaxFrame+1, strings.Repeat("x", MaxFrame+1)), false},
		"unknown kind":             {frame('?', -1, "x"), false},
		"output before the start":  {frame(kindStdout, -1, "x"), false},
		"failure that is not JSON": {frame(kindFailed, -1, "{"), false},
		"then nothing":             {started, true},
		"then half a frame":        {started + "1\x00", true},
		"then a frame cut short":   {started + frame(kindStdout, 100, "x"), true},
		"then an oversize frame":   {started + frame(kindStdout, MaxFrame+1, "x"), true},
		"then an unknown kind":     {started + frame(0, -1, "x"), true},
		"then a second start":      {started + started, true},
		"then garbage for exit":    {started + frame(kindExit, -1, "garbage"), true},
		"then an empty exit":       {started + frame(kindExit, 0, ""), true},
		"then a code too high":     {started + frame(kindExit, -1, `{"code":256}`), true},
		"then a negative code":     {started + frame(kindExit, -1, `{"code":-1}`), true},
		"then code and signal":     {started + frame(kindExit, -1, `{"code":0,"signal":9}`), true},
		"then a signal too high":   {started + frame(kindExit, -1, `{"code":200,"signal":72}`), true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := hostile(t, func(stream *yamux.Stream, _ []byte) { _, _ = io.WriteString(stream, test.answer) })
			within(t, func() {
				p, err := c.Start(t.Context(), sandbox.Command{Args: []string{"x"}})
				if (err == nil) != test.started {
					t.Errorf("Start: %v", err)
				}
				if err == nil {
					_, err = p.Wait()
				}
				if !errors.Is(err, sandbox.ErrLost) {
					t.Errorf("not lost: %v", err)
				}
				<-c.Lost() // the client gives the sandbox up
			})
		})
	}
}

func TestSupervisorThatNeverAnswers(t *testing.T) {
	calls := map[string]func(context.Context, *Client) error{
		"Start": func(ctx context.Context, c *Client) error {
			_, err := c.Start(ctx, sandbox.Command{Args: []string{"x"}})
			return err
		},
		"long Start": func(ctx context.Context, c *Client) error {
			_, err := c.Start(ctx, sandbox.Command{Args: []string{strings.Repeat("x", 900_000)}})
			return err
		},
		"EndAll":  func(ctx context.Context, c *Client) error { return c.EndAll(ctx) },
		"EndUser": func(ctx context.Context, c *Client) error { return c.EndUser(ctx, 1) },
		"signal": func(ctx context.Context, c *Client) error {
			return c.do(ctx, order{Op: opSignal, Handle: 1, Signal: 9})
		},
	}
	ctx := func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(t.Context(), 50*time.Millisecond)
	}
	for name, call := range calls {
		t.Run(name+", but reads", func(t *testing.T) {
			c := hostile(t, func(stream *yamux.Stream, _ []byte) { silence(stream) })
			ctx, cancel := ctx()
			defer cancel()
			within(t, func() {
				if err := call(ctx, c); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, sandbox.ErrLost) {
					t.Errorf("error %v", err)
				}
			})
		})
		t.Run(name+", nor reads", func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer theirs.Close()
			c, err := NewClient(ours)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := ctx()
			defer cancel()
			within(t, func() {
				n := 300 // more than yamux allows open without an answer
				if strings.HasPrefix(name, "long") {
					n = 3
				}
				for range n {
					if err := call(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("error %v", err)
					}
				}
				if err := c.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Ping: %v", err)
				}
				_ = c.Close()
				if err := call(t.Context(), c); !errors.Is(err, sandbox.ErrLost) {
					t.Errorf("after Close: %v", err)
				}
			})
		})
	}
}

func TestSupervisorThatDoesNotKill(t *testing.T) {
	c := hostile(t, func(stream *yamux.Stream, o []byte) {
		if bytes.Contains(o, []byte(`"start"`)) {
			_, _ = io.WriteString(stream, frame(kindStarted, 0, ""))
		}
		silence(stream)
	})
	c.killLimit = 100 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	p, err := c.Start(ctx, sandbox.Command{Args: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	cancel()
	within(t, func() {
		if _, err := p.Wait(); !errors.Is(err, sandbox.ErrLost) {
			t.Errorf("Wait: %v", err)
		}
		<-c.Lost()
	})
	if d := time.Since(began); d < c.killLimit {
		t.Errorf("Wait took %s", d)
	}
}

// TestSupervisorThatNeverStopsTalking: what it sends about a program that it was told
// to kill does not put off the end.
func TestSupervisorThatNeverStopsTalking(t *testing.T) {
	c := hostile(t, func(stream *yamux.Stream, o []byte) {
		if !bytes.Contains(o, []byte(`"start"`)) {
			silence(stream)
			return
		}
		_, _ = io.WriteString(stream, frame(kindStarted, 0, ""))
		for {
			if _, err := io.WriteString(stream, frame(kindStdout, -1, "x")); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	c.killLimit = 300 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	p, err := c.Start(ctx, sandbox.Command{Args: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	within(t, func() {
		if _, err := p.Wait(); !errors.Is(err, sandbox.ErrLost) {
			t.Errorf("Wait: %v", err)
		}
	})
}

func TestOutputIsDrainedAfterItsWriterFailed(t *testing.T) {
	// The exit is preceded by more output, which must not block it.
	c := hostile(t, func(stream *yamux.Stream, o []byte) {
		if bytes.Contains(o, []byte(`"signal"`)) {
			_, _ = io.WriteString(stream, frame(kindDone, 0, ""))
			return
		}
		_, _ = io.WriteString(stream, frame(kindStarted, 0, ""))
		for range 100 {
			_, _ = io.WriteString(stream, frame(kindStdout, -1, strings.Repeat("x", MaxFrame)))
		}
		_, _ = io.WriteString(stream, frame(kindExit, -1, `{"code":137,"signal":9}`))
	})
	broken := errors.New("broken")
	within(t, func() {
		p, err := c.Start(t.Context(), sandbox.Command{Args: []string{"x"}, Stdout: failing{broken}})
		if err != nil {
			t.Error(err)
			return
		}
		exit, err := p.Wait()
		if !errors.Is(err, broken) || errors.Is(err, sandbox.ErrLost) || exit.Signal != syscall.SIGKILL {
			t.Errorf("Wait: %+v, %v", exit, err)
		}
	})
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestRefusalIsSafeForATerminal(t *testing.T) {
	c := hostile(t, func(stream *yamux.Stream, _ []byte) {
		_ = newFrames(stream).writeJSON(kindFailed, failure{Message: "a\x1b[2Jb\x00c\n" + strings.Repeat("é", 5000)})
	})
	_, err := c.Start(t.Context(), sandbox.Command{Args: []string{"x"}})
	if err == nil || errors.Is(err, sandbox.ErrLost) {
		t.Fatalf("Start: %v", err)
	}
	if s := err.Error(); !strings.HasPrefix(s, "start x: a?[2Jb?c?é") || len(s) > 1100 || strings.ContainsAny(s, "\x1b\x00\n") {
		t.Errorf("the message is %q", s)
	}
}

func TestSupervisorCannotOpenStreams(t *testing.T) {
	ours, theirs := net.Pipe()
	session, err := yamux.Server(theirs, sessionConfig(0))
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	c, err := NewClient(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	within(t, func() {
		for {
			stream, err := session.OpenStream()
			if errors.Is(err, yamux.ErrRemoteGoAway) {
				return
			}
			if err != nil {
				t.Errorf("OpenStream: %v", err)
				return
			}
			_ = stream.Close() // opened before the client's GoAway arrived
		}
	})
}

func TestFramesEnforceTheirLimit(t *testing.T) {
	for _, n := range []int{0, 1, 4096, MaxFrame} {
		var b bytes.Buffer
		fr := newFrames(&b)
		if err := fr.write(kindStdout, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if k, payload, err := fr.read(MaxFrame); k != kindStdout || len(payload) != n || err != nil {
			t.Errorf("%d bytes: kind %q, %d bytes, %v", n, k, len(payload), err)
		}
	}
	fr := newFrames(bytes.NewBufferString(frame(kindStdout, MaxFrame+1, strings.Repeat("x", MaxFrame+1))))
	if _, _, err := fr.read(MaxFrame); !errors.Is(err, errFrame) {
		t.Errorf("read: %v", err)
	}
	if cap(fr.buf) > 0 {
		t.Errorf("%d bytes were allocated for it", cap(fr.buf))
	}
}

// FuzzFrames sends arbitrary bytes to the host as a supervisor's answer.
func FuzzFrames(f *testing.F) {
	started := frame(kindStarted, 0, "")
	f.Add([]byte(""))
	f.Add([]byte(started + frame(kindStdout, -1, "out") + frame(kindStderr, -1, "err") + frame(kindExit, -1, `{"code":3}`)))
	f.Add([]byte(started + frame(kindExit, -1, `{"code":137,"signal":9}`)))
	f.Add([]byte(started + frame(kindExit, -1, `{"code":1e9}`)))
	f.Add([]byte(started + frame(kindStdout, 1<<31, "x")))
	f.Add([]byte(frame(kindFailed, -1, `{"message":"no"}`)))
	f.Add([]byte(started + frame('?', -1, "")))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := hostile(t, func(stream *yamux.Stream, _ []byte) { _, _ = stream.Write(b) })
		var out bytes.Buffer
		p, err := c.Start(t.Context(), sandbox.Command{Args: []string{"x"}, Stdout: &out, Stderr: &out})
		if err != nil {
			return
		}
		exit, err := p.Wait()
		if err == nil && (exit.Code < 0 || exit.Code > 255 || exit.Signal < 0 || exit.Signal > 64) {
			t.Errorf("exit %+v", exit)
		}
		if out.Len() > len(b) {
			t.Errorf("%d bytes of output from %d", out.Len(), len(b))
		}
	})
}
