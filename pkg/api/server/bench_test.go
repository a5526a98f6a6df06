package server

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// BenchmarkGetFile reads 100 kB over a persistent connection.
func BenchmarkGetFile(b *testing.B) {
	store := openVolumes(b)
	withFiles(b, store, map[string]string{"sprite.png": strings.Repeat("x", 100_000)})
	sv := start(b, options{config: func(c *Config) { c.Projects, c.Editor, c.Skills = store, aDesk(b, store), store }})
	target := "/get_file?user_id=" + user + "&project_id=" + projectID + "&path=sprite.png"
	var times []time.Duration
	for b.Loop() {
		began := time.Now()
		res, err := sv.client.Do(sv.request(http.MethodGet, target, ""))
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil || n != 100_000 {
			b.Fatal(n, err)
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "median-ms")
}

// TestAThousandReadersAtOnceAreAllServed uses a separate connection for each.
func TestAThousandReadersAtOnceAreAllServed(t *testing.T) {
	const readers, size = 1000, 100_000
	store := openVolumes(t)
	withFiles(t, store, map[string]string{"sprite.png": strings.Repeat("x", size)})
	sv := start(t, options{config: func(c *Config) {
		c.Projects, c.Editor, c.Skills = store, aDesk(t, store), store
		c.Limits.ReadHeaderTimeout = 2 * time.Minute // the connections, and perhaps the host, are busy
	}})
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: readers}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	begin := make(chan struct{})
	for range readers {
		req := sv.request(http.MethodGet, "/get_file?user_id="+user+"&project_id="+projectID+"&path=sprite.png", "").WithContext(ctx)
		all.Go(func() {
			<-begin
			res, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if n, err := io.Copy(io.Discard, res.Body); err != nil || n != size || res.StatusCode != http.StatusOK {
				t.Errorf("%s, %d bytes, %v", res.Status, n, err)
			}
		})
	}
	close(begin)
	all.Wait()
}
