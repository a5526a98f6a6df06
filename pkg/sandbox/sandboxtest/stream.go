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
			cmd := script("exec cat")
			cmd.Stdin = bytes.NewReader(want)
			if r := run(t, sb, cmd); r.out != string(want) || r.err != "" {
				t.Errorf("%d bytes of %d came back, errors %q", len(r.out), n, r.err)
			}
		})
	}
	t.Run("input arrives whole", func(t *testing.T) {
		in := noise(5_000_000)
		sum := sha256.Sum256(in)
		cmd := script("exec sha256sum")
		cmd.Stdin = bytes.NewReader(in)
		if r := run(t, sb, cmd); !strings.HasPrefix(r.out, hex.EncodeToString(sum[:])) {
			t.Errorf("sha256sum: %q", r.out)
		}
	})
	t.Run("streams can be opened by their names", func(t *testing.T) {
		for _, dir := range []string{"/proc/self/fd/%d", "/dev/std%d"} {
			name := func(fd int) string {
				return strings.NewReplacer("%d", fmt.Sprint(fd), "std0", "stdin", "std1", "stdout", "std2", "stderr").Replace(
					strings.ReplaceAll(dir, "%d", fmt.Sprint(fd)))
			}
			cmd := script(fmt.Sprintf("cat %s; echo by name >%s; echo err | tee %s >/dev/null", name(0), name(1), name(2)))
			cmd.Stdin = strings.NewReader("in\n")
			if r := run(t, sb, cmd); r.out != "in\nby name\n" || r.err != "err\n" {
				t.Errorf("%s: output %q, errors %q", dir, r.out, r.err)
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
		p := start(t, sb, cmd)
		if exit, err := wait(t, p); err != nil || exit.Code != 3 {
			t.Errorf("exit %+v, %v", exit, err)
		}
	})
	t.Run("input may be left unread", func(t *testing.T) {
		cmd := script("head -c 10")
		cmd.Stdin = bytes.NewReader(bytes.Repeat([]byte("0123456789"), 500_000))
		if r := run(t, sb, cmd); r.out != "0123456789" || r.exit.Code != 0 {
			t.Errorf("output %q, exit %+v", r.out, r.exit)
		}
	})
	t.Run("input that never arrives does not delay Wait", func(t *testing.T) {
		r, w := io.Pipe()
		defer w.Close()
		cmd := script("echo done")
		cmd.Stdin = r
		if got := run(t, sb, cmd); got.out != "done\n" {
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
		if exit, err := wait(t, p); err != nil || exit.Code != 0 {
			t.Errorf("exit %+v, %v", exit, err)
		}
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
		cmd = script("exec cat")
		cmd.Stdin = bytes.NewReader(want)
		if r := run(t, sb, cmd); r.out != string(want) {
			t.Errorf("%d bytes came back", len(r.out))
		}
		if err := p.Signal(9); err != nil {
			t.Errorf("Signal: %v", err)
		}
		close(stuck.open)
		if exit, err := wait(t, p); err != nil || exit.Signal != 9 {
			t.Errorf("exit %+v, %v", exit, err)
		}
	})
	t.Run("a slow writer gets all output of a program that has ended", func(t *testing.T) {
		// A window of 256 KiB and a pipe of 64 KiB hold this much, a window alone
		// does not: the end is still in the pipe when the program has ended.
		const n = 320_000
		var out bytes.Buffer
		slow := newGate(&out)
		cmd := script(fmt.Sprintf("head -c %d /dev/zero", n))
		cmd.Args[2] += "; exit 0"
		cmd.Stdout = slow
		p := start(t, sb, cmd)
		await(t, slow.reached, "output")
		gone(t, sb)
		time.Sleep(time.Second) // longer than any delay after the end
		close(slow.open)
		if exit, err := wait(t, p); err != nil || exit.Code != 0 {
			t.Errorf("exit %+v, %v", exit, err)
		}
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
		if err := sb.EndAll(bounded(t)); err != nil {
			t.Errorf("EndAll: %v", err)
		}
	})
	t.Run("a child that keeps writing does not delay Wait", func(t *testing.T) {
		if r := run(t, sb, script("yes & echo done >&2")); r.err != "done\n" {
			t.Errorf("errors %q", r.err)
		}
		if err := sb.EndAll(bounded(t)); err != nil {
			t.Errorf("EndAll: %v", err)
		}
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
