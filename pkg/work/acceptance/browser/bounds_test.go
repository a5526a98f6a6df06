package browser

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/network"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// TestLongAddressesAreNotKept: a game may hold its pictures in them, and a hostile
// page anything.
func TestLongAddressesAreNotKept(t *testing.T) {
	const origin, each, times = "http://127.0.0.1:1", 1 << 20, 60
	ev := newEvidence(verdict.Phone, origin, nil)
	tab := &tab{ev: ev}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for n := range times {
		long := strings.Repeat("x", each)
		var start string
		switch n % 6 {
		case 0:
			start = "data:image/png;base64,"
		case 1:
			start = "blob:" + origin + "/"
		case 2:
			start = fmt.Sprintf("%s/%d?", origin, n)
		case 3:
			start = fmt.Sprintf("https://example.com/%d/", n)
		case 4:
			start = fmt.Sprintf("%s/%d/", origin, n)
		case 5:
			start = "odd:"
		}
		by := fault{}
		if n%2 == 0 {
			by = tab.asker(ev, &network.Initiator{URL: origin + "/" + long, LineNumber: 3}, "")
		}
		id := fmt.Sprint(n)
		ev.ask(id, start+long, "Image", by)
		ev.missed(id, 404, "")
		ev.mu.Lock()
		ev.note(&ev.errors, fault{text: fmt.Sprint(n) + long})
		ev.mu.Unlock()
	}
	if grown := heap() - before; grown > 4*each {
		t.Errorf("%d MiB are kept", grown>>20)
	}
	runtime.KeepAlive(ev)
	if len(ev.missing) == 0 || len(ev.outside) == 0 {
		t.Errorf("%d missing, %d outside", len(ev.missing), len(ev.outside))
	}
}

// TestABoundedAddressIsOneOfTheProject: only its end is missing.
func TestABoundedAddressIsOneOfTheProject(t *testing.T) {
	ev := newEvidence(verdict.Phone, "http://127.0.0.1:1", nil)
	for lead := range 12 {
		for _, part := range []string{"%E2%82%AC", "x", "%20", "\u20ac"} {
			long := ev.origin + "/" + strings.Repeat("a", lead) + strings.Repeat(part, 2000)
			b := bounded(long)
			if _, inside := ev.path(b); !inside || len(b) > maxAddress || !strings.HasPrefix(long, b) {
				t.Errorf("%d %q: %q", lead, part, b)
			}
		}
	}
	if b := bounded(ev.origin + "/a.png?v=" + strings.Repeat("%", 4000)); b != ev.origin+"/a.png" {
		t.Error(b)
	}
}
