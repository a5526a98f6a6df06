package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// program is a running dreamcore-check.
type program struct {
	kill  context.CancelFunc
	stdin *io.PipeWriter
	out   lines
	errs  tail
	line  <-chan verdict.Line // gets the answer that is awaited
	ended chan struct{}       // closed when exit and err are set
	exit  sandbox.Exit
	err   error
}

// start starts a program that answers with lines. It is killed when ctx ends.
func start(ctx context.Context, sb sandbox.Sandbox, cmd sandbox.Command) (*program, error) {
	r, w := io.Pipe()
	d := &program{stdin: w, ended: make(chan struct{})}
	d.line = d.out.next()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, &d.out, &d.errs
	ctx, d.kill = context.WithCancel(ctx)
	p, err := sb.Start(ctx, cmd)
	if err != nil {
		d.kill()
		_ = w.Close()
		return nil, err
	}
	go func() {
		defer close(d.ended)
		defer d.kill()
		d.exit, d.err = p.Wait()
		_ = r.Close() // a write that waits for a reader fails
	}()
	return d, nil
}

func (d *program) hasEnded() bool {
	select {
	case <-d.ended:
		return true
	default:
		return false
	}
}

// ask sends a request and returns the report. Only after an error with
// ReasonRefused, the driver may be asked again.
func (d *program) ask(ctx context.Context, q verdict.Request) (verdict.Report, error) {
	raw, err := json.Marshal(q)
	if err != nil {
		return verdict.Report{}, err
	}
	d.line = d.out.next()
	began := time.Now()
	go func() { _, _ = d.stdin.Write(append(raw, '\n')) }() // ends with the driver, if that does not read
	line, err := d.await(ctx, q.Limit+grace)
	switch {
	case errors.Is(err, errSlow):
		return verdict.Report{}, limitError(q.Limit)
	case d.out.failed() != nil:
		return verdict.Report{}, unknown(ReasonOutput, "the browser's driver broke its rules", d.out.failed())
	case err != nil:
		return verdict.Report{}, unknown(ReasonDied, "the browser ended during the check", err)
	case line.Error != "":
		return verdict.Report{}, unknown(ReasonRefused, "the browser could not check the game", errors.New(line.Error))
	case line.Report == nil:
		return verdict.Report{}, unknown(ReasonOutput, "the browser's driver broke its rules", errors.New("it gave no report"))
	}
	r := *line.Report
	r.Millis = time.Since(began).Milliseconds()
	return r, nil
}

// errSlow is the error of an answer that does not come in time.
var errSlow = errors.New("it does not answer in time")

// await waits for the next line.
func (d *program) await(ctx context.Context, limit time.Duration) (line verdict.Line, err error) {
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case line := <-d.line:
		return line, nil
	case <-d.ended:
	case <-late.C:
		return line, errSlow
	case <-ctx.Done():
		return line, context.Cause(ctx)
	}
	select {
	case line := <-d.line: // its last words
		return line, nil
	default:
	}
	if d.err != nil {
		return line, d.err
	}
	return line, fmt.Errorf("exit code %d: %.300q", d.exit.Code, d.errs.String())
}
