package term

import (
	"context"
	"io"
)

// Input returns standard input as a reader that fails when ctx ends, even if it
// is a terminal on which the operator types nothing. The pending read continues
// in the background, so it is only for commands that end with ctx.
func (t *IO) Input(ctx context.Context) io.Reader { return input{ctx, t.In} }

type input struct {
	ctx context.Context
	r   io.Reader
}

func (i input) Read(p []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	own := make([]byte, len(p)) // p belongs to the caller again when ctx has ended
	done := make(chan result, 1)
	go func() {
		n, err := i.r.Read(own)
		done <- result{n, err}
	}()
	select {
	case got := <-done:
		return copy(p, own[:got.n]), got.err
	case <-i.ctx.Done():
		return 0, context.Cause(i.ctx)
	}
}
