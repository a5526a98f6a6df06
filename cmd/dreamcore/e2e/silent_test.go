package e2e

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// silentGrowth is how much the service may grow while clients do not read, in bytes.
const silentGrowth = 24 << 20

// TestClientsThatNeverReadTakeNoMemory follows a game with much output
// with clients that read nothing, while others begin to do so all the time. The
// service does not grow, and a client that reads gets every event.
// DREAMCORE_TEST_SILENT sets how many seconds it takes; 600 is what the service is
// meant for.
func TestClientsThatNeverReadTakeNoMemory(t *testing.T) {
	seconds := number("DREAMCORE_TEST_SILENT", 12)
	h := newHost(t).unbounded()
	s := h.serve("--model-script", writeScript(t, loudScript()))
	w := s.watch(http.MethodPost, "/generate_game", strings.TrimSuffix(generateBody(uuid.NewString(), project, "a game"), "}")+`,"detach":true}`)
	for range 100 {
		s.readNothing("/jobs/" + w.job + "/events")
	}
	if e := w.until(never); e["type"] != "done" {
		t.Fatalf("%v\n%s", e, s.log)
	}
	all := s.eventsOf(w.job)
	if all < 2*loudSteps {
		t.Fatalf("the game has %d events only", all)
	}
	var before, most int64
	for begun := time.Now(); time.Since(begun) < time.Duration(seconds)*time.Second; time.Sleep(time.Second) {
		s.readNothing("/jobs/" + w.job + "/events")
		resident := processMemory(s.cmd.Process.Pid, "VmRSS")
		if time.Since(begun) < time.Duration(seconds)*time.Second/4 {
			before = max(before, resident)
		}
		most = max(most, resident)
	}
	t.Logf("%d seconds, %d events; the service takes %d MiB, at most %d MiB", seconds, all, before>>20, most>>20)
	if most > before+silentGrowth {
		t.Errorf("the service grows from %d to %d MiB", before>>20, most>>20)
	}
	if n := s.eventsOf(w.job); n != all {
		t.Errorf("a client that reads gets %d events of %d", n, all)
	}
}

// eventsOf returns how many events a job that has ended has.
func (s *service) eventsOf(job string) (n int) {
	s.h.t.Helper()
	s.watch(http.MethodGet, "/jobs/"+job+"/events", "").until(func(map[string]any) bool {
		n++
		return false
	})
	return n
}

// loudSteps is the number of steps of loudScript. Each prints 25 kB, of which the
// agent keeps all in its context.
const loudSteps = 16

// loudScript makes a game with much output.
func loudScript() string {
	var steps []string
	for i := range loudSteps {
		steps = append(steps, fmt.Sprintf(`{"text":"step %d","tools":[{"name":"Bash","input":{"command":"echo %d >>index.html; head -c 25000 /dev/zero | tr '\\0' x","description":"work"}}]}`, i, i))
	}
	return `{"conversations":[[` + strings.Join(steps, ",") + `,{"text":"done"}]]}`
}

// readNothing asks for a stream and never reads from the connection, which has a
// small buffer. It is closed at the end of the test.
func (s *service) readNothing(path string) {
	s.h.t.Helper()
	address := strings.TrimPrefix(s.url, "http://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		s.h.t.Fatal(err)
	}
	s.h.t.Cleanup(func() { conn.Close() })
	if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		s.h.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nX-Modal-Secret: %s\r\n\r\n", path, address, s.secret); err != nil {
		s.h.t.Fatal(err)
	}
}
