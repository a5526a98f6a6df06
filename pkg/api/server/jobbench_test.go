package server

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

// BenchmarkResume reads 10,000 events that a client has missed.
func BenchmarkResume(b *testing.B) {
	const missed = 10_000
	event := dreamcore.LogEvent(fmt.Sprintf("%0400d", 7), "")
	sv := start(b, options{run: func(log *journal.Log) {
		for range missed {
			_, _ = log.Append(event)
		}
		_, _ = log.Append(dreamcore.DoneEvent())
	}})
	res := sv.do(sv.request(http.MethodPost, "/generate_game", generateBody))
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		b.Fatal(err)
	}
	path := "/jobs/" + res.Header.Get(JobHeader) + "/events?after=1"
	var times []time.Duration
	for b.Loop() {
		began := time.Now()
		res, err := sv.client.Do(sv.request(http.MethodGet, path, ""))
		if err != nil {
			b.Fatal(err)
		}
		raw, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if n := bytes.Count(raw, []byte("\n\n")); err != nil || n != missed {
			b.Fatal(n, err)
		}
		times = append(times, time.Since(began))
	}
	report(b, times)
}

// BenchmarkEventLatency measures the time from an event in the log to its client,
// with 20 jobs of 5 readers each.
func BenchmarkEventLatency(b *testing.B) {
	const jobs, readers = 20, 5
	var mu sync.Mutex
	logs := make(chan *journal.Log, jobs)
	end := make(chan struct{})
	sv := start(b, options{run: func(log *journal.Log) {
		logs <- log
		<-end
		_, _ = log.Append(dreamcore.DoneEvent())
	}})
	defer close(end)
	arrived := make(chan time.Duration)
	for range jobs {
		res := sv.do(sv.request(http.MethodPost, "/generate_game", generateBody))
		for range readers {
			s := sv.follow(res.Header.Get(JobHeader), "")
			go func() {
				for {
					f, err := s.next()
					var at int64
					if n, _ := fmt.Sscanf(f.data, `{"type":"log","content":"%d"}`, &at); err != nil || n != 1 {
						return
					}
					arrived <- time.Since(time.Unix(0, at))
				}
			}()
		}
	}
	var all []*journal.Log
	for range jobs {
		all = append(all, <-logs)
	}
	var times []time.Duration
	for b.Loop() {
		mu.Lock()
		go func() {
			defer mu.Unlock()
			for _, log := range all {
				_, _ = log.Append(dreamcore.LogEvent(fmt.Sprint(time.Now().UnixNano()), ""))
			}
		}()
		for range jobs * readers {
			times = append(times, <-arrived)
		}
	}
	report(b, times)
}

// report reports the median and the 99th percentile.
func report(b *testing.B, times []time.Duration) {
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "median-ms")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "p99-ms")
}

// TestClientsThatNeverReadCostLittle leaves many streams unread. Their events stay
// in the log, and another client reads all of them.
func TestClientsThatNeverReadCostLittle(t *testing.T) {
	const events, clients, each = 10_000, 200, 256 << 10
	event := dreamcore.LogEvent(fmt.Sprintf("%01000d", 7), "")
	sv := start(t, options{run: func(log *journal.Log) {
		for range events {
			_, _ = log.Append(event)
		}
		_, _ = log.Append(dreamcore.DoneEvent())
	}})
	job := sv.ended()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range clients {
		conn := sv.raw("GET /jobs/" + job + "/events HTTP/1.1\r\nHost: x\r\n" + SecretHeader + ": " + secret + "\r\n\r\n")
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil { // it is being served
			t.Fatal(err)
		}
	}
	if got := len(sv.follow(job, "").all()); got != events+1 {
		t.Errorf("another client got %d events", got)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > clients*each {
		t.Errorf("%d clients cost %d MiB", clients, grown>>20)
	} else {
		t.Logf("%d KiB each", grown/clients>>10)
	}
}
