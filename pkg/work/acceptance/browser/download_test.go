package browser

import (
	"context"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/site"
)

// TestADownloadAtTheStartIsSeen: also when the goroutine that reads the events of
// downloads, or the one that reads those of the page, comes late.
func TestADownloadAtTheStartIsSeen(t *testing.T) {
	root, err := os.OpenRoot(game(t, `<script>const a = document.createElement("a"); a.download = "a.json"; a.href = URL.createObjectURL(new Blob(["x"])); a.click()</script>`))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	srv := httptest.NewServer(site.Handler(root))
	defer srv.Close()
	d := newDriver(t)
	for _, tab := range d.ready.tabs {
		before := tab.main
		ev := newEvidence(tab.screen, srv.URL, nil)
		tab.begin(ev)
		if refused, err := tab.navigate(t.Context(), srv.URL+"/"); err != nil || refused != "" {
			t.Fatal(refused, err)
		}
		loaded := func() bool {
			ev.mu.Lock()
			defer ev.mu.Unlock()
			return ev.loaded
		}
		if !tab.await(t.Context(), 10*time.Second, loaded) {
			t.Fatal("the page was not loaded")
		}
		tab.mu.Lock()
		after := tab.main
		tab.mu.Unlock()
		if before == "" || after != before {
			t.Errorf("%s: the main frame is %q before the page is opened and %q after", tab.screen, before, after)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go d.ready.downloads(ctx)
	for _, tab := range d.ready.tabs {
		if !tab.await(ctx, 5*time.Second, func() bool {
			tab.ev.mu.Lock()
			defer tab.ev.mu.Unlock()
			return len(tab.ev.left) == 1
		}) {
			t.Errorf("%s: the download was not seen", tab.screen)
		}
	}
}
