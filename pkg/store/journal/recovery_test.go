package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestUnfinishedReturnsJobsThatCrashed(t *testing.T) {
	s, dir := openStore(t, Options{})
	long := `{"type":"assistant","text":"` + strings.Repeat("x", 100<<10) + `"}`
	for i, c := range []struct {
		content string
		ended   bool
	}{
		{"", false},
		{`{"type":"status"}`, false},
		{`{"type":"done","exit_code":0}`, false}, // torn: its newline is missing
		{`{"type":"status"}` + "\n", false},
		{`{"type":"done","exit_code":0}` + "\n", true},
		{`{"type":"error","code":"X"}` + "\n", true},
		{`{"type":"status"}` + "\n" + `{"type":"error"}` + "\n", true},
		{`{"type":"done"}` + "\n" + `{"type":"status"}` + "\n", false},
		{`{"type":"done"}` + "\n" + `{"type":"sta`, true},
		{long + "\n" + `{"type":"done"}` + "\n", true},
		{`{"type":"done"}` + "\n" + long + "\n", false},
		{`{"type":"status","message":"done"}` + "\n", false},
		{"\n", false},
		{strings.Repeat("\x00", 100) + "\n", false},
	} {
		job := fmt.Sprintf("%08d-0000-4000-8000-000000000000", i)
		if err := os.WriteFile(filepath.Join(dir, job+extension), []byte(c.content), fileMode); err != nil {
			t.Fatal(err)
		}
		got, err := s.Unfinished()
		if err != nil || slices.Contains(got, job) == c.ended {
			t.Errorf("%.40q: unfinished %v, %v", c.content, got, err)
		}
	}
	os.WriteFile(filepath.Join(dir, "README"), nil, fileMode)
	os.Mkdir(filepath.Join(dir, "rows"), 0o700)
	os.Mkdir(filepath.Join(dir, jobB+extension), 0o700) // a log that cannot be read hides no other
	before, err := s.Unfinished()
	if err != nil || !slices.Contains(before, jobB) || len(before) < 2 {
		t.Errorf("with a log that cannot be read: %v, %v", before, err)
	}
	l := create(t, s, jobA)
	if running, err := s.Unfinished(); err != nil || !slices.Equal(running, before) {
		t.Errorf("a running job is unfinished: %v, %v", running, err)
	}
	l.Close()
	if after, err := s.Unfinished(); err != nil || len(after) != len(before)+1 {
		t.Errorf("a job closed without a terminal event is not unfinished: %v, %v", after, err)
	}
}

func TestReopenRemovesATornLineAndContinuesTheIDs(t *testing.T) {
	s, dir := openStore(t, Options{})
	path := filepath.Join(dir, jobA+extension)
	if err := os.WriteFile(path, []byte("{\"n\":1}\n{\"n\":2}\n{\"n\":"), fileMode); err != nil {
		t.Fatal(err)
	}
	if got := drain(t, follow(t, s, jobA, 0)); len(got) != 2 {
		t.Fatalf("a torn line was read: %d events", len(got))
	}
	l, err := s.Reopen(jobA)
	if err != nil {
		t.Fatal(err)
	}
	r := follow(t, s, jobA, 0)
	if id, err := l.Append(dreamcore.DoneEvent()); err != nil || id != 3 {
		t.Fatalf("id %d, %v", id, err)
	}
	l.Close()
	got := drain(t, r)
	if len(got) != 3 || string(got[2].Event) != string(dreamcore.DoneEvent()) {
		t.Fatalf("got %v", got)
	}
	if data, _ := os.ReadFile(path); string(data) != "{\"n\":1}\n{\"n\":2}\n"+string(dreamcore.DoneEvent())+"\n" {
		t.Fatalf("file %q", data)
	}
	_, err = s.Reopen(jobA)
	wantCode(t, err, dreamcore.CodeConflict)
}

func TestPruneRemovesLogsByAgeThenBySizeButNoOpenOnes(t *testing.T) {
	s, dir := openStore(t, Options{})
	now := time.Now()
	line := dreamcore.Event(`{"a":"` + strings.Repeat("x", 991) + `"}`) // 1000 bytes with its newline
	jobs := make([]string, 6)
	for i := range jobs {
		jobs[i] = uuid.NewString()
		l := create(t, s, jobs[i])
		appendAll(t, l, line)
		if i != 0 {
			appendAll(t, l, dreamcore.DoneEvent())
			l.Close()
		}
		when := now.Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, jobs[i]+extension), when, when); err != nil {
			t.Fatal(err)
		}
	}
	reading := follow(t, s, jobs[1], 0)
	if n, err := s.Prune(t.Context(), now.Add(-8*time.Hour-time.Minute), 0); err != nil || n != 0 {
		t.Fatalf("a log that is being read: %d, %v", n, err)
	}
	if got := drain(t, reading); len(got) != 2 {
		t.Fatalf("%d events", len(got))
	}
	if err := reading.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Prune(t.Context(), now.Add(-8*time.Hour-time.Minute), 0); err != nil || n != 1 {
		t.Fatalf("by age: %d, %v", n, err)
	}
	_, total, err := s.byAge()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.Prune(t.Context(), time.Time{}, total-2*4096); err != nil || n != 2 {
		t.Fatalf("by size: %d, %v", n, err)
	}
	left, _ := s.names()
	want := []string{jobs[0] + extension, jobs[4] + extension, jobs[5] + extension}
	slices.Sort(want)
	if !slices.Equal(left, want) {
		t.Fatalf("left %v, want %v", left, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := s.Prune(ctx, now, 0); n != 0 || !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %d, %v", n, err)
	}
}

// A job that was cut has a log that nothing writes or reads, and goes on.
func TestPruneLeavesJobsThatHaveNotEnded(t *testing.T) {
	s, dir := openStore(t, Options{})
	for job, close := range map[string]func(*Log) error{jobA: (*Log).Suspend, jobB: (*Log).Close} {
		l := create(t, s, job)
		appendAll(t, l, number(1))
		if err := close(l); err != nil {
			t.Fatal(err)
		}
	}
	other := openStoreAt(t, dir, Options{}) // the next process
	for _, s := range []*Store{s, other} {
		for _, maxBytes := range []int64{0, 1} {
			if n, err := s.Prune(t.Context(), time.Now().Add(time.Hour), maxBytes); n != 0 || err != nil || !has(t, dir, jobA) || !has(t, dir, jobB) {
				t.Errorf("removed %d, %v", n, err)
			}
		}
	}
	if err := errors.Join(other.Remove(jobA), other.Erase(jobB)); err != nil || has(t, dir, jobA) || has(t, dir, jobB) {
		t.Errorf("they cannot be removed: %v", err)
	}
}

func TestSyncPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		interval time.Duration
		want     []int // syncs after each of: 3 events, a pause and 1 event, terminal event, Close
	}{
		"interval": {100 * time.Millisecond, []int{0, 1, 2, 2}},
		"always":   {-1, []int{3, 4, 5, 5}},
		"never":    {time.Hour, []int{0, 0, 1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := openStore(t, Options{SyncInterval: c.interval})
				l := create(t, s, jobA)
				syncs := 0
				s.sync = func(*os.File) error { syncs++; return nil }
				var got []int
				appendAll(t, l, number(1), number(2), number(3))
				got = append(got, syncs)
				time.Sleep(time.Second) // on the fake clock
				appendAll(t, l, number(4))
				got = append(got, syncs)
				appendAll(t, l, dreamcore.DoneEvent())
				got = append(got, syncs)
				l.Close()
				if got = append(got, syncs); !slices.Equal(got, c.want) {
					t.Fatalf("syncs %v, want %v", got, c.want)
				}
			})
		})
	}
	t.Run("close syncs unsynced events", func(t *testing.T) {
		s, _ := openStore(t, Options{SyncInterval: time.Hour})
		l := create(t, s, jobA)
		syncs := 0
		s.sync = func(*os.File) error { syncs++; return nil }
		appendAll(t, l, number(1))
		if l.Close(); syncs != 1 {
			t.Fatalf("%d syncs", syncs)
		}
	})
}

func TestAnEventThatCannotBeSyncedIsRemoved(t *testing.T) {
	s, dir := openStore(t, Options{})
	l := create(t, s, jobA)
	appendAll(t, l, number(1))
	s.sync = func(*os.File) error { return syscall.ENOSPC }
	_, err := l.Append(dreamcore.DoneEvent())
	wantCode(t, err, dreamcore.CodeSetup)
	if data, _ := os.ReadFile(filepath.Join(dir, jobA+extension)); string(data) != "{\"n\":1}\n" {
		t.Fatalf("file %q", data)
	}
	s.sync = (*os.File).Sync
	if id, err := l.Append(number(2)); err != nil || id != 2 {
		t.Fatalf("later: %d, %v", id, err)
	}
}

func TestAFullDiskLeavesWholeLines(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to mount")
	dir := t.TempDir()
	sandboxtest.Need(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k") == nil, "root, to mount a small tmpfs")
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s := openStoreAt(t, filepath.Join(dir, "jobs"), Options{})
	l := create(t, s, jobA)
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 100<<10), fileMode); err != nil {
		t.Fatal(err)
	}
	event := dreamcore.Event(`{"a":"` + strings.Repeat("x", 3000) + `"}`)
	var err error
	written := 0
	for ; err == nil && written < 1000; written++ {
		_, err = l.Append(event)
	}
	written--
	wantCode(t, err, dreamcore.CodeSetup)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	if info, _ := os.Stat(filepath.Join(dir, "jobs", jobA+extension)); info.Size() != int64(written*(len(event)+1)) {
		t.Fatalf("%d bytes after %d events", info.Size(), written)
	}
	// The terminal event has its own space, however full the disk is.
	if fill, err := os.Create(filepath.Join(dir, "fill")); err == nil {
		for err == nil {
			_, err = fill.Write(make([]byte, 4096))
		}
		fill.Close()
	}
	if id, err := l.Append(dreamcore.DoneEvent()); err != nil || id != uint64(written+1) {
		t.Fatalf("on the full disk: %d, %v", id, err)
	}
	l.Close()
	r := follow(t, s, jobA, 0)
	if got := drain(t, r); len(got) != written+1 {
		t.Fatalf("%d events, want %d", len(got), written+1)
	}
	r.Close()
	s.Close()
}

func TestOpenReportsWhyItFailed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, fileMode)
	_, err := Open(filepath.Join(file, "jobs"), Options{})
	wantCode(t, err, dreamcore.CodeInternal)
	s, dir := openStore(t, Options{})
	s.Close()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("%v, %v", info.Mode(), err)
	}
}
