package main

import (
	"context"
	"io"
)

// readAll is io.ReadAll for standard input, which may be a terminal where
// nobody types: it gives up when ctx ends. The read then goes on by itself, so
// it is only for commands that end with it.
func readAll(ctx context.Context, r io.Reader) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(r)
		done <- result{data, err}
	}()
	select {
	case got := <-done:
		return got.data, got.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
