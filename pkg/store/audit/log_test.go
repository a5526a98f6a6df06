package audit

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

const patience = 10 * time.Second

func open(t *testing.T, dir string, o Options) *Log {
	t.Helper()
	l, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return l
}

func all(t *testing.T, dir string, f Filter) (list []Entry) {
	t.Helper()
	if err := Read(t.Context(), dir, f, false, func(e Entry, _ []byte) error {
		list = append(list, e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestARecordIsReadAsItWasWritten(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	want := Entry{
		Time: time.Date(2026, 11, 5, 12, 0, 0, 123e6, time.UTC), Event: EventModel, Job: "j", User: "u", Project: "p", Sandbox: "s", Upstream: "up",
		Model: "m", Method: "POST", Target: "/v1/messages", Status: 200, BytesIn: 5, BytesOut: 6,
		Tokens: dreamcore.Tokens{Input: 1, Output: 2, CacheWrite: 3, CacheWrite1h: 4, CacheRead: 5}, Cost: 1_234_000, Verdict: Failed, Reason: "why",
	}
	l.Record(want)
	l.Record(Entry{Event: "x", User: "v", Job: "k"})
	if got := all(t, dir, Filter{}); len(got) != 2 || got[0] != want {
		t.Errorf("%+v", got)
	}
	for _, f := range []Filter{{User: "v"}, {Job: "k"}, {Since: want.Time.Add(1)}} {
		if got := all(t, dir, f); len(got) != 1 || got[0].User != "v" {
			t.Errorf("%+v: %+v", f, got)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, current)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	var none *Log
	none.Record(want)
	if err := none.Close(); err != nil {
		t.Error(err)
	}
	if got := all(t, filepath.Join(dir, "not there"), Filter{}); got != nil {
		t.Error(got)
	}
}

func TestHostileTextIsBoundedEscapedAndWithoutSecrets(t *testing.T) {
	dir := t.TempDir()
	const canary = "sk-ant-canary-0123456789"
	l := open(t, dir, Options{Redact: strings.NewReplacer(canary, "[redacted]").Replace})
	evil := "x\n{\"event\":\"forged\"}\r\x1b[2J\x00\xff\u202e" + canary + "\n" + strings.Repeat("\x01", 1<<20)
	// A secret that truncation would split must be redacted too.
	split := strings.Repeat("a", maxShort-5) + canary
	l.Record(Entry{Event: evil, Job: split, User: evil, Project: evil, Sandbox: evil, Upstream: evil, Model: evil, Method: evil, Target: evil, Reason: evil, Verdict: Verdict(evil)})
	l.Record(Entry{Event: "after"})
	raw, err := os.ReadFile(filepath.Join(dir, current))
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) > maxLine || bytes.Contains(raw, []byte(canary[:12])) || bytes.ContainsAny(raw, "\x1b\x00\x01\r") || bytes.Count(raw, []byte("\n")) != 4 {
		t.Errorf("%d bytes: %.300q", len(raw), raw)
	}
	if got := all(t, dir, Filter{}); len(got) != 2 || got[1].Event != "after" || len(got[0].Target) > maxLong+3 {
		t.Errorf("%d records", len(got))
	}
}

// A process that was stopped during a rotation must not stop requests.
func TestRecordDoesNotWaitForARotation(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{MaxBytes: 100})
	other, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, fileMode)
	if err != nil {
		t.Fatal(err)
	}
	if err := statefile.TryLock(other); err != nil {
		t.Fatal(err)
	}
	recorded := make(chan struct{})
	go func() {
		defer close(recorded)
		for range 10 {
			l.Record(Entry{Event: EventModel, Job: "j"})
		}
	}()
	select {
	case <-recorded:
	case <-time.After(patience):
		t.Error("Record waits for another process")
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	<-recorded
	l.Record(Entry{Event: EventModel, Job: "j"})
	names, _ := filepath.Glob(filepath.Join(dir, rotatedPrefix+"*"))
	if got := all(t, dir, Filter{}); len(got) != 11 || len(names) != 1 {
		t.Errorf("%d records, %d rotated files", len(got), len(names))
	}
}

func TestTheLogIsRotatedAndBounded(t *testing.T) {
	dir := t.TempDir()
	const size, number = 5000, 4
	l := open(t, dir, Options{MaxBytes: size, MaxFiles: number, Now: func() time.Time { return time.Unix(1e9, 0) }}) // a clock that stands still
	for i := range 500 {
		l.Record(Entry{Event: EventModel, Job: strconv.Itoa(i)})
	}
	names, _ := filepath.Glob(filepath.Join(dir, "audit*"))
	var total int64
	for _, n := range names {
		info, err := os.Stat(n)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if len(names) != number || total > (size+200)*number || total < size*(number-1) {
		t.Errorf("%d bytes in %v", total, names)
	}
	got := all(t, dir, Filter{})
	for i, e := range got {
		if want := strconv.Itoa(500 - len(got) + i); e.Job != want {
			t.Fatalf("record %d of %d is of job %s, want %s", i, len(got), e.Job, want)
		}
	}
}

func TestProcessesWriteOneLog(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for _, who := range []string{"a", "b", "c"} {
		wg.Go(func() {
			if out, err := exec.Command(os.Args[0], "record", dir, who).CombinedOutput(); err != nil {
				t.Errorf("%v %s", err, out)
			}
		})
	}
	wg.Wait()
	next := map[string]int{}
	for _, e := range all(t, dir, Filter{}) {
		n, err := strconv.Atoi(e.Job)
		if err != nil {
			t.Fatal(err)
		}
		// A writer that was overtaken by a rotation may write into the older file.
		next[e.User+" "+strconv.Itoa(n)]++
	}
	if len(next) != 1500 {
		t.Errorf("%d records of 1500", len(next))
	}
	for k, n := range next {
		if n != 1 {
			t.Errorf("%s is there %d times", k, n)
		}
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "audit-*")); len(names) < 5 {
		t.Errorf("not rotated: %v", names)
	}
}

func TestATornLineLosesNoOtherRecord(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	l.Record(Entry{Event: "one"})
	f, err := os.OpenFile(filepath.Join(dir, current), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("\n{\"time\":\"2026-11-05T12:00:00Z\",\"event\":\"torn\",\"us")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	l.Record(Entry{Event: "two"})
	if got := all(t, dir, Filter{}); len(got) != 2 || got[0].Event != "one" || got[1].Event != "two" {
		t.Errorf("%+v", got)
	}
}

func TestAFloodOfRefusalsIsSuppressedPerUser(t *testing.T) {
	dir := t.TempDir()
	at := time.Date(2026, 11, 5, 12, 0, 0, 0, time.UTC)
	l := open(t, dir, Options{})
	refused := Entry{Time: at, Event: EventToken, User: "evil", Verdict: Refused}
	for range 10_000 {
		l.Record(refused)
	}
	other := refused
	other.User = "other"
	l.Record(other)
	refused.Time = at.Add(time.Second)
	l.Record(refused)
	got := all(t, dir, Filter{})
	if len(got) != refusalsBurst+2 || got[refusalsBurst].User != "other" || got[refusalsBurst+1].Suppressed != 10_000-refusalsBurst {
		t.Errorf("%d records, the last %+v", len(got), got[len(got)-1])
	}
}

func TestFollowingContinuesAcrossRotations(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{MaxBytes: 3000, MaxFiles: 1000})
	l.Record(Entry{Event: EventModel, Job: "0"})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const n = 1000
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for i := 1; i < n; i++ {
			l.Record(Entry{Event: EventModel, Job: strconv.Itoa(i)})
			if i%100 == 0 {
				time.Sleep(pollInterval / 2)
			}
		}
	}()
	next := 0
	err := Read(ctx, dir, Filter{}, true, func(e Entry, _ []byte) error {
		if e.Job != strconv.Itoa(next) {
			t.Errorf("job %s, want %d", e.Job, next)
			cancel()
		}
		if next++; next == n {
			cancel()
		}
		return nil
	})
	<-wrote
	if err != nil || next != n {
		t.Errorf("%d of %d records, %v", next, n, err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "audit-*")); len(names) < 10 {
		t.Errorf("not rotated: %v", names)
	}
}

func TestWriteFailuresAreLoggedOnceAndCounted(t *testing.T) {
	dir := t.TempDir()
	var logged bytes.Buffer
	l := open(t, dir, Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	file := filepath.Join(dir, current)
	if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.Record(Entry{Event: "lost"})
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	l.Record(Entry{Event: "kept"})
	if n := strings.Count(logged.String(), "level=ERROR"); n != 1 {
		t.Errorf("logged %d times: %s", n, logged.String())
	}
	got := all(t, dir, Filter{})
	if len(got) != 2 || got[0].Event != EventLost || !strings.HasPrefix(got[0].Reason, "3 ") || got[1].Event != "kept" {
		t.Errorf("%+v", got)
	}
}

func TestRecordsAreSynced(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	l.Record(Entry{Event: "x", Verdict: Refused})
	if l.synced.Load() != l.written.Load() {
		t.Error("a refusal was not synced at once")
	}
	l.Record(Entry{Event: "x", Verdict: Allowed})
	for end := time.Now().Add(time.Second + 500*time.Millisecond); l.synced.Load() != l.written.Load(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a record was not synced within a second")
		}
	}
}

func FuzzReadLines(f *testing.F) {
	rec, err := Entry{Time: time.Now(), Event: "fuzz", User: "u", Cost: 5, Verdict: Refused}.encode(strings.ToLower)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(rec)
	f.Add(rec[:len(rec)/2])
	f.Add(append(rec[:len(rec)/2], rec...))
	f.Add([]byte("\n{\"time\":\"2026-11-05T12:00:00Z\",\"event\":\"x\",\"cost_usd\":-5}\n[]\n\xff\n" + strings.Repeat("x", 2*maxLine) + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := readLines(bytes.NewReader(b), func(e Entry, raw []byte) error {
			if e.Event == "" || e.Time.IsZero() || e.Cost < 0 || bytes.ContainsRune(raw, '\n') {
				t.Fatalf("%+v", e)
			}
			return nil
		})
		if err != nil || n > int64(len(b)) {
			t.Fatalf("%d of %d, %v", n, len(b), err)
		}
		seen := 0
		if _, err := readLines(bytes.NewReader(append(bytes.Clone(b), rec...)), func(e Entry, _ []byte) error {
			if e.Event == "fuzz" && e.User == "u" {
				seen++
			}
			return nil
		}); err != nil || seen == 0 {
			t.Fatalf("seen %d, %v", seen, err)
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	l, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for b.Loop() {
		l.Record(Entry{Event: EventModel, User: "u", Job: "j", Model: "m", Method: "POST", Target: "/v1/messages", Verdict: Allowed})
	}
}

func TestSuppressedRefusalsAreCounted(t *testing.T) {
	dir := t.TempDir()
	at := time.Date(2026, 11, 5, 12, 0, 0, 0, time.UTC)
	l, err := Open(dir, Options{Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	const each = refusalsBurst + 3
	for _, user := range []string{"first", "last"} {
		for range each {
			l.Record(Entry{Time: at, Event: EventToken, User: user, Verdict: Refused})
		}
		for u := range maxLimiters / 2 { // more limiters than are kept
			l.Record(Entry{Time: at, Event: EventToken, User: user + strconv.Itoa(u), Verdict: Refused})
		}
	}
	if n := len(l.limiters); n >= maxLimiters/2 {
		t.Fatalf("%d limiters: none was dropped", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int64{}
	for _, e := range all(t, dir, Filter{}) {
		if e.Reason == "" {
			counts[e.User]++
		}
		counts[e.User] += e.Suppressed
	}
	for _, user := range []string{"first", "last"} {
		if got := counts[user]; got != each {
			t.Errorf("user %s: %d refusals are counted, want %d", user, got, each)
		}
	}
}
