package e2e

import (
	"bytes"
	"sync"
)

// logBuffer holds the output of a service and reports when it serves.
type logBuffer struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	seen chan struct{} // closed when the address is known
	once sync.Once
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.buf.Write(p)
	if servingOn.Match(l.buf.Bytes()) {
		l.once.Do(func() { close(l.seen) })
	}
	return n, err
}

func (l *logBuffer) url() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(servingOn.FindSubmatch(l.buf.Bytes())[1])
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
