// Package response provides the ResponseWriter of the HTTP servers: it records
// the response for the log, and drops clients that stop reading.
package response

import (
	"net/http"
	"time"
)

// Writer is an http.ResponseWriter that records status, size and duration of the
// response. Its connection is closed if the client accepts no data for the whole
// of a timeout. It must not be used concurrently.
type Writer struct {
	http.ResponseWriter
	Control *http.ResponseController

	timeout time.Duration
	began   time.Time
	status  int
	bytes   int64
}

// New returns a Writer for the response of a request that begins now. It replaces
// the write deadline of the connection's previous response.
func New(w http.ResponseWriter, timeout time.Duration) *Writer {
	r := &Writer{ResponseWriter: w, Control: http.NewResponseController(w), timeout: timeout, began: time.Now()}
	r.extend()
	return r
}

// Unwrap lets http.ResponseController reach the connection.
func (w *Writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *Writer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.extend()
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *Writer) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.extend()
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// FlushError sends buffered data, as http.ResponseController.Flush does.
func (w *Writer) FlushError() error {
	w.extend()
	return w.Control.Flush()
}

// extend restarts the timeout. Test recorders do not support it.
func (w *Writer) extend() { _ = w.Control.SetWriteDeadline(time.Now().Add(w.timeout)) }

// Status returns the status of the response, or 0 before its header was written.
func (w *Writer) Status() int { return w.status }

// Bytes returns how many bytes of the body were written so far.
func (w *Writer) Bytes() int64 { return w.bytes }

// Duration returns the time since New.
func (w *Writer) Duration() time.Duration { return time.Since(w.began) }
