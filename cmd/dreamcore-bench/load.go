package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// each calls f for 0 to n-1, so many at a time.
func each(n, at int, f func(int) error) error {
	errs := make([]error, n)
	turns := make(chan struct{}, at)
	var wg sync.WaitGroup
	for i := range n {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			errs[i] = f(i)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// bursts sends the same number of requests with more and more at a time. The totals
// compare to that of the best number at a time.
func (b *bench) bursts(ctx context.Context) (err error) {
	s, err := b.serve(ctx, "burst", "model_script: demo\n")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	atATime := []int{1, 2, 4, 8, b.burst}
	totals := make([]float64, len(atATime))
	for k, at := range atATime {
		took := make([]float64, b.burst)
		failed := make([]error, b.burst)
		begin := time.Now()
		if err := each(b.burst, at, func(i int) error {
			start := time.Now()
			failed[i] = s.sandboxIO(ctx)
			took[i] = millis(start)
			return ctx.Err()
		}); err != nil {
			return err
		}
		bad := 0
		totals[k] = millis(begin)
		for _, err := range failed {
			if err != nil {
				bad++
				fmt.Fprintln(os.Stderr, err)
			}
		}
		b.report.add(fmt.Sprintf("%d times POST /test_sandbox_io", b.burst), fmt.Sprintf("%d at a time", at), "ms", took, nil,
			fmt.Sprintf("%d failed", bad))
	}
	best := []float64{slices.Min(totals)}
	for k, at := range atATime {
		b.report.add("all of them", fmt.Sprintf("%d at a time", at), "ms", totals[k:k+1], best, "")
	}
	return nil
}

// idlers keeps the sandboxes of many users and measures the memory of all; then
// each user must still get an answer.
func (b *bench) idlers(ctx context.Context) (err error) {
	s, err := b.serve(ctx, "idle", fmt.Sprintf("model_script: demo\nmax_sandboxes: %d\ndisk_mib: 0\n", b.idle+8))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	groups, err := groupMemory()
	if err != nil {
		b.skip("memory of idle users", err)
		return nil
	}
	users := make([]string, b.idle)
	for i := range users {
		users[i] = uuid.NewString()
	}
	took := make([]float64, b.idle)
	warm := func(i int) error {
		begin := time.Now()
		defer func() { took[i] = millis(begin) }()
		return s.prewarm(ctx, users[i])
	}
	if err := each(b.idle, 2, warm); err != nil {
		return err
	}
	b.report.add("idle users", "POST /prewarm_sandbox of a new user", "ms", took, nil, "")
	after, err := groupMemory()
	if err != nil {
		return err
	}
	b.report.add("idle users", "memory of each", "MiB", []float64{(after - groups) / (1 << 20) / float64(b.idle)}, nil, fmt.Sprintf("%d users", b.idle))
	if err := each(b.idle, 2, warm); err != nil {
		return err
	}
	b.report.add("idle users", "POST /prewarm_sandbox of each again", "ms", took, nil, "all answered")
	return nil
}

// groupMemory returns what the cgroups of all sandboxes use, in bytes.
func groupMemory() (float64, error) {
	total := 0.0
	found := false
	for _, pattern := range []string{
		"/sys/fs/cgroup/memory/dreamcore/memory.usage_in_bytes",
		"/sys/fs/cgroup/dreamcore/memory.current",
	} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			return 0, err
		}
		for _, name := range names {
			raw, err := os.ReadFile(name)
			if err != nil {
				return 0, err
			}
			n, err := strconv.ParseFloat(strings.TrimSpace(string(raw)), 64)
			if err != nil {
				return 0, err
			}
			total, found = total+n, true
		}
	}
	if !found {
		return 0, errors.New("sandboxes have no cgroup of memory here")
	}
	return total, nil
}
