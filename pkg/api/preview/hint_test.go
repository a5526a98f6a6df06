package preview

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// hints are ways in which a page can make the browser contact another host ahead
// of time; the address is filled in. The policy must block all of them. It cannot
// block preconnect, which reveals a visit to the host, and speculation rules,
// which are allowed with inline scripts: see SECURITY.md.
var hints = map[string]string{
	"prefetch":      `<link rel="prefetch" href="%s">`,
	"preload":       `<link rel="preload" as="image" href="%s">`,
	"fetch":         `<link rel="preload" as="fetch" crossorigin href="%s">`,
	"modulepreload": `<link rel="modulepreload" href="%s">`,
	"prerender":     `<link rel="prerender" href="%s">`,
	"next":          `<link rel="next" href="%s">`,
	"icon":          `<link rel="icon" href="%s">`,
	"manifest":      `<link rel="manifest" href="%s">`,
	"ping":          `<a id="a" ping="%s" href="#x">x</a><script>a.click()</script>`,
}

func TestHintsContactNoOtherHost(t *testing.T) {
	connected := make(chan struct{})
	var once sync.Once
	var mu sync.Mutex
	asked := map[string]bool{}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked[strings.TrimPrefix(r.URL.Path, "/")] = true
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			once.Do(func() { close(connected) })
		}
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	evil := strings.Replace(srv.URL, "127.0.0.1", "evil.test", 1) + "/"
	var page strings.Builder
	page.WriteString("<!doctype html>")
	for name, hint := range hints {
		fmt.Fprintf(&page, hint, evil+name)
	}
	fmt.Fprintf(&page, `<link rel="preconnect" href="%s"><script>window.results = {}</script>`, evil)
	st := open(t, local)
	st.write(gameA, map[string]string{"index.html": page.String()})
	p := openTab(t, browser(t))
	p.visit(st.link(gameA).String())
	p.results()
	select {
	case <-connected: // the browser has processed the page and can reach the host
	case <-time.After(30 * time.Second):
		t.Fatalf("no connection was made:\n%s", strings.Join(p.said(), "\n"))
	}
	time.Sleep(2 * time.Second) // no event marks the absence of a request
	mu.Lock()
	defer mu.Unlock()
	for name := range asked {
		t.Errorf("%s contacted another host", name)
	}
}
