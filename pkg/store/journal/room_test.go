package journal

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// onDiskOf returns the disk usage of a directory, as du counts it.
func onDiskOf(t testing.TB, dir string) (total int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += onDisk(info)
	}
	return total
}

func has(t testing.TB, dir, job string) bool {
	t.Helper()
	_, err := os.Lstat(filepath.Join(dir, job+extension))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}

// event returns an event of about size bytes.
func event(size int) dreamcore.Event {
	return dreamcore.LogEvent(strings.Repeat("x", size), "info")
}

func TestLogsStayWithinTheirBound(t *testing.T) {
	const bound = 4 << 20
	s, dir := openStore(t, Options{MaxBytes: bound})
	var jobs []string
	var read *Reader
	old := time.Now().Add(-time.Hour)
	for i := range 60 {
		job := uuid.NewString()
		jobs = append(jobs, job)
		l := create(t, s, job)
		for range 5 {
			appendAll(t, l, event(50<<10))
			if size := onDiskOf(t, dir); size > bound+1<<20 {
				t.Fatalf("%d bytes while job %d is running", size, i)
			}
		}
		appendAll(t, l, dreamcore.DoneEvent())
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		when := old.Add(time.Duration(i) * time.Second)
		if err := os.Chtimes(filepath.Join(dir, job+extension), when, when); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			read = follow(t, s, job, 0)
		}
	}
	if size := onDiskOf(t, dir); size > bound {
		t.Errorf("%d bytes", size)
	}
	if !has(t, dir, jobs[0]) || has(t, dir, jobs[1]) || !has(t, dir, jobs[59]) || !has(t, dir, jobs[50]) {
		t.Error("the log that is being read and the newest ones must stay")
	}
	if got := drain(t, read); len(got) != 6 {
		t.Errorf("%d events", len(got))
	}
	if err := read.Close(); err != nil {
		t.Fatal(err)
	}
	s.SetMaxBytes(1 << 20)
	create(t, s, uuid.NewString()).Close()
	if size := onDiskOf(t, dir); size > 1<<20+256<<10 || has(t, dir, jobs[0]) {
		t.Errorf("%d bytes after the bound was lowered", size)
	}
}

// A user whose jobs write much loses logs of their own, not those of other users.
func TestLogsOfOtherUsersStay(t *testing.T) {
	s, dir := openStore(t, Options{MaxBytes: 2 << 20})
	write := func(user dreamcore.UserID, age time.Duration) string {
		job := uuid.NewString()
		l := create(t, s, job)
		l.SetOwner(user)
		appendAll(t, l, event(100<<10), dreamcore.DoneEvent())
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(dir, job+extension), when, when); err != nil {
			t.Fatal(err)
		}
		return job
	}
	oldest := write("a", time.Hour)
	var flood []string
	for i := range 60 {
		flood = append(flood, write("b", 30*time.Minute-time.Duration(i)*time.Second))
	}
	if !has(t, dir, oldest) {
		t.Error("another user's log is gone")
	}
	if has(t, dir, flood[0]) || !has(t, dir, flood[59]) {
		t.Error("the oldest logs of the user who writes much must go first")
	}
	if size := onDiskOf(t, dir); size > 2<<20 {
		t.Errorf("%d bytes", size)
	}
}

// When all logs are being written, the total exceeds the bound, and not every line
// starts a search for old logs.
func TestRunningLogsAreNotRemovedForRoom(t *testing.T) {
	s, dir := openStore(t, Options{MaxBytes: 256 << 10})
	var logs []*Log
	for range 5 {
		logs = append(logs, create(t, s, uuid.NewString()))
	}
	for i := range 20 {
		for _, l := range logs {
			appendAll(t, l, event(10<<10+i))
		}
	}
	names, err := s.names()
	if err != nil || len(names) != 5 {
		t.Fatal(names, err)
	}
	if r := &s.room; r.retry <= r.max {
		t.Error("every line starts a search for old logs")
	}
	for _, l := range logs {
		appendAll(t, l, dreamcore.DoneEvent())
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s.SetMaxBytes(256 << 10)
	create(t, s, uuid.NewString()).Close()
	if size := onDiskOf(t, dir); size > 256<<10+256<<10 {
		t.Errorf("%d bytes", size)
	}
}

// A second Store takes the place of the other process: a lock belongs to its file
// descriptor.
func TestALogThatAnotherProcessWritesIsNotRemoved(t *testing.T) {
	s, dir := openStore(t, Options{})
	other, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	job := uuid.NewString()
	l := create(t, other, job)
	if n, err := s.Prune(t.Context(), time.Now().Add(time.Hour), 0); n != 0 || err != nil || !has(t, dir, job) {
		t.Error(n, err)
	}
	appendAll(t, l, dreamcore.DoneEvent())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Prune(t.Context(), time.Now().Add(time.Hour), 0); n != 1 || err != nil {
		t.Error(n, err)
	}
}

// Set DREAMCORE_TEST_JOBS=1000 to run this by hand with more logs.
func TestManyLogsStayWithinTheirBound(t *testing.T) {
	count := 100
	if text := os.Getenv("DREAMCORE_TEST_JOBS"); text != "" {
		if _, err := fmt.Sscan(text, &count); err != nil {
			t.Fatal(err)
		}
	}
	const bound = 8 << 20
	s, dir := openStore(t, Options{MaxBytes: bound})
	var most int64
	for range count {
		l := create(t, s, uuid.NewString())
		for range 10 {
			appendAll(t, l, event(40<<10))
		}
		appendAll(t, l, dreamcore.DoneEvent())
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		most = max(most, onDiskOf(t, dir))
	}
	began := time.Now()
	left, err := s.Unfinished()
	took := time.Since(began)
	if err != nil || len(left) != 0 || most > bound+256<<10 {
		t.Errorf("%v %v, at most %d bytes", left, err, most)
	}
	names, err := fs.ReadDir(os.DirFS(dir), ".")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d jobs: at most %d KiB on disk (bound %d), %d logs remain, listing them at the start takes %v", count, most>>10, bound>>10, len(names), took)
}
