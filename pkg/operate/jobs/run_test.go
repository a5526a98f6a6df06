package jobs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// A service whose job runs until it is cancelled.
func TestAnInterruptedRunCancelsItsJobAndShowsItsEnd(t *testing.T) {
	const id = "33333333-3333-4333-8333-333333333333"
	cancelled := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /generate_game", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("X-Job-Id", id)
		_, _ = fmt.Fprintf(w, "id: 1\ndata: %s\n\n", dreamcore.StatusEvent("working"))
		_ = http.NewResponseController(w).Flush()
		select {
		case <-cancelled:
		case <-r.Context().Done():
			t.Error("the run left its job")
			return
		}
		end := dreamcore.ErrorEvent(dreamcore.ExitFailure(dreamcore.ExitTerminated), dreamcore.English)
		_, _ = fmt.Fprintf(w, "id: 2\ndata: %s\n\n", end)
	})
	mux.HandleFunc("POST /jobs/{id}/cancel", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != id {
			t.Errorf("cancelled %s", r.PathValue("id"))
		}
		_, _ = fmt.Fprintf(w, `{"id":%q,"state":"running","cancel_requested":true}`, id)
		close(cancelled)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	c, err := client.New(server.URL, client.Options{Secret: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	interrupted := errors.New("interrupted")
	ctx, interrupt := context.WithCancelCause(t.Context())
	var began string
	out, err := Run(ctx, c, client.Submission{
		Request: dreamcore.Request{UserID: "11111111-1111-4111-8111-111111111111", ProjectID: "22222222-2222-4222-8222-222222222222", Prompt: "x"},
		Began:   func(job string) error { began = job; return nil },
	}, 0, func(e dreamcore.Event) error {
		interrupt(interrupted) // at the first event; later calls do nothing
		return nil
	})
	if err != nil || out.Done || began != id {
		t.Errorf("%+v, began %q, %v", out, began, err)
	}
}
