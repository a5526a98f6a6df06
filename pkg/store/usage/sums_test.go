package usage

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// spentBy is what each user has spent; the key "" is the machine.
type spentBy map[string][2]sum // day, month

// sumOfRecords sums up the records at a time without using anything of Open but the
// decoding of lines.
func sumOfRecords(t testing.TB, dir string, now time.Time) spentBy {
	t.Helper()
	all := spentBy{}
	if err := Read(dir, time.Time{}, func(r Record) {
		if monthOf(r.Time) != monthOf(now) {
			return
		}
		for _, key := range []string{"", "user " + r.User} {
			s, one := all[key], sum{r.Cost, r.Tokens().Total()}
			if s[1] = s[1].plus(one); dayOf(r.Time) == dayOf(now) {
				s[0] = s[0].plus(one)
			}
			if key != "user " {
				all[key] = s
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// ledgerSums returns the sums of an open ledger.
func ledgerSums(t testing.TB, b *Ledger) spentBy {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(b.opts.Now()); err != nil {
		t.Fatal(err)
	}
	all := spentBy{}
	if b.machine.month != (sum{}) {
		all[""] = [2]sum{b.machine.day, b.machine.month}
	}
	for name, c := range b.users {
		if c.month != (sum{}) {
			all["user "+name] = [2]sum{c.day, c.month}
		}
	}
	return all
}

// wantSums opens the ledger twice, since the first opening may save sums, and once
// without any.
func wantSums(t testing.TB, dir string, at *clock) {
	t.Helper()
	want := sumOfRecords(t, dir, at.now())
	for _, how := range []string{"with the existing sums", "again", "without sums"} {
		if how == "without sums" {
			for _, name := range sumsFiles(t, dir) {
				if rand.IntN(2) == 0 { // the others stay for the next call
					continue
				}
				if err := os.Remove(name); err != nil {
					t.Fatal(err)
				}
			}
		}
		b, err := Open(dir, Options{Now: at.now, Days: 400})
		if err != nil {
			t.Fatal(err)
		}
		got := ledgerSums(t, b)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(sum{})); diff != "" {
			t.Fatalf("%s, at %s:\n%s", how, at.now(), diff)
		}
	}
}

func sumsFiles(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+sumsExtension+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// appendTo appends to the file of a day as another process would.
func appendTo(t testing.TB, dir, day, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, day+extension), os.O_WRONLY|os.O_APPEND|os.O_CREATE, fileMode)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func lineOf(t testing.TB, r Record) string {
	t.Helper()
	line, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(line)
}

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

// writeMonth writes 20 days of a month, of which all but the last two are closed,
// and returns a clock on the last one.
func writeMonth(t testing.TB, dir string) *clock {
	t.Helper()
	for day := range 20 {
		var lines strings.Builder
		for n := range 50 {
			tm := time.Date(2026, 11, day+1, 12, n, 0, 0, time.UTC)
			lines.WriteString(lineOf(t, Record{Time: tm, User: fmt.Sprint("u", n%7), Requests: 1, Input: int64(n), Cost: dreamcore.Nano(n * day)}))
		}
		appendTo(t, dir, fmt.Sprintf("2026-11-%02d", day+1), lines.String())
	}
	return newClock("2026-11-20T18:00:00Z")
}

// openWithPlantedSums opens a ledger whose sums of 5 November say that the user
// "planted" has spent something, which no record does, and reports whether the sums
// were used instead of the records.
func openWithPlantedSums(t *testing.T, change func(dir string, head *sumsHead, raw []byte) []byte) (used bool) {
	t.Helper()
	dir := t.TempDir()
	c := writeMonth(t, dir)
	info, err := os.Stat(filepath.Join(dir, "2026-11-05"+extension))
	if err != nil {
		t.Fatal(err)
	}
	head := headOf(info, info.Size())
	change(dir, &head, nil)
	raw, err := sums{{day: "2026-11-05", user: "planted"}: {5, 5}}.encode(head)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "2026-11-05"+sumsExtension), change(dir, &sumsHead{}, raw), fileMode); err != nil {
		t.Fatal(err)
	}
	want := sumOfRecords(t, dir, c.now())
	b := open(t, dir, c, Limits{})
	got := ledgerSums(t, b)
	if _, used = got["user planted"]; !used {
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(sum{})); diff != "" {
			t.Errorf("not used, but the sums differ:\n%s", diff)
		}
		wantSums(t, dir, c) // they were computed again
	}
	return used
}

func TestSumsAreUsedOnlyIfTheyMatchTheFile(t *testing.T) {
	day := func(dir string) string { return filepath.Join(dir, "2026-11-05"+extension) }
	for name, tc := range map[string]struct {
		change func(dir string, head *sumsHead, raw []byte) []byte
		used   bool
	}{
		"unchanged":                 {func(_ string, _ *sumsHead, raw []byte) []byte { return raw }, true},
		"of another form":           {func(_ string, h *sumsHead, raw []byte) []byte { h.Form++; return raw }, false},
		"of a longer file":          {func(_ string, h *sumsHead, raw []byte) []byte { h.Size++; h.Read++; return raw }, false},
		"of a shorter file":         {func(_ string, h *sumsHead, raw []byte) []byte { h.Size--; h.Read--; return raw }, false},
		"of an older file":          {func(_ string, h *sumsHead, raw []byte) []byte { h.Changed--; return raw }, false},
		"of more bytes":             {func(_ string, h *sumsHead, raw []byte) []byte { h.Read++; return raw }, false},
		"truncated":                 {func(_ string, _ *sumsHead, raw []byte) []byte { return raw[:max(len(raw)-1, 0)] }, false},
		"truncated in the checksum": {func(_ string, _ *sumsHead, raw []byte) []byte { return raw[:min(len(raw), 20)] }, false},
		"empty":                     {func(string, *sumsHead, []byte) []byte { return nil }, false},
		"with a flipped bit": {func(_ string, _ *sumsHead, raw []byte) []byte {
			return bytes.Replace(raw, []byte(`"nano":5`), []byte(`"nano":4`), 1)
		}, false},
		"of a file that was appended to since": {func(dir string, _ *sumsHead, raw []byte) []byte {
			if raw != nil {
				appendTo(t, dir, "2026-11-05", lineOf(t, Record{Time: at("2026-11-05T23:59:59Z"), User: "late", Cost: 9}))
			}
			return raw
		}, false},
		"of a file that was edited in place": {func(dir string, _ *sumsHead, raw []byte) []byte {
			if b, err := os.ReadFile(day(dir)); raw != nil && (err != nil || os.WriteFile(day(dir), bytes.ReplaceAll(b, []byte("u3"), []byte("u4")), fileMode) != nil) {
				t.Fatal(err)
			}
			return raw
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if used := openWithPlantedSums(t, tc.change); used != tc.used {
				t.Errorf("used: %v", used)
			}
		})
	}
}

func TestOnlyClosedDaysGetSums(t *testing.T) {
	dir := t.TempDir()
	c := writeMonth(t, dir)
	var want []string
	sumsOf := func(day int) string { return filepath.Join(dir, fmt.Sprintf("2026-11-%02d%s", day, sumsExtension)) }
	for day := range 18 {
		want = append(want, sumsOf(day+1))
	}
	b := open(t, dir, c, Limits{})
	if diff := cmp.Diff(want, sumsFiles(t, dir)); diff != "" {
		t.Fatal(diff)
	}
	if info, err := os.Stat(want[0]); err != nil || info.Mode().Perm() != fileMode {
		t.Errorf("%v %v", info, err)
	}
	// A running process saves the sums of the next day that is closed.
	c.set("2026-11-21T00:00:01Z")
	if err := b.Job("u", "p", "j").Check(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(sumsOf(19)); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no sums of the closed day")
		}
	}
	if diff := cmp.Diff(append(want, sumsOf(19)), sumsFiles(t, dir)); diff != "" {
		t.Error(diff)
	}
	// Unfinished files are removed, and in the next month all sums.
	if err := os.WriteFile(sumsOf(3)+".LEFT", nil, fileMode); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "2026-11-07"+extension)); err != nil {
		t.Fatal(err)
	}
	wantSums(t, dir, c)
	for _, name := range sumsFiles(t, dir) {
		if strings.HasSuffix(name, ".LEFT") || name == sumsOf(7) {
			t.Errorf("not removed: %s", name)
		}
	}
	c.set("2026-12-01T00:00:01Z")
	wantSums(t, dir, c)
	if left := sumsFiles(t, dir); len(left) != 0 {
		t.Errorf("remaining: %v", left)
	}
}

func TestTheLedgerWorksWithoutSavedSums(t *testing.T) {
	dir := t.TempDir()
	c := writeMonth(t, dir)
	for _, name := range []string{"2026-11-05" + sumsExtension, "2026-10-05" + sumsExtension} { // a file of that name can be neither read, created nor removed
		if err := os.MkdirAll(filepath.Join(dir, name, "full"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var logged bytes.Buffer
	b, err := Open(dir, Options{Now: c.now, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if diff := cmp.Diff(sumOfRecords(t, dir, c.now()), ledgerSums(t, b), cmp.AllowUnexported(sum{})); diff != "" {
		t.Error(diff)
	}
	if n := strings.Count(logged.String(), "level=WARN"); n != 2 || !strings.Contains(logged.String(), "day=2026-11-05") {
		t.Error(logged.String())
	}
}

func TestAProcessKilledWhileSavingSumsLeavesAnIntactLedger(t *testing.T) {
	dir := t.TempDir()
	c := writeMonth(t, dir)
	want, half := sumOfRecords(t, dir, c.now()), 0
	for range 15 {
		for _, name := range sumsFiles(t, dir) {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(os.Args[0], "open-forever", dir, c.now().Format(time.RFC3339))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rand.N(20 * time.Millisecond))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if n := len(sumsFiles(t, dir)); n > 0 && n < 18 {
			half++
		}
		b, err := Open(dir, Options{Now: c.now})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, ledgerSums(t, b), cmp.AllowUnexported(sum{})); diff != "" {
			t.Fatal(diff)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if half == 0 {
		t.Error("no process was killed midway")
	}
	if n := len(sumsFiles(t, dir)); n != 18 {
		t.Errorf("%d files of sums", n)
	}
}

// Late records arrive while several processes sum up their day.
func TestLateRecordsDuringASummationCount(t *testing.T) {
	dir := t.TempDir()
	c := writeMonth(t, dir)
	running := open(t, dir, c, Limits{})
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			for n := range 300 {
				appendTo(t, dir, fmt.Sprintf("2026-11-%02d", n%3+1), lineOf(t, Record{Time: at(fmt.Sprintf("2026-11-%02dT23:00:00Z", n%3+1)), User: fmt.Sprint("late", i), Cost: 1, Upstream: strings.Repeat("x", n%maxName)}))
			}
		})
		wg.Go(func() {
			for range 15 {
				b, err := Open(dir, Options{Now: c.now})
				if err == nil {
					err = b.Close()
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	wantSums(t, dir, c)
	c.set("2026-11-21T00:00:01Z")
	if diff := cmp.Diff(sumOfRecords(t, dir, c.now()), ledgerSums(t, running), cmp.AllowUnexported(sum{})); diff != "" {
		t.Error(diff)
	}
}

// A record that could not be written is counted at once, and its day may be closed
// by the time it can be.
func TestTheBacklogOfAClosedDayCountsOnce(t *testing.T) {
	dir, c := t.TempDir(), newClock("2026-11-05T12:00:00Z")
	appendTo(t, dir, "2026-11-05", lineOf(t, Record{Time: c.now(), User: "v", Input: 7, Cost: 7}))
	b := open(t, dir, c, Limits{})
	update, err := b.Job("u", "p", "j").Reserve("m", 10, 0)
	if err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	b.files["2026-11-05"].f.Close() // writing to it fails
	b.mu.Unlock()
	update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: 10}}, true)
	b.mu.Lock()
	if len(b.backlog) != 1 {
		t.Error("the record was written")
	}
	delete(b.files, "2026-11-05")
	b.mu.Unlock()
	for _, now := range []string{"2026-11-08T12:00:00Z", "2026-11-09T12:00:00Z"} {
		c.set(now)
		if diff := cmp.Diff(spentBy{"": {{}, {10_007, 17}}, "user u": {{}, {10_000, 10}}, "user v": {{}, {7, 7}}}, ledgerSums(t, b), cmp.AllowUnexported(sum{})); diff != "" {
			t.Error(now, diff)
		}
	}
	wantSums(t, dir, c)
}

// A process without requests for days counts what others spent meanwhile.
func TestDaysWithoutRequestsCount(t *testing.T) {
	dir, c := t.TempDir(), newClock("2026-11-05T12:00:00Z")
	b := open(t, dir, c, Limits{})
	for _, day := range []string{"2026-11-04", "2026-11-05", "2026-11-06", "2026-11-09", "2026-11-10", "2026-11-12"} {
		appendTo(t, dir, day, lineOf(t, Record{Time: at(day + "T13:00:00Z"), User: "v", Input: 7, Cost: 7}))
	}
	for _, now := range []string{"2026-11-10T12:00:00Z", "2026-11-11T12:00:00Z", "2026-11-12T12:00:00Z"} {
		c.set(now)
		if diff := cmp.Diff(sumOfRecords(t, dir, c.now()), ledgerSums(t, b), cmp.AllowUnexported(sum{})); diff != "" {
			t.Error(now, diff)
		}
	}
}

// A file of a later day, which a process with a faster clock has begun, may have a
// record of a day that comes before it.
func TestARecordInTheFileOfALaterDayCountsOnItsDay(t *testing.T) {
	dir, c := t.TempDir(), newClock("2026-11-09T12:00:00Z")
	appendTo(t, dir, "2026-11-11", lineOf(t, Record{Time: at("2026-11-10T22:30:00Z"), User: "v", Input: 7, Cost: 7}))
	l := open(t, dir, c, Limits{})
	for _, now := range []string{"2026-11-09T13:00:00Z", "2026-11-10T12:00:00Z", "2026-11-11T12:00:00Z"} {
		c.set(now)
		if diff := cmp.Diff(sumOfRecords(t, dir, c.now()), ledgerSums(t, l), cmp.AllowUnexported(sum{})); diff != "" {
			t.Error(now, diff)
		}
	}
}

func FuzzDecodeSums(f *testing.F) {
	raw, err := sums{{"2026-11-05", "u", false}: {5, 6}, {"2026-11-05", "u", true}: {7, 8}, {"2026-11-05", "", false}: {1, 0}}.encode(sumsHead{Form: sumsForm, Size: 9, Read: 8, Changed: 7})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:70])
	f.Add(bytes.Replace(raw, []byte("\n"), nil, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, ok := decodeSums(b); ok && !bytes.Equal(b, raw) {
			t.Fatalf("accepted: %q", b)
		}
	})
}
