package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/corpus"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/site"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// lanes is the number of games that are checked at the same time: a check waits
// more than it computes.
const lanes = 3

// TestTheCorpus checks games of testdata/games: a good one must not fail, and
// a broken one must fail for its reason. Games of a lane share a browser.
func TestTheCorpus(t *testing.T) {
	cases, err := corpus.Load("../../../../testdata/games")
	if err != nil {
		t.Fatal(err)
	}
	drivers := make(chan *driver, lanes)
	for range lanes {
		drivers <- newDriver(t)
	}
	t.Run("games", func(t *testing.T) {
		for i, c := range cases {
			if c.Kind == corpus.Hostile || !every(3, i) {
				continue
			}
			t.Run(string(c.Kind)+"/"+c.Name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				if err := c.Copy(dir); err != nil {
					sandboxtest.Need(t, len(c.Packages) == 0, err.Error())
					t.Fatal(err)
				}
				d := <-drivers
				defer func() { drivers <- d }()
				report := d.check(t, dir, 20*time.Second)
				if wrong := c.Wrong(*report); wrong != "" {
					t.Error(wrong + "\n" + describe(report))
				}
				t.Logf("%s in %d ms\n%s", report.Verdict, report.Millis, describe(report))
			})
		}
	})
}

// every reports whether case i is one of each n, or all are asked for with
// DREAMCORE_TEST_CORPUS=all, as scripts/load.sh does: all of them take ten minutes.
func every(n, i int) bool { return i%n == 0 || os.Getenv("DREAMCORE_TEST_CORPUS") == "all" }

// newDriver starts a browser, or skips the test if none is installed.
func newDriver(t *testing.T) *driver {
	t.Helper()
	path, err := Find()
	sandboxtest.Need(t, err == nil, "a headless browser")
	d := &driver{path: path}
	if err := d.open(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.stop)
	return d
}

// check checks the game in dir and makes the driver ready again. The report must
// keep the bounds of the package verdict.
func (d *driver) check(t *testing.T, dir string, limit time.Duration) *verdict.Report {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	srv := httptest.NewServer(site.Handler(root))
	defer srv.Close()
	q, err := json.Marshal(verdict.Request{Port: srv.Listener.Addr().(*net.TCPAddr).Port, Limit: limit, Pixels: true})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	l := d.answer(context.Background(), q)
	if took := time.Since(began); took > limit+time.Second {
		t.Errorf("the report took %s; the limit is %s", took, limit)
	}
	raw, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verdict.Parse(raw); err != nil {
		t.Errorf("the report breaks its bounds: %v", err)
	}
	if l.Report == nil {
		t.Fatal(l.Error)
	}
	if err := d.renew(context.Background()); err != nil {
		t.Fatal(err)
	}
	return l.Report
}

// describe lists the checks that did not pass.
func describe(r *verdict.Report) string {
	var b strings.Builder
	for _, c := range r.Checks {
		if c.Status != verdict.Passed {
			fmt.Fprintf(&b, "%s %s %s: %s %s:%d:%d\n", c.Name, c.Screen, c.Status, c.Message, c.File, c.Line, c.Column)
		}
	}
	return b.String()
}
