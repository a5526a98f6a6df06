package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// benchRouter starts the program's router in front of a cell that answers at once, and
// returns their addresses and the router's process.
func benchRouter(b *testing.B, cell http.HandlerFunc) (router, direct string, pid int) {
	b.Helper()
	srv := httptest.NewServer(cell)
	b.Cleanup(srv.Close)
	dir := b.TempDir()
	cells := filepath.Join(dir, "cells")
	if err := os.WriteFile(cells, []byte("cell-0 "+strings.TrimPrefix(srv.URL, "http://")+"\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(sandboxtest.Binary(b), "--state", dir, "route", "--listen", "127.0.0.1:0", "--cells", cells)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TERM=dumb"}
	log := &logBuffer{seen: make(chan struct{})}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			b.Errorf("the router ended with %v\n%s", err, log)
		}
	})
	<-log.seen
	return log.url(), srv.URL, cmd.Process.Pid
}

// BenchmarkRouter measures what the router adds to the first byte of an answer: each
// request is sent to the cell and through the router in turn, on a kept connection.
func BenchmarkRouter(b *testing.B) {
	router, direct, _ := benchRouter(b, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write(make([]byte, 1000))
	})
	body := fmt.Sprintf(`{"user_id":%q,"project_id":%q,"prompt":%q}`, alice, project, strings.Repeat("x", 2000))
	for name, ask := range map[string]func(base string) (*http.Response, error){
		"read": func(base string) (*http.Response, error) {
			return benchRequest("GET", base+"/get_file?user_id="+alice, "")
		},
		"change": func(base string) (*http.Response, error) { return benchRequest("POST", base+"/generate_game", body) },
	} {
		b.Run(name, func(b *testing.B) {
			var plain, routed []time.Duration
			first := func(base string) time.Duration {
				begun := time.Now()
				resp, err := ask(base)
				if err != nil {
					b.Fatal(err)
				}
				defer resp.Body.Close()
				took := time.Since(begun)
				if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != 1000 || resp.StatusCode != http.StatusOK {
					b.Fatalf("%s, %d bytes, %v", resp.Status, n, err)
				}
				return took
			}
			first(router)
			for b.Loop() {
				plain, routed = append(plain, first(direct)), append(routed, first(router))
			}
			slices.Sort(plain)
			slices.Sort(routed)
			at := func(all []time.Duration, share float64) float64 {
				return float64(all[int(share*float64(len(all)-1))].Microseconds())
			}
			b.ReportMetric(at(plain, 0.5), "direct-p50-µs")
			b.ReportMetric(at(routed, 0.5), "routed-p50-µs")
			b.ReportMetric(at(plain, 0.99), "direct-p99-µs")
			b.ReportMetric(at(routed, 0.99), "routed-p99-µs")
		})
	}
}

func benchRequest(method, address, body string) (*http.Response, error) {
	req, err := http.NewRequest(method, address, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Modal-Secret", "s")
	return http.DefaultClient.Do(req)
}

var rssLine = regexp.MustCompile(`(?m)^(VmRSS|RssAnon):\s+(\d+) kB$`)

// memory returns the memory of a process in MiB: all of it, and what is no file.
func memory(b *testing.B, pid int) (all, anonymous float64) {
	b.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range rssLine.FindAllStringSubmatch(string(raw), -1) {
		n, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			b.Fatal(err)
		}
		if m[1] == "VmRSS" {
			all = n / 1024
		} else {
			anonymous = n / 1024
		}
	}
	return all, anonymous
}

// BenchmarkRouterStreams measures the router's memory with 2,000 open streams, each of
// which has passed on some events.
func BenchmarkRouterStreams(b *testing.B) {
	const streams, rounds = 2000, 10
	event := "id: 1\ndata: {\"type\":\"log\",\"content\":\"" + strings.Repeat("x", 1000) + "\"}\n\n"
	var mu sync.Mutex
	turn := make(chan struct{}) // closed for the next event of every stream
	next := func() chan struct{} {
		mu.Lock()
		defer mu.Unlock()
		return turn
	}
	router, _, pid := benchRouter(b, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/generate_game" {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		control := http.NewResponseController(w)
		for {
			wait := next()
			if _, err := io.WriteString(w, event); err != nil || control.Flush() != nil {
				return
			}
			select {
			case <-wait:
			case <-r.Context().Done():
				return
			}
		}
	})
	for b.Loop() {
		_, idle := memory(b, pid)
		client := &http.Client{Transport: &http.Transport{}}
		var open []*bufio.Reader
		var bodies []io.Closer
		for range streams {
			req, err := http.NewRequest("POST", router+"/generate_game", strings.NewReader(fmt.Sprintf(`{"user_id":%q}`, alice)))
			if err != nil {
				b.Fatal(err)
			}
			req.Header.Set("X-Modal-Secret", "s")
			resp, err := client.Do(req)
			if err != nil || resp.StatusCode != http.StatusOK {
				b.Fatalf("%v %v", resp, err)
			}
			open, bodies = append(open, bufio.NewReaderSize(resp.Body, 512)), append(bodies, resp.Body)
		}
		for range rounds {
			for _, r := range open {
				for line := ""; line != "\n"; {
					var err error
					if line, err = r.ReadString('\n'); err != nil {
						b.Fatal(err)
					}
				}
			}
			mu.Lock()
			close(turn)
			turn = make(chan struct{})
			mu.Unlock()
		}
		all, anonymous := memory(b, pid)
		b.ReportMetric(all, "MiB")
		b.ReportMetric(anonymous, "MiB-anonymous")
		b.ReportMetric((anonymous-idle)*1024/streams, "KiB/stream")
		for _, c := range bodies {
			_ = c.Close()
		}
		client.CloseIdleConnections()
	}
}
