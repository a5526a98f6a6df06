package journal

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

var benchEvent = dreamcore.Event(`{"type":"stream_event","a":"` + strings.Repeat("x", 1472) + `"}`)

// BenchmarkAppend writes events of 1.5 KB at each sync interval.
func BenchmarkAppend(b *testing.B) {
	for name, interval := range map[string]time.Duration{"interval": DefaultSyncInterval, "every": -1} {
		b.Run("sync="+name, func(b *testing.B) { benchAppend(b, interval, 0) })
	}
}

// BenchmarkFollow measures one writer with many readers; it ends when every reader
// has read everything.
func BenchmarkFollow(b *testing.B) {
	for _, readers := range []int{1, 100} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) { benchAppend(b, DefaultSyncInterval, readers) })
	}
}

func benchAppend(b *testing.B, interval time.Duration, readers int) {
	s, _ := openStore(b, Options{SyncInterval: interval, MaxLogBytes: 1 << 40})
	job := uuid.NewString()
	l := create(b, s, job)
	var all sync.WaitGroup
	for range readers {
		r := follow(b, s, job, 0)
		all.Go(func() {
			n := 0
			for ; ; n++ {
				if _, err := r.Next(b.Context()); err == io.EOF {
					break
				} else if err != nil {
					b.Error(err)
					return
				}
			}
			if n != b.N {
				b.Errorf("read %d of %d", n, b.N)
			}
		})
	}
	b.SetBytes(int64(len(benchEvent)))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		appendAll(b, l, benchEvent)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/append")
	l.Close()
	all.Wait()
}
