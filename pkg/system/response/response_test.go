package response_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/system/response"
)

func TestWriterRecordsTheResponse(t *testing.T) {
	rec := httptest.NewRecorder()
	w := response.New(rec, time.Second)
	if w.Status() != 0 || w.Bytes() != 0 {
		t.Errorf("at first: status %d, %d bytes", w.Status(), w.Bytes())
	}
	w.WriteHeader(http.StatusTeapot)
	_, _ = io.WriteString(w, "tea")
	if err := http.NewResponseController(w).Flush(); err != nil {
		t.Error(err)
	}
	if w.Status() != http.StatusTeapot || w.Bytes() != 3 || rec.Code != http.StatusTeapot || rec.Body.String() != "tea" || !rec.Flushed {
		t.Errorf("status %d, %d bytes, sent %d %q", w.Status(), w.Bytes(), rec.Code, rec.Body)
	}
}

func TestWriterDropsAClientThatStopsReading(t *testing.T) {
	failed := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		w := response.New(rw, 100*time.Millisecond)
		var err error
		for began := time.Now(); err == nil && time.Since(began) < 20*time.Second; {
			_, err = w.Write(make([]byte, 1<<20))
		}
		failed <- err
	}))
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if <-failed == nil {
		t.Error("a client that does not read is still served")
	}
}
