package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

func TestTerminalsGetKeysAndSizes(t *testing.T) {
	f := &fakeSandboxes{play: func(_ context.Context, cmd sandbox.Command) (sandbox.Exit, error) {
		fmt.Fprintf(cmd.Stdout, "%v", cmd.Terminal.Size)
		for range 2 {
			buf := make([]byte, 9)
			n, err := cmd.Stdin.Read(buf)
			fmt.Fprintf(cmd.Stdout, " %q %v", buf[:n], err)
		}
		fmt.Fprintf(cmd.Stdout, " %v", <-cmd.Terminal.Resized)
		return sandbox.Exit{Code: 7}, nil
	}}
	c, _ := open(t, f)
	keys, keyboard := io.Pipe()
	defer keyboard.Close()
	sizes := make(chan sandbox.Window)
	screen := &script{do: map[string]func(){
		"{80 24}": func() { _, _ = keyboard.Write([]byte("a\x03")) },
		"<nil>": func() {
			_, _ = keyboard.Write([]byte("ü"))
			sizes <- sandbox.Window{Columns: 133, Rows: 44}
		},
	}}
	code, err := c.ExecTerminal(t.Context(), name, []string{"x"}, Terminal{Keys: keys, Screen: screen, Size: sandbox.Window{Columns: 80, Rows: 24}, Resized: sizes})
	if want := `{80 24} "a\x03" <nil> "ü" <nil> {133 44}`; code != 7 || err != nil || screen.text.String() != want {
		t.Errorf("%d, %v, %q", code, err, screen.text.String())
	}
}

// script calls a function, once, when its text has been written.
type script struct {
	text bytes.Buffer
	do   map[string]func()
}

func (s *script) Write(p []byte) (int, error) {
	s.text.Write(p)
	for text, do := range s.do {
		if strings.Contains(s.text.String(), text) {
			delete(s.do, text)
			go do()
		}
	}
	return len(p), nil
}

// A program that reads no keys and writes nothing must not outlive its operator.
func TestTerminalsNoticeThatTheOperatorHasGone(t *testing.T) {
	ended := make(chan error, 1)
	f := &fakeSandboxes{play: func(ctx context.Context, cmd sandbox.Command) (sandbox.Exit, error) {
		_, _ = cmd.Stdout.Write([]byte("began"))
		<-ctx.Done()
		all, err := io.ReadAll(cmd.Stdin)
		if len(all) > maxTyped {
			err = fmt.Errorf("%d bytes were kept", len(all))
		}
		ended <- err
		return sandbox.Exit{}, err
	}}
	c, _ := open(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	keys := &endless{after: 2 * maxTyped, then: cancel}
	if _, err := c.ExecTerminal(ctx, name, []string{"x"}, Terminal{Keys: keys, Screen: io.Discard}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if err == nil || strings.Contains(err.Error(), "kept") {
			t.Errorf("a torn input looks complete: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the program still runs")
	}
}

// endless types without an end.
type endless struct {
	typed, after int
	then         func()
}

func (e *endless) Read(p []byte) (int, error) {
	if e.typed += len(p); e.typed > e.after {
		e.then()
	}
	return len(p), nil
}

func TestTerminalsEndWithTheirKeys(t *testing.T) {
	f := &fakeSandboxes{play: func(_ context.Context, cmd sandbox.Command) (sandbox.Exit, error) {
		all, err := io.ReadAll(cmd.Stdin)
		return sandbox.Exit{Code: len(all)}, err
	}}
	c, _ := open(t, f)
	code, err := c.ExecTerminal(t.Context(), name, []string{"x"}, Terminal{Keys: strings.NewReader("four"), Screen: io.Discard})
	if code != 4 || err != nil {
		t.Error(code, err)
	}
}

func TestTerminalsRefuseWhatIsNoSize(t *testing.T) {
	c, _ := open(t, &fakeSandboxes{})
	for _, size := range []string{"80", "80x", "x24", "80x70000", "-1x24", "80x24x1"} {
		_, err := c.do(t.Context(), http.MethodPost, "/sandboxes/"+name+"/exec?arg=x&terminal="+size, nil)
		if dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("%s: %v", size, err)
		}
	}
}

// FuzzGestures reads arbitrary gestures: the buffer is bounded, and Read ends.
func FuzzGestures(f *testing.F) {
	f.Add([]byte("{\"keys\":\"aGVsbG8=\"}\n{\"window\":{\"columns\":80,\"rows\":24}}\n"))
	f.Add([]byte("{\"keys\":\"aGVsbG8"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := newDesk("80x24")
		if err != nil {
			t.Fatal(err)
		}
		d.follow(bytes.NewReader(raw), func(error) {})
		if all, _ := io.ReadAll(d); len(all) > min(len(raw), maxTyped) {
			t.Errorf("%d keys of %d bytes", len(all), len(raw))
		}
	})
}
