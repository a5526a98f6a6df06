package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestRefusalsDoNotFillTheLog(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	s := &Server{log: log, refusals: newRefusals(), routes: newRoutes(nil)}
	const each, addresses = 5000, 5
	for i := range each * addresses {
		r := httptest.NewRequest(http.MethodPost, "/generate_game", nil)
		r.RemoteAddr = fmt.Sprintf("192.0.2.%d:%d", i%addresses, 1024+i%50_000)
		w := httptest.NewRecorder()
		s.serve(w, r)
		if w.Code != http.StatusNotFound {
			t.Fatalf("status %d", w.Code)
		}
	}
	s.logSuppressed(s.refusals.flush())
	lines, told := 0, 0
	for line := range bytes.Lines(out.Bytes()) {
		var m struct {
			Msg        string
			Suppressed int
		}
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatal(err)
		}
		if m.Msg == "request" {
			lines++
		}
		told += m.Suppressed
	}
	// The test may take some seconds, during which more entries are admitted.
	if lines < 50 || lines > 400 || lines+told != each*addresses {
		t.Errorf("%d lines, and %d are told to be left out, of %d", lines, told, each*addresses)
	}
}

func TestRefusalLimitsArePerAddress(t *testing.T) {
	r, now := newRefusals(), time.Now()
	for range 10_000 {
		r.admit("192.0.2.1:1", now)
	}
	if ok, suppressed := r.admit("192.0.2.2:1", now); !ok || suppressed == 0 {
		t.Errorf("another address: %t, told %d", ok, suppressed)
	}
	for i := range 100_000 {
		r.admit(fmt.Sprintf("[2001:db8::%x]:1", i), now)
	}
	if n := len(r.addresses); n > maxAddresses {
		t.Errorf("%d addresses are remembered", n)
	}
}
