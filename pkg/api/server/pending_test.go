package server

import (
	"bufio"
	"io"
	"net/http"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

// A connection that was accepted before the stop is answered, though its request
// comes later: its client would take it for a failure.
func TestStopAnswersAcceptedConnections(t *testing.T) {
	sv := start(t, options{run: func(log *journal.Log) { _, _ = log.Append(dreamcore.DoneEvent()) }})
	conn := sv.raw("GET /health HTTP/1.1\r\n")
	// Connections are accepted in order, so the first is.
	if status, _, _ := sv.get("/jobs/" + projectID); status != http.StatusNotFound {
		t.Fatal(status)
	}
	sv.stop()
	sv.closed()
	if _, err := io.WriteString(conn, "Host: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK || !res.Close {
		t.Errorf("%s, stays open: %v", res.Status, !res.Close)
	}
	if err := <-sv.stopped; err != nil {
		t.Error(err)
	}
}
