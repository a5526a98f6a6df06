package route

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestRequestsReachTheCellOfTheirUser(t *testing.T) {
	a, b := startCell(t, "a", nil), startCell(t, "b", nil)
	h := startRouter(t, nil, a, b)
	for _, tt := range []struct{ method, path, body, want string }{
		{"GET", "/list_files?user_id=" + alice, "", "b"},
		{"GET", "/list_files?user_id=" + bob, "", "a"},
		{"POST", "/generate_game", `{"user_id":"` + alice + `"}`, "b"},
		{"POST", "/generate_game", `{"user_id":"` + bob + `"}`, "a"},
		{"GET", "/jobs/" + dreamcore.NewJobID(alice), "", "b"},
		{"GET", "/jobs/" + dreamcore.NewJobID(bob), "", "a"},
		{"DELETE", "/users/" + alice, "", "b"},
	} {
		if resp, got := h.do(tt.method, tt.path, tt.body); resp.StatusCode != http.StatusOK || got != tt.want {
			t.Errorf("%s %s %s: %s %q, want %q", tt.method, tt.path, tt.body, resp.Status, got, tt.want)
		}
	}
	h.table.SetMap(mapOf(t, `,"users":{"`+alice+`":"a"}`))
	if _, got := h.do("GET", "/list_files?user_id="+alice, ""); got != "a" {
		t.Errorf("an exception: %q", got)
	}
	seen := map[string]int{}
	for range 10 {
		_, got := h.do("POST", "/get_skill_content", `{}`)
		seen[got]++
	}
	if seen["a"] != 5 || seen["b"] != 5 {
		t.Errorf("requests without a user: %v", seen)
	}
	h.table.SetMap(mapOf(t, `,"draining":["a"]`))
	if _, got := h.do("POST", "/get_skill_content", `{}`); got != "b" {
		t.Errorf("a draining cell was asked: %q", got)
	}
}

func TestHeadersOfClientsAreFiltered(t *testing.T) {
	b := startCell(t, "b", nil)
	h := startRouter(t, nil, startCell(t, "a", nil), b)
	body := `{"user_id":"` + alice + `"}`
	h.raw(fmt.Sprintf("POST /generate%%5Fgame?a=%%zz&b=1;2 HTTP/1.1\r\nHost: acme--dreamcore.example.com:7\r\nX-Modal-Secret: %s\r\nContent-Length: %d\r\n"+
		"Connection: close, X-Secret-Hop, X-Modal-Secret-2\r\nX-Secret-Hop: 1\r\nX-Modal-Secret-2: 1\r\nUpgrade: websocket\r\nTE: trailers\r\nProxy-Authorization: x\r\nKeep-Alive: 1\r\nExpect: 100-continue\r\n"+
		"X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nIdempotency-Key: k\r\nAccept-Encoding: br\r\n\r\n%s", secret, len(body), body))
	asked, said := b.requests()
	if len(asked) != 1 || said[0] != body {
		t.Fatalf("%d requests, %q", len(asked), said)
	}
	r := asked[0]
	if r.Host != "acme--dreamcore.example.com:7" || r.RequestURI != "/generate%5Fgame?a=%zz&b=1;2" || r.ContentLength != int64(len(body)) {
		t.Errorf("%s %s, %d bytes", r.Host, r.RequestURI, r.ContentLength)
	}
	for name, want := range map[string]string{
		"X-Modal-Secret": secret, "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "Idempotency-Key": "k", "Accept-Encoding": "br",
		"X-Secret-Hop": "", "X-Modal-Secret-2": "", "Upgrade": "", "Proxy-Authorization": "", "Keep-Alive": "", "Expect": "", "Forwarded": "", "X-Forwarded-Host": "",
	} {
		if got := strings.Join(r.Header.Values(name), "|"); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestOnlyTrustedProxiesNameTheClient(t *testing.T) {
	for trusted, want := range map[string]string{"127.0.0.0/8": "6.6.6.6, 7.7.7.7, 127.0.0.1", "10.0.0.0/8": "127.0.0.1"} {
		a := startCell(t, "a", nil)
		h := startRouter(t, func(c *Config) { c.Proxies = []netip.Prefix{netip.MustParsePrefix(trusted)} }, a, startCell(t, "b", nil))
		h.do("GET", "/list_files?user_id="+bob, "", "X-Forwarded-For", "6.6.6.6, 7.7.7.7")
		if asked, _ := a.requests(); asked[0].Header.Get("X-Forwarded-For") != want {
			t.Errorf("%s: %q", trusted, asked[0].Header.Get("X-Forwarded-For"))
		}
	}
}

func TestSmuggledRequestsAreRefused(t *testing.T) {
	a := startCell(t, "a", nil)
	h := startRouter(t, nil, a, startCell(t, "b", nil))
	head := "POST /generate_game HTTP/1.1\r\nHost: x\r\nX-Modal-Secret: " + secret + "\r\n"
	inner := "GET /users HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, text := range map[string]string{
		"two lengths":       head + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
		"a bad length":      head + "Content-Length: +2\r\n\r\n{}",
		"a bad encoding":    head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + inner,
		"a space in a name": head + "Content-Length : 2\r\n\r\n{}",
		"two hosts":         strings.Replace(head, "Host: x", "Host: x\r\nHost: y", 1) + "\r\n",
		"a bad chunk":       head + "Transfer-Encoding: chunked\r\n\r\n2;\x00\r\n{}\r\nzz\r\n\r\n",
		"connect":           "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
	} {
		if resp, body := h.raw(text); resp.StatusCode < 400 || resp.StatusCode >= 600 {
			t.Errorf("%s: %s %q", name, resp.Status, body)
		}
	}
	// Chunks win over a length, and what follows is not a request of this connection.
	resp, _ := h.raw(head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner)
	asked, said := a.requests()
	for i, r := range asked {
		if r.URL.Path == "/users" || said[i] != "" {
			t.Errorf("%s: the cell got %s %q", resp.Status, r.URL.Path, said[i])
		}
	}
}

func TestBodiesOfStrangersAreNotRead(t *testing.T) {
	b := startCell(t, "b", nil)
	h := startRouter(t, nil, startCell(t, "a", nil), b)
	for _, given := range []string{"", "X-Modal-Secret: wrong\r\n"} {
		resp, body := h.raw("POST /generate_game?user_id=" + alice + " HTTP/1.1\r\nHost: x\r\n" + given + "Content-Length: 1000000\r\n\r\n")
		if resp.StatusCode != http.StatusUnauthorized || body != `{"error":"Unauthorized"}` {
			t.Errorf("%q: %s %q", given, resp.Status, body)
		}
	}
	if asked, said := b.requests(); len(asked) != 2 || said[0]+said[1] != "" {
		t.Errorf("%d requests, %q", len(asked), said)
	}
}

func TestBodiesAreBounded(t *testing.T) {
	b := startCell(t, "b", nil)
	h := startRouter(t, nil, startCell(t, "a", nil), b)
	for name, head := range map[string]string{"declared": "Content-Length: 99000000\r\n\r\n", "chunked": "Transfer-Encoding: chunked\r\n\r\n5f5e100\r\n" + strings.Repeat("x", 3<<20)} {
		resp, body := h.raw("POST /generate_game HTTP/1.1\r\nHost: x\r\nX-Modal-Secret: " + secret + "\r\n" + head)
		if resp.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(body, `"Request body too large"`) {
			t.Errorf("%s: %s %q", name, resp.Status, body)
		}
	}
	large := `{"user_id":"` + alice + `","x":"` + strings.Repeat("x", 20<<20) + `"}`
	if resp, got := h.do("POST", "/apply_files", large); got != "b" {
		t.Errorf("a large body of apply_files: %s %q", resp.Status, got)
	}
	if !h.router.bodies.TryAcquire(maxBodies) {
		t.Error("memory for bodies was not released")
	}
}

func TestUsersInTwoPlacesAreRefused(t *testing.T) {
	a, b := startCell(t, "a", nil), startCell(t, "b", nil)
	h := startRouter(t, nil, a, b)
	resp, body := h.do("POST", "/generate_game?user_id="+alice, `{"user_id":"`+bob+`"}`)
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, `"error":"user_id is given more than once"`) {
		t.Errorf("%s %s", resp.Status, body)
	}
	for _, c := range []*fakeCell{a, b} {
		if asked, _ := c.requests(); len(asked) > 0 {
			t.Errorf("%s was asked", c.name)
		}
	}
}

// away returns a cell at an address where nothing listens.
func away(t *testing.T, name string) (Cell, func() net.Listener) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	return Cell{name, address, true}, func() net.Listener {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
}

func TestARequestWaitsForItsCell(t *testing.T) {
	h := startRouter(t, nil, startCell(t, "a", nil))
	gone, listen := away(t, "b")
	h.table.SetCells([]Cell{{"a", "", false}, gone})
	h.table.SetCells([]Cell{startCell(t, "a", nil).cell(), gone})
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			method, path, body := "GET", "/list_files?user_id="+alice, ""
			if i%2 == 0 {
				method, path, body = "POST", "/generate_game", `{"user_id":"`+alice+`","n":`+fmt.Sprint(i)+`}`
			}
			if resp, got := h.do(method, path, body); got != "back "+body {
				t.Errorf("%s: %s %q", method, resp.Status, got)
			}
		})
	}
	for h.router.holds.now() < 20 {
		time.Sleep(time.Millisecond)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "back %s", body)
	})}
	ln := listen()
	go func() { _ = srv.Serve(ln) }()
	all.Wait()
	srv.Close()
	if h.router.holds.now() != 0 || !h.router.holds.bytes.TryAcquire(maxHeldBody) {
		t.Error("held requests were not released")
	}
}

func TestHoldingIsBounded(t *testing.T) {
	h := startRouter(t, func(c *Config) { c.Hold, c.Held = 300*time.Millisecond, 4 }, startCell(t, "a", nil))
	gone, _ := away(t, "b")
	h.table.SetCells([]Cell{startCell(t, "a", nil).cell(), gone})
	resp, body := h.do("GET", "/list_files?user_id="+alice, "")
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, `"error":"The cell b does not answer at the moment"`) || !strings.Contains(body, `"code":"CELL_AWAY"`) {
		t.Errorf("%s %s", resp.Status, body)
	}
	if _, body := h.do("GET", "/list_files?user_id="+alice, "", "X-Modal-Secret", ""); strings.Contains(body, "cell b") {
		t.Errorf("a stranger is told the name of the cell: %s", body)
	}
	h.router.cfg.Hold = 10 * time.Second // no request runs
	client := &http.Client{Transport: &http.Transport{}}
	ask := func(with string) (*http.Response, error) {
		req, err := http.NewRequest("GET", h.url+"/list_files?user_id="+alice, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("X-Modal-Secret", with)
		return client.Do(req)
	}
	var held sync.WaitGroup
	hold := func(with string) {
		held.Go(func() {
			if resp, err := ask(with); err == nil {
				resp.Body.Close()
			}
		})
	}
	full := func(with string) {
		t.Helper()
		resp, err := ask(with)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if raw, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusServiceUnavailable || !bytes.Contains(raw, []byte(`"code":"ROUTER"`)) {
			t.Errorf("one more of %q: %s %s", with, resp.Status, raw)
		}
	}
	hold("")
	for h.router.holds.now() < 1 {
		time.Sleep(time.Millisecond)
	}
	full("wrong") // a quarter is for strangers
	for range 3 {
		hold(secret)
	}
	for h.router.holds.now() < 4 {
		time.Sleep(time.Millisecond)
	}
	full(secret)
	h.table.SetMap(mapOf(t, `,"users":{"`+alice+`":"a"}`)) // ends all of them
	held.Wait()
	client.CloseIdleConnections()
}

// closeConn closes the connection of a request without an answer.
func closeConn(t *testing.T, w http.ResponseWriter) {
	c, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	c.Close()
}

func TestNoRequestIsSentTwice(t *testing.T) {
	var mu sync.Mutex
	count := map[string]int{}
	dies := func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		count[r.Method]++
		mu.Unlock()
		closeConn(t, w)
	}
	h := startRouter(t, nil, startCell(t, "a", nil), startCell(t, "b", dies))
	for _, key := range []string{"", "k"} {
		resp, body := h.do("POST", "/generate_game", `{"user_id":"`+alice+`"}`, "Idempotency-Key", key)
		if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, `"code":"CELL_LOST"`) || !strings.Contains(body, "may have been carried out") {
			t.Errorf("%s %s", resp.Status, body)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if count["POST"] != 2 {
		t.Errorf("%d requests were sent for 2", count["POST"])
	}
}

// TestReadsAreRepeated: a cell that ends may close a connection which it has just accepted.
func TestReadsAreRepeated(t *testing.T) {
	var asked atomic.Int32
	var deaths atomic.Int32
	dies := func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) > deaths.Load() {
			_, _ = io.WriteString(w, "here")
			return
		}
		closeConn(t, w)
	}
	h := startRouter(t, nil, startCell(t, "a", nil), startCell(t, "b", dies))
	for _, path := range []string{"/list_files?user_id=" + alice, "/jobs/" + string(dreamcore.NewJobID(alice)) + "/events"} {
		asked.Store(0)
		deaths.Store(maxRepeats)
		if resp, body := h.do("GET", path, ""); resp.StatusCode != http.StatusOK || body != "here" || asked.Load() != maxRepeats+1 {
			t.Errorf("%s: %s %s after %d requests", path, resp.Status, body, asked.Load())
		}
		asked.Store(0)
		deaths.Store(1000)
		if resp, body := h.do("GET", path, ""); resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "CELL_LOST") || asked.Load() <= maxRepeats || asked.Load() > 2*(maxRepeats+1) { // a kept connection has a repeat of its own
			t.Errorf("%s: %s %s after %d requests", path, resp.Status, body, asked.Load())
		}
	}
}

func TestChangesWaitWhileAUserMoves(t *testing.T) {
	h := startRouter(t, nil, startCell(t, "a", nil), startCell(t, "b", nil))
	h.table.SetMap(mapOf(t, `,"moving":{"users":{"`+alice+`":"a"}}`))
	job := dreamcore.NewJobID(alice)
	for _, read := range [][2]string{{"GET", "/list_files?user_id=" + alice}, {"GET", "/jobs/" + job + "/events"}, {"POST", "/jobs/" + job + "/cancel"}} {
		if _, got := h.do(read[0], read[1], ""); got != "b" {
			t.Errorf("%v: %q", read, got)
		}
	}
	answers := make(chan string, 2)
	go func() { _, got := h.do("POST", "/generate_game", `{"user_id":"`+alice+`"}`); answers <- got }()
	go func() { _, got := h.do("POST", "/jobs/"+job+"/retry", ""); answers <- got }()
	for h.router.holds.now() < 2 {
		time.Sleep(time.Millisecond)
	}
	h.table.SetMap(mapOf(t, `,"users":{"`+alice+`":"a"}`))
	for range 2 {
		if got := <-answers; got != "a" {
			t.Errorf("after the move: %q", got)
		}
	}
}

func TestChangesWaitForACellThatEnds(t *testing.T) {
	a, b := startCell(t, "a", nil), startCell(t, "b", nil)
	h := startRouter(t, nil, a, b)
	ending := b.cell()
	ending.Serving = false
	h.table.SetCells([]Cell{a.cell(), ending})
	if _, got := h.do("GET", "/list_files?user_id="+alice, ""); got != "b" {
		t.Errorf("a read: %q", got)
	}
	answer := make(chan string, 1)
	go func() { _, got := h.do("POST", "/generate_game", `{"user_id":"`+alice+`"}`); answer <- got }()
	for h.router.holds.now() < 1 {
		time.Sleep(time.Millisecond)
	}
	h.table.SetCells([]Cell{a.cell(), b.cell()})
	if got := <-answer; got != "b" {
		t.Errorf("a change: %q", got)
	}
}

func TestWhatNoIDLeadsToIsSought(t *testing.T) {
	const old = "b0b00000-0000-4000-8000-000000000003" // of slot 3, which is of cell a
	has := func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, old) {
			w.WriteHeader(http.StatusGone)
		}
		_, _ = io.WriteString(w, "b")
	}
	hasNot := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"error":"Job not found"}`)
	}
	b := startCell(t, "b", has)
	h := startRouter(t, nil, startCell(t, "a", hasNot), b)
	if resp, _ := h.do("POST", "/jobs/"+old+"/retry", `{"detach":true}`); resp.StatusCode != http.StatusGone {
		t.Errorf("a job from before: %s", resp.Status)
	}
	if _, said := b.requests(); !slices.Equal(said, []string{`{"detach":true}`}) {
		t.Errorf("%q", said)
	}
	if resp, got := h.do("GET", "/projects/"+alice, ""); got != "b" {
		t.Errorf("a project: %s %q", resp.Status, got)
	}
	none := startRouter(t, nil, startCell(t, "a", hasNot), startCell(t, "b", hasNot))
	if resp, got := none.do("GET", "/jobs/"+old, ""); resp.StatusCode != http.StatusNotFound || got != `{"error":"Job not found"}` {
		t.Errorf("nowhere: %s %q", resp.Status, got)
	}
	// A cell that is away could have it.
	lost := startRouter(t, func(c *Config) { c.Hold = 300 * time.Millisecond }, startCell(t, "a", hasNot))
	gone, _ := away(t, "b")
	lost.table.SetCells([]Cell{startCell(t, "a", hasNot).cell(), gone})
	if resp, body := lost.do("GET", "/jobs/"+old, ""); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "cell b") {
		t.Errorf("a cell is away: %s %s", resp.Status, body)
	}
}

func TestARouterIsNotReadyBeforeItsMap(t *testing.T) {
	h := startRouter(t, nil)
	ready := func(want int) {
		t.Helper()
		if resp, body := h.do("GET", "/readyz", "", "X-Modal-Secret", ""); resp.StatusCode != want {
			t.Errorf("readyz: %s %s", resp.Status, body)
		}
	}
	ready(503)
	if resp, _ := h.do("GET", "/livez", "", "X-Modal-Secret", ""); resp.StatusCode != 200 {
		t.Errorf("livez: %s", resp.Status)
	}
	h.table.SetMap(mapOf(t, ""))
	ready(503)
	h.table.SetCells(nil)
	ready(200)
	if resp, body := h.do("GET", "/metrics", ""); resp.StatusCode != 404 || !strings.Contains(body, "metrics_listen") {
		t.Errorf("metrics: %s %s", resp.Status, body)
	}
	h.router.Drain(time.Hour)
	ready(503)
	h.router.endAll(errStopping)
}

func TestMetricsAreBounded(t *testing.T) {
	a := startCell(t, "a", nil)
	h := startRouter(t, nil, a, startCell(t, "b", nil))
	for i := range 50 {
		h.do("GET", fmt.Sprintf("/unknown-%d?user_id=%s", i, bob), "")
	}
	rec := &recorder{}
	h.router.Metrics().ServeHTTP(rec, mustRequest(t, "/metrics"))
	text := rec.String()
	for _, want := range []string{`dreamcore_route_requests_total{endpoint="",status="2xx"} 50`, "dreamcore_route_cells 2", "dreamcore_route_cells_serving 2", "dreamcore_route_map_generation 1", "dreamcore_route_held 0", "dreamcore_route_streams 0"} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
	if strings.Contains(text, "unknown-") || strings.Contains(text, bob) {
		t.Error("clients choose labels")
	}
}

type recorder struct {
	bytes.Buffer
	header http.Header
}

func (r *recorder) Header() http.Header {
	if r.header == nil {
		r.header = http.Header{}
	}
	return r.header
}
func (r *recorder) WriteHeader(int) {}

func mustRequest(t *testing.T, path string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestAMoveThatTheMapDoesNotKnowYet asks a cell that has just released a user. The
// request waits for the map, with its body, and is answered by the new cell.
func TestAMoveThatTheMapDoesNotKnowYet(t *testing.T) {
	asked := make(chan struct{}, 100)
	b := startCell(t, "b", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Dreamcore-Moving", "true")
		w.WriteHeader(http.StatusServiceUnavailable)
		asked <- struct{}{}
	})
	a := startCell(t, "a", nil)
	h := startRouter(t, nil, a, b)
	for _, tt := range []struct{ method, path, body string }{
		{"GET", "/list_files?user_id=" + alice, ""},
		{"POST", "/generate_game", `{"user_id":"` + alice + `"}`},
	} {
		h.table.SetMap(mapOf(t, ""))
		type answer struct {
			status int
			text   string
		}
		got := make(chan answer, 1)
		go func() {
			resp, text := h.do(tt.method, tt.path, tt.body)
			got <- answer{resp.StatusCode, text}
		}()
		<-asked
		<-asked // it asks again, also without a change of the map
		h.table.SetMap(mapOf(t, `,"users":{"`+alice+`":"a"}`))
		if g := <-got; g.status != http.StatusOK || g.text != "a" {
			t.Errorf("%s: %+v", tt.path, g)
		}
		_, said := a.requests()
		if last := said[len(said)-1]; last != tt.body {
			t.Errorf("%s: the new cell got %q", tt.path, last)
		}
		for len(asked) > 0 {
			<-asked
		}
	}
	// It does not wait for ever.
	h = startRouter(t, func(c *Config) { c.Hold = 300 * time.Millisecond }, a, b)
	if resp, text := h.do("GET", "/list_files?user_id="+alice, ""); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, "USER_MOVING") || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s %s", resp.Status, text)
	}
	// Moves are not led through routers, which would ask any cell.
	for _, path := range []string{"/moves", "/moves/" + alice, "/moves/" + alice + "/accept"} {
		if resp, text := h.do("POST", path, ""); resp.StatusCode != http.StatusNotFound || !strings.Contains(text, "dreamcore cells") {
			t.Errorf("%s: %s %s", path, resp.Status, text)
		}
	}
}

// A request that waits for a move keeps its place among the held ones while the cell is
// asked again, less and less often; with the answer it gives it back.
func TestAMoveIsOneWait(t *testing.T) {
	var h *harness
	var mu sync.Mutex
	var at []time.Time
	var held []int
	b := startCell(t, "b", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		at, held = append(at, time.Now()), append(held, h.router.holds.now())
		if len(at)%4 != 0 {
			w.Header().Set("X-Dreamcore-Moving", "true")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	h = startRouter(t, func(c *Config) { c.Held = 1 }, startCell(t, "a", nil), b)
	for i, tt := range []struct{ method, path, body string }{
		{"GET", "/list_files?user_id=" + alice, ""},               // on a connection that is kept
		{"POST", "/generate_game", `{"user_id":"` + alice + `"}`}, // on one of its own
	} {
		mu.Lock()
		at, held = nil, nil
		mu.Unlock()
		if resp, text := h.do(tt.method, tt.path, tt.body); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %s", tt.path, resp.Status, text)
		}
		if !slices.Equal(held, []int{0, 1, 1, 1}) {
			t.Errorf("%s: while the cell was asked, %v requests were held", tt.path, held)
		}
		for i, pause := range []time.Duration{redialPause, 2 * redialPause, 4 * redialPause} {
			if got := at[i+1].Sub(at[i]); got < pause {
				t.Errorf("%s: asked again after %v, not %v", tt.path, got, pause)
			}
		}
		if now := h.router.holds.now(); now != 0 {
			t.Errorf("%s: %d are held after the answer", tt.path, now)
		}
		rec := &recorder{}
		h.router.Metrics().ServeHTTP(rec, mustRequest(t, "/metrics"))
		if want := fmt.Sprintf("dreamcore_route_hold_seconds_count %d\n", i+1); !strings.Contains(rec.String(), want) {
			t.Errorf("%s: %q is missing in\n%s", tt.path, want, rec)
		}
	}
}

// A held request whose cell is back, and works on it for long, is not held any more.
func TestWorkIsNotAWait(t *testing.T) {
	var h *harness
	var asked atomic.Int32
	b := startCell(t, "b", func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			w.Header().Set("X-Dreamcore-Moving", "true")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		for began := time.Now(); h.router.holds.now() > 0; time.Sleep(time.Millisecond) {
			if time.Since(began) > 20*time.Second {
				t.Error("it is held while the cell works")
				return
			}
		}
	})
	h = startRouter(t, nil, startCell(t, "a", nil), b)
	if resp, text := h.do("POST", "/generate_game", `{"user_id":"`+alice+`"}`); resp.StatusCode != http.StatusOK {
		t.Errorf("%s %s", resp.Status, text)
	}
}
