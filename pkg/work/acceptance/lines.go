package acceptance

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// errUnasked is the error of output that nothing has asked for.
var errUnasked = errors.New("it wrote more than it was asked for")

// lines receives the output of a program, of which every line answers a question.
// Anything else is a violation: Write fails, which kills the program. It holds at
// most one line, of verdict.MaxLine bytes.
type lines struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	want chan verdict.Line // gets the next line; nil if none is wanted
	err  error             // of the first violation
}

// next returns a channel that gets the next line. The line before must have come.
func (l *lines) next() <-chan verdict.Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.want = make(chan verdict.Line, 1)
	return l.want
}

// failed returns the first violation, or nil.
func (l *lines) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = l.take(p)
	}
	if l.err != nil {
		return 0, l.err
	}
	return len(p), nil
}

// take adds p to the line. It must be called with mu held.
func (l *lines) take(p []byte) error {
	for len(p) > 0 {
		if l.want == nil {
			return errUnasked
		}
		part, rest, whole := bytes.Cut(p, []byte{'\n'})
		if l.buf.Len()+len(part) > verdict.MaxLine {
			return fmt.Errorf("it wrote a line of more than %d bytes", verdict.MaxLine)
		}
		l.buf.Write(part)
		if !whole {
			return nil
		}
		line, err := verdict.Parse(l.buf.Bytes())
		l.buf = bytes.Buffer{} // a picture's memory is not kept
		if err != nil {
			return err
		}
		l.want <- line // has room for it
		l.want, p = nil, rest
	}
	return nil
}

// tail keeps the end of the standard error of a program.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// maxTail bounds a tail, in bytes.
const maxTail = 2 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	p = p[max(0, len(p)-maxTail):]
	t.buf = append(t.buf, p...)
	t.buf = append([]byte(nil), t.buf[max(0, len(t.buf)-maxTail):]...)
	return n, nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
