package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest/browsertest"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

// followingPage follows a job with an EventSource, which it does not close: it ends
// when the server says that there is nothing more, or refuses it.
const followingPage = `<!doctype html><title>job</title><script>
const got = [], source = new EventSource(new URLSearchParams(location.search).get('events'));
let errors = 0;
source.onmessage = (m) => got.push(m.lastEventId + ' ' + JSON.parse(m.data).type);
source.onerror = () => { errors++; if (source.readyState === EventSource.CLOSED) window.results = JSON.stringify({got, errors}); };
</script>`

// openPage starts a site with the page, and returns its origin.
func openPage(t *testing.T) string {
	t.Helper()
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, followingPage)
	}))
	t.Cleanup(site.Close)
	return site.URL
}

// breaking forwards connections to a server, and breaks the first one after an event
// of the given id.
type breaking struct {
	t      *testing.T
	server string
	id     string
	broken atomic.Bool
	conns  sync.WaitGroup

	mu   sync.Mutex
	open []net.Conn // guarded by mu; of clients
}

// listen returns the address of b.
func (b *breaking) listen() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	b.conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.open = append(b.open, c)
			b.mu.Unlock()
			b.conns.Go(func() { b.forward(c) })
		}
	})
	b.t.Cleanup(func() {
		_ = ln.Close()
		b.mu.Lock()
		for _, c := range b.open {
			_ = c.Close() // browsers keep connections
		}
		b.mu.Unlock()
		b.conns.Wait()
	})
	return ln.Addr().String()
}

func (b *breaking) forward(c net.Conn) {
	defer c.Close()
	up, err := net.Dial("tcp", b.server)
	if err != nil {
		b.t.Error(err)
		return
	}
	defer up.Close()
	b.conns.Go(func() {
		_, _ = io.Copy(up, c)
		_ = up.(*net.TCPConn).CloseWrite()
	})
	var seen bytes.Buffer
	buf := make([]byte, 1024)
	for {
		n, err := up.Read(buf)
		seen.Write(buf[:n])
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
		if bytes.Contains(seen.Bytes(), []byte("id: "+b.id+"\n")) && b.broken.CompareAndSwap(false, true) {
			return
		}
		if err != nil {
			return
		}
	}
}

func TestABrowserFollowsItsJobFromAnotherOrigin(t *testing.T) {
	ctx := browsertest.Start(t)
	broken := make(chan struct{})
	origin, foreign := openPage(t), openPage(t)
	sv := start(t, options{
		run: func(log *journal.Log) {
			for n := range 4 {
				_, _ = log.Append(dreamcore.StatusEvent(fmt.Sprint(n)))
			}
			<-broken
			_, _ = log.Append(dreamcore.LogEvent("more", ""))
			_, _ = log.Append(dreamcore.DoneEvent())
		},
		config: func(c *Config) { c.CORSOrigins = []string{origin} },
	})
	res, own := sv.open()
	if _, err := own.next(); err != nil {
		t.Fatal(err)
	}
	path := sv.link(res.Header.Get(JobHeader))
	proxy := &breaking{t: t, server: sv.addr, id: "4"}
	address := "http://" + proxy.listen() + path
	follow := func(page, events string) (got []string, errors int) {
		t.Helper()
		tab, cancel := chromedp.NewContext(ctx)
		defer cancel()
		if err := chromedp.Do(tab, chromedp.Navigate(page+"/?events="+strings.ReplaceAll(events, "&", "%26"))); err != nil {
			t.Fatal(err)
		}
		if _, err := chromedp.Run(tab, chromedp.Poll[bool](`window.results !== undefined`, chromedp.WithPollingTimeout(60*time.Second))); err != nil {
			t.Fatal(err)
		}
		text, err := chromedp.Run(tab, chromedp.Evaluate[string]("results"))
		if err != nil {
			t.Fatal(err)
		}
		var results struct {
			Got    []string
			Errors int
		}
		if err := json.Unmarshal([]byte(text), &results); err != nil {
			t.Fatal(err)
		}
		return results.Got, results.Errors
	}
	if got, errors := follow(foreign, address); len(got) > 0 || errors != 1 {
		t.Errorf("a page of another origin read %q, %d errors", got, errors)
	}
	if got, errors := follow(origin, address+"x"); len(got) > 0 || errors != 1 {
		t.Errorf("a wrong link read %q, %d errors", got, errors)
	}
	close(broken)
	own.ids()
	got, errors := follow(origin, address)
	if want := []string{"1 status", "2 status", "3 status", "4 status", "5 log", "6 done"}; !slices.Equal(got, want) || !proxy.broken.Load() || errors < 2 {
		t.Errorf("the page read %q, with %d errors; the connection was broken: %v", got, errors, proxy.broken.Load())
	}
}
