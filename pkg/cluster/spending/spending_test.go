package spending

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/kube"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// leases is an API server that has only leases and can be away. A real one is tried by
// scripts/cluster.sh.
type leases struct {
	mu      sync.Mutex
	objects map[string]map[string]any
	version int
	away    bool
	writes  int
}

func (s *leases) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := ""
	if dir, last := path.Split(r.URL.Path); strings.HasSuffix(dir, "/leases/") {
		name = last
	}
	answer := func(status int, v any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	var o map[string]any
	switch before := s.objects[name]; {
	case s.away:
		answer(http.StatusServiceUnavailable, map[string]any{"message": "away"})
	case r.Method == http.MethodGet && name == "":
		items := []any{}
		for _, o := range s.objects {
			items = append(items, o)
		}
		answer(http.StatusOK, map[string]any{"items": items})
	case r.Method == http.MethodGet && before == nil:
		answer(http.StatusNotFound, map[string]any{})
	case r.Method == http.MethodGet:
		answer(http.StatusOK, before)
	case json.NewDecoder(r.Body).Decode(&o) != nil:
		answer(http.StatusBadRequest, map[string]any{})
	default:
		m := o["metadata"].(map[string]any)
		name = m["name"].(string)
		before := s.objects[name]
		if r.Method == http.MethodPost && before != nil || r.Method == http.MethodPut && (before == nil || before["metadata"].(map[string]any)["resourceVersion"] != m["resourceVersion"]) {
			answer(http.StatusConflict, map[string]any{})
			return
		}
		s.version++
		s.writes++
		m["resourceVersion"] = strconv.Itoa(s.version)
		s.objects[name] = o
		answer(http.StatusOK, o)
	}
}

func (s *leases) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func startLeases(t *testing.T) (*leases, *kube.Client) {
	t.Helper()
	s := &leases{objects: map[string]map[string]any{}}
	srv := httptest.NewTLSServer(s)
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"token": "t", "namespace": "ns", "ca.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := kube.New(kube.Config{Server: srv.URL, Account: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return s, c
}

// account is what one cell has spent and knows of others.
type account struct {
	mu     sync.Mutex
	own    usage.Share
	cells  int
	theirs usage.Share
	told   int
}

func (a *account) Share() (usage.Share, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.own, nil
}

func (a *account) SetOthers(cells int, theirs usage.Share) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cells, a.theirs = cells, theirs
	a.told++
}

func cell(client *kube.Client, name string, own usage.Share) (*Exchange, *account) {
	a := &account{own: own}
	return &Exchange{Client: client, Cell: name, Ledger: a, Logger: slog.New(slog.DiscardHandler)}, a
}

func TestCellsCountEachOther(t *testing.T) {
	server, client := startLeases(t)
	ctx, now := t.Context(), time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	first, a := cell(client, "cell-0", usage.Share{Day: "2026-11-30", DayCost: 1, MonthCost: 10, Reserved: 100})
	second, b := cell(client, "cell-1", usage.Share{Day: "2026-11-30", DayCost: 2, MonthCost: 20, Reserved: 200})
	third, _ := cell(client, "cell-2", usage.Share{Day: "2026-11-29", DayCost: 4, MonthCost: 40, Reserved: 400})
	exchange := func(e *Exchange, want int) {
		t.Helper()
		if n, err := e.once(ctx, now); err != nil || n != want {
			t.Errorf("%s: %d others, %v", e.Cell, n, err)
		}
	}
	exchange(first, 0)
	exchange(second, 1)
	exchange(third, 2)
	exchange(first, 2)
	if want := (usage.Share{Day: "2026-11-30", DayCost: 2, MonthCost: 60, Reserved: 200}); a.theirs != want || a.cells != 2 {
		t.Errorf("the first cell knows %+v of %d", a.theirs, a.cells)
	}
	// Nothing is written if nothing was spent, until the lease is old.
	server.change(func() { server.writes = 0 })
	exchange(first, 2)
	if server.writes != 0 {
		t.Errorf("%d writes", server.writes)
	}
	now = now.Add(renewAfter)
	exchange(first, 2)
	if server.writes != 1 {
		t.Errorf("%d writes", server.writes)
	}
	// A cell that is gone is not counted, its spending is.
	now = now.Add(goneAfter)
	exchange(second, 0)
	if b.theirs.MonthCost != 50 || b.theirs.DayCost != 1 {
		t.Errorf("the second cell knows %+v", b.theirs)
	}
	// A cell that begins again finds its own lease.
	again, _ := cell(client, "cell-0", usage.Share{Day: "2026-11-30", DayCost: 5, MonthCost: 50})
	exchange(again, 1)
	// And one whose lease another client has changed.
	server.change(func() {
		server.objects[prefix+"cell-1"]["metadata"].(map[string]any)["resourceVersion"] = "x"
	})
	b.own.DayCost++
	if _, err := second.once(ctx, now); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
		t.Errorf("a changed lease: %v", err)
	}
	exchange(second, 1)
	if b.theirs.DayCost != 5 {
		t.Errorf("the second cell knows %+v", b.theirs)
	}
}

func TestSumsThatCannotBeReadAreNoZero(t *testing.T) {
	_, client := startLeases(t)
	now := time.Now()
	e, a := cell(client, "cell-0", usage.Share{Day: "2026-11-30"})
	for _, text := range []string{
		"", "x", "null", "{}", `{"day":"2026-11-30","day_nano_usd":-1}`, `{"day":"2026-11-30","month_nano_usd":-1}`, `{"day":"2026-11-30","reserved_nano_usd":-1}`,
		`{"day":"2026-11-31"}`, `{"day":"2026-11-30","day_nano_usd":1e30}`, `{"day":"2026-11-30","x":"` + strings.Repeat("x", maxNote) + `"}`,
	} {
		version := ""
		if before, err := client.Lease(t.Context(), "other"); err == nil {
			version = before.Version
		}
		if _, err := client.PutLease(t.Context(), kube.Lease{Name: "other", Version: version, Holder: "other", Renewed: now, Labels: map[string]string{label: labelValue}, Annotations: map[string]string{annotation: text}}); err != nil {
			t.Fatal(err)
		}
		if _, err := e.once(t.Context(), now); err == nil || a.told != 0 {
			t.Errorf("%.60q is taken for a sum", text)
		}
	}
}

func TestAnExchangeGoesOnAfterTheAPIServerWasAway(t *testing.T) {
	server, client := startLeases(t)
	server.change(func() { server.away = true })
	e, a := cell(client, "cell-0", usage.Share{Day: "2026-11-30"})
	var log strings.Builder
	var mu sync.Mutex
	e.Logger = slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	}), nil))
	e.pause = func(int) time.Duration { return time.Millisecond }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); e.Run(ctx) }()
	wait := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited in vain for %s", what)
			}
		}
	}
	said := func(text string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Contains(log.String(), text)
		}
	}
	wait("a warning", said("budget_day_usd"))
	time.Sleep(20 * time.Millisecond) // more exchanges fail
	if last := e.Last(); !last.IsZero() {
		t.Errorf("the last exchange was at %v", last)
	}
	server.change(func() { server.away = false })
	wait("the end of it", said("again"))
	if e.Last().IsZero() {
		t.Error("no exchange is noted")
	}
	mu.Lock()
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings of one failure", n)
	}
	mu.Unlock()
	wait("an exchange", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.told > 0
	})
	cancel()
	<-done
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

var _ io.Writer = writer(nil)

func TestThePauseGrowsWithTheCells(t *testing.T) {
	for cells, want := range map[int]time.Duration{0: 10 * time.Second, 100: 10 * time.Second, 1000: 50 * time.Second} {
		if got := pause(cells); got != want {
			t.Errorf("%d cells: %v", cells, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`{"day":"2026-11-30","day_nano_usd":1,"month_nano_usd":2,"reserved_nano_usd":3}`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parse(text)
		if err != nil {
			return
		}
		if sum := (usage.Share{Day: s.Day}).Plus(s); sum != s {
			t.Errorf("%+v becomes %+v", s, sum)
		}
	})
}
