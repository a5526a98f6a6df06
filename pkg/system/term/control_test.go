package term

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestControlCharactersDoNotReachATerminal(t *testing.T) {
	for terminal, want := range map[bool]string{true: "a?[31mb??\n\tc", false: "a\x1b[31mb\u009b\n\tc"} {
		var b bytes.Buffer
		text := "a\x1b[31mb\u009b\n\tc"
		if n, err := WithoutControls(&b, terminal).Write([]byte(text)); n != len(text) || err != nil || terminal && strings.ContainsAny(b.String(), "\x1b\u009b") || !terminal && b.String() != want {
			t.Errorf("terminal %v: %q", terminal, b.String())
		}
	}
}

func TestTheContextEndsAReadOfStandardInput(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	tio, _, _ := Buffers("")
	tio.In = r
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("interrupted")
	go func() { _, _ = w.Write([]byte("typed")) }()
	in := tio.Input(ctx)
	b := make([]byte, 5)
	if _, err := io.ReadFull(in, b); err != nil || string(b) != "typed" {
		t.Errorf("%q, %v", b, err)
	}
	cancel(reason)
	if _, err := in.Read(b); !errors.Is(err, reason) {
		t.Error(err)
	}
}
