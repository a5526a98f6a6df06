package sandboxtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// noise returns n pseudo-random bytes, the same every time.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}

// testStreams tests standard input, output and error.
func testStreams(t *testing.T, sb sandbox.Sandbox) {
	for _, n := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 5_000_000} {
		t.Run(fmt.Sprintf("%d bytes go in and come out", n), func(t *testing.T) {
			want := noise(n)
			if r := feed(t, sb, bytes.NewReader(want), "exec cat"); r.out != string(want) || r.err != "" {
				t.Errorf("%d bytes of %d came back, errors %q", len(r.out), n, r.err)
			}
		})
	}
	t.Run("input arrives whole", func(t *testing.T) {
		in := noise(5_000_000)
		sum := sha256.Sum256(in)
		if r := feed(t, sb, bytes.NewReader(in), "exec sha256sum"); !strings.HasPrefix(r.out, hex.EncodeToString(sum[:])) {
			t.Errorf("sha256sum: %q", r.out)
		}
	})
	t.Run("streams can be opened by their names", func(t *testing.T) {
		for _, names := range [][3]string{{"/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"}, {"/dev/stdin", "/dev/stdout", "/dev/stderr"}} {
			text := fmt.Sprintf("cat %s; echo by name >%s; echo err | tee %s >/dev/null", names[0], names[1], names[2])
			if r := feed(t, sb, strings.NewReader("in\n"), text); r.out != "in\nby name\n" || r.err != "err\n" {
				t.Errorf("%q: output %q, errors %q", names, r.out, r.err)
			}
		}
	})
	t.Run("output and errors are separate, and may go to one writer", func(t *testing.T) {
		r := run(t, sb, script("echo out; echo err >&2; echo out"))
		if r.out != "out\nout\n" || r.err != "err\n" {
			t.Errorf("output %q, errors %q", r.out, r.err)
		}
		var both bytes.Buffer
		cmd := script("echo a; echo b >&2")
		cmd.Stdout, cmd.Stderr = &both, &both
		run(t, sb, cmd)
		if got := both.String(); got != "a\nb\n" && got != "b\na\n" {
			t.Errorf("together %q", got)
		}
	})
	t.Run("nil streams are empty or discarded", func(t *testing.T) {
		cmd := script("cat; head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; exit 3")
		exits(t, start(t, sb, cmd), sandbox.Exit{Code: 3})
	})
	t.Run("input may be left unread", func(t *testing.T) {
		in := bytes.NewReader(bytes.Repeat([]byte("0123456789"), 500_000))
		if r := feed(t, sb, in, "head -c 10"); r.out != "0123456789" || r.exit.Code != 0 {
			t.Errorf("output %q, exit %+v", r.out, r.exit)
		}
	})
	t.Run("input that never arrives does not delay Wait", func(t *testing.T) {
		r, w := io.Pipe()
		defer w.Close()
		if got := feed(t, sb, r, "echo done"); got.out != "done\n" {
			t.Errorf("output %q", got.out)
		}
	})
	t.Run("input arrives while the program runs", func(t *testing.T) {
		r, w := io.Pipe()
		out := newLine()
		cmd := script("exec cat")
		cmd.Stdin, cmd.Stdout = r, out
		p := start(t, sb, cmd)
		_, _ = io.WriteString(w, "ping\n")
		await(t, out.seen, "the echo")
		_ = w.Close()
		exits(t, p, sandbox.Exit{})
	})
	t.Run("input that fails kills the program", func(t *testing.T) {
		broken := errors.New("broken reader")
		cmd := script("cat; echo looks whole")
		cmd.Stdin = io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken))
		p := start(t, sb, cmd)
		if _, err := wait(t, p); !errors.Is(err, broken) || errors.Is(err, sandbox.ErrLost) {
			t.Errorf("Wait: %v", err)
		}
	})
	testSlowOutput(t, sb)
}

// brokenWriter fails after some bytes.
type brokenWriter struct {
	left int
	err  error
}

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, w.err
	}
	return len(p), nil
}

// testSlowOutput tests writers that are slow, blocked or broken.
func testSlowOutput(t *testing.T, sb sandbox.Sandbox) {
	t.Run("output that fails kills the program", func(t *testing.T) {
		broken := errors.New("disk full")
		cmd := script("exec yes")
		cmd.Stdout = &brokenWriter{left: 100_000, err: broken}
		p := start(t, sb, cmd)
		if _, err := wait(t, p); !errors.Is(err, broken) || errors.Is(err, sandbox.ErrLost) {
			t.Errorf("Wait: %v", err)
		}
		if got := sh(t, sb, processes); strings.Contains(got, "(yes)") {
			t.Errorf("still there after Wait: %s", got)
		}
	})
	t.Run("a blocked writer does not delay other programs", func(t *testing.T) {
		stuck := newGate(io.Discard)
		cmd := script("exec yes")
		cmd.Stdout = stuck
		p := start(t, sb, cmd)
		await(t, stuck.reached, "output")
		want := noise(2_000_000)
		if r := feed(t, sb, bytes.NewReader(want), "exec cat"); r.out != string(want) {
			t.Errorf("%d bytes came back", len(r.out))
		}
		noError(t, "Signal", p.Signal(syscall.SIGKILL))
		close(stuck.open)
		exits(t, p, killed(syscall.SIGKILL))
	})
	t.Run("a slow writer gets all output of a program that has ended", func(t *testing.T) {
		// A window of 256 KiB and a pipe of 64 KiB hold this much, a window alone
		// does not: the end is still in the pipe when the program has ended.
		const n = 320_000
		var out bytes.Buffer
		slow := newGate(&out)
		cmd := script(fmt.Sprintf("head -c %d /dev/zero; exit 0", n))
		cmd.Stdout = slow
		p := start(t, sb, cmd)
		await(t, slow.reached, "output")
		gone(t, sb)
		time.Sleep(time.Second) // longer than any delay after the end
		close(slow.open)
		exits(t, p, sandbox.Exit{})
		if out.Len() != n {
			t.Errorf("%d bytes of %d arrived", out.Len(), n)
		}
	})
	t.Run("a child that keeps the output open does not delay Wait", func(t *testing.T) {
		began := time.Now()
		if r := run(t, sb, script("sleep 100 & echo done")); r.out != "done\n" {
			t.Errorf("output %q", r.out)
		}
		if d := time.Since(began); d > 20*time.Second {
			t.Errorf("Wait took %s", d)
		}
		noError(t, "EndAll", sb.EndAll(bounded(t)))
	})
	t.Run("a child that keeps writing does not delay Wait", func(t *testing.T) {
		if r := run(t, sb, script("yes & echo done >&2")); r.err != "done\n" {
			t.Errorf("errors %q", r.err)
		}
		noError(t, "EndAll", sb.EndAll(bounded(t)))
	})
	t.Run("20 programs at once keep their streams apart", func(t *testing.T) {
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				want := bytes.Repeat([]byte{byte(i)}, 100_000+i)
				var out bytes.Buffer
				cmd := script("exec cat")
				cmd.Stdin, cmd.Stdout = bytes.NewReader(want), &out
				p, err := sb.Start(bounded(t), cmd)
				if err != nil {
					t.Errorf("Start: %v", err)
					return
				}
				if exit, err := p.Wait(); err != nil || exit.Code != 0 || !bytes.Equal(out.Bytes(), want) {
					t.Errorf("program %d: exit %+v, %v, %d bytes", i, exit, err, out.Len())
				}
			})
		}
		all.Wait()
	})
}
