package gateway

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
)

// The benchmarks compare requests through the gateway with direct ones:
//
//	go test -run '^$' -bench . ./pkg/model/gateway

func benchUpstream(b *testing.B, chunks int) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		beginStream(w)
		for range chunks { // the API sends each event separately
			send(w, eventText)
		}
		send(w, eventStop)
	}))
	b.Cleanup(server.Close)
	return server.URL
}

// benchClient returns a client and the address for it, through the gateway or
// direct.
func benchClient(b *testing.B, upstream string, gateway bool) (*http.Client, *http.Request) {
	body := `{"model":"m-1","stream":true,"system":"` + strings.Repeat("x", 85<<10) + `"}`
	req, err := http.NewRequest("POST", upstream+"/v1/messages", strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	if !gateway {
		tr := &http.Transport{}
		b.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}, req
	}
	api, err := NewAPIUpstream(APIConfig{BaseURL: upstream, Key: func() (string, error) { return testKey, nil }})
	if err != nil {
		b.Fatal(err)
	}
	log, err := audit.Open(b.TempDir(), audit.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { log.Close() })
	g := New(Config{Upstream: api, Audit: log})
	s, err := g.Listen(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { g.Close(b.Context()); api.Close() })
	req.Header.Set("X-Api-Key", s.Grant(GrantOptions{}).Token())
	tr := &http.Transport{DialContext: unixDialer(s.Path())}
	b.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}, req
}

func benchWays(b *testing.B, chunks int, read func(*http.Response) (int64, error)) {
	for name, gateway := range map[string]bool{"direct": false, "gateway": true} {
		b.Run(name, func(b *testing.B) {
			client, req := benchClient(b, benchUpstream(b, chunks), gateway)
			for b.Loop() {
				req.Body, _ = req.GetBody()
				resp, err := client.Do(req)
				if err != nil || resp.StatusCode != 200 {
					b.Fatal(resp, err)
				}
				n, err := read(resp)
				resp.Body.Close()
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(n)
			}
		})
	}
}

// BenchmarkFirstByte measures a request of the CLI's usual size (85 KB) until the
// end of an answer of one event.
func BenchmarkFirstByte(b *testing.B) {
	benchWays(b, 0, func(r *http.Response) (int64, error) { return io.Copy(io.Discard, r.Body) })
}

// BenchmarkStream measures an answer of 1 MB in events of 130 bytes, each flushed.
func BenchmarkStream(b *testing.B) {
	benchWays(b, (1<<20)/len(eventText), func(r *http.Response) (int64, error) { return io.Copy(io.Discard, r.Body) })
}

// BenchmarkMeter measures the meter alone.
func BenchmarkMeter(b *testing.B) {
	stream := []byte(strings.Repeat(eventText, (1<<20)/len(eventText)))
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		m := &meter{}
		for rest := stream; len(rest) > 0; rest = rest[min(relayStep, len(rest)):] {
			m.feed(rest[:min(relayStep, len(rest))])
		}
	}
}

// BenchmarkPeekBody measures a large body of the CLI.
func BenchmarkPeekBody(b *testing.B) {
	body := []byte(`{"model":"m-1","messages":[` + strings.Repeat(`{"role":"user","content":"some \"text\" here"},`, 20000) + `1],"stream":true}`)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := peekBody(body); err != nil {
			b.Fatal(err)
		}
	}
}
