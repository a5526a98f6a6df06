package usage

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// clock is the fake clock of a test.
type clock struct{ at atomic.Pointer[time.Time] }

func newClock(s string) *clock {
	c := &clock{}
	c.set(s)
	return c
}

func (c *clock) set(s string) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	c.at.Store(&t)
}

func (c *clock) pass(d time.Duration) {
	t := c.now().Add(d)
	c.at.Store(&t)
}

func (c *clock) now() time.Time { return *c.at.Load() }

// open opens a ledger in which the model m costs a dollar per million tokens.
func open(t *testing.T, dir string, c *clock, l Limits) *Ledger {
	t.Helper()
	o := Options{Prices: prices(t, "m in=1 out=1 write=1 read=1"), Limits: l, Days: 40}
	if c != nil {
		o.Now = c.now
	}
	b, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

// spend makes one request that uses n tokens.
func spend(j *Job, n int64) error {
	update, err := j.Reserve("m", n, 0)
	if err == nil {
		update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: n}}, true)
	}
	return err
}

// total returns the sum of the ledger in a directory.
func total(t *testing.T, dir string) Row {
	t.Helper()
	r, err := NewReport("user")
	if err != nil {
		t.Fatal(err)
	}
	if err := Read(dir, time.Time{}, r.Add); err != nil {
		t.Fatal(err)
	}
	return r.Total
}

func wantOver(t *testing.T, err error, limit string) {
	t.Helper()
	over, ok := errors.AsType[*dreamcore.OverBudget](err)
	if limit == "" && err == nil || ok && over.Limit == limit && over.After == 0 {
		return
	}
	t.Errorf("got %v, want over %q", err, limit)
}

func TestTheLedgerSurvivesARestartAndIsSharedByProcesses(t *testing.T) {
	dir := t.TempDir()
	limits := Limits{UserDayTokens: 1000}
	first, second := open(t, dir, nil, limits), open(t, dir, nil, limits)
	if err := errors.Join(spend(first.Job("u", "p", "a"), 400), spend(second.Job("u", "p", "b"), 500)); err != nil {
		t.Fatal(err)
	}
	// Each process counts what the other has spent.
	wantOver(t, spend(first.Job("u", "p", "c"), 200), "")
	wantOver(t, spend(second.Job("u", "p", "d"), 1), "budget_user_day_tokens")
	wantOver(t, first.Job("u", "p", "e").Check(), "budget_user_day_tokens")
	wantOver(t, first.Job("v", "p", "e").Check(), "")
	third := open(t, dir, nil, limits)
	wantOver(t, third.Job("u", "p", "f").Check(), "budget_user_day_tokens")
	if got := total(t, dir); got.Requests != 3 || got.Tokens.Input != 1100 || got.Cost != 1_100_000 {
		t.Errorf("%+v", got)
	}
}

func TestEveryLimitIsEnforcedAndNamed(t *testing.T) {
	for name, l := range map[string]Limits{
		"budget_job_usd": {JobCost: 1_000_000}, "budget_job_tokens": {JobTokens: 1000},
		"budget_user_day_usd": {UserDayCost: 1_000_000}, "budget_user_day_tokens": {UserDayTokens: 1000},
		"budget_user_month_usd": {UserMonthCost: 1_000_000}, "budget_user_month_tokens": {UserMonthTokens: 1000},
		"budget_day_usd": {DayCost: 1_000_000}, "budget_month_usd": {MonthCost: 1_000_000},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, t.TempDir(), nil, l)
			j := b.Job("u", "p", "j")
			wantOver(t, spend(j, 999), "")
			wantOver(t, spend(j, 1), "")
			wantOver(t, spend(j, 1), name)
			// A limit of a job, a user or the machine refuses only those.
			job, user := b.Job("u", "p", "k").Check(), b.Job("v", "p", "k").Check()
			if got := job == nil; got != strings.HasPrefix(name, "budget_job") {
				t.Errorf("another job of the user: %v", job)
			}
			if got := user != nil; got != (name == "budget_day_usd" || name == "budget_month_usd") {
				t.Errorf("another user: %v", user)
			}
			b.Apply(prices(t, "m in=1 out=1"), Limits{})
			wantOver(t, spend(j, 1), "")
		})
	}
}

func TestNewDaysAndMonthsStartAtZero(t *testing.T) {
	dir, c := t.TempDir(), newClock("2026-10-30T23:59:00Z")
	b := open(t, dir, c, Limits{UserDayTokens: 100, UserMonthTokens: 250})
	j := b.Job("u", "p", "j")
	for _, step := range []struct {
		at, over string
	}{
		{"2026-10-30T23:59:00Z", ""},
		{"2026-10-30T23:59:59Z", "budget_user_day_tokens"},
		{"2026-10-31T00:00:00Z", ""},
		{"2026-10-31T00:00:01Z", "budget_user_day_tokens"},
		{"2026-10-30T12:00:00Z", "budget_user_day_tokens"}, // the clock went back
		{"2026-11-01T00:00:00Z", ""},
		{"2026-11-02T00:00:00Z", ""},
		{"2026-11-03T00:00:00Z", ""}, // 200 of 250 were spent
		{"2026-11-04T00:00:00Z", "budget_user_month_tokens"},
		{"2026-12-01T00:00:00Z", ""},
		{"2027-03-01T00:00:00Z", ""},
	} {
		c.set(step.at)
		t.Log(step.at)
		wantOver(t, spend(j, 100), step.over)
		if again := open(t, dir, c, Limits{UserDayTokens: 100}); step.over != "budget_user_month_tokens" {
			wantOver(t, again.Job("u", "p", "k").Check(), "budget_user_day_tokens")
		}
	}
	// Only the files of the last 40 days remain.
	names, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(names) != 1 || filepath.Base(names[0]) != "2027-03-01.ndjson" {
		t.Errorf("remaining: %v", names)
	}
	if info, err := os.Stat(names[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestConcurrentRequestsExceedALimitByOneRequestAtMost(t *testing.T) {
	const limit, most = 10_000, 700 // tokens; most is for one request
	b := open(t, t.TempDir(), nil, Limits{UserDayTokens: limit})
	var wg sync.WaitGroup
	var spent, again atomic.Int64
	for i := range 32 {
		j := b.Job("u", "p", string(rune('a'+i)))
		wg.Go(func() {
			for {
				update, err := j.Reserve("m", 200, most-200)
				if over, ok := errors.AsType[*dreamcore.OverBudget](err); ok && over.After > 0 {
					again.Add(1) // the running requests may cost less
					time.Sleep(time.Millisecond)
					continue
				}
				if err != nil {
					wantOver(t, err, "budget_user_day_tokens")
					return
				}
				n := rand.Int64N(most) + 1
				time.Sleep(time.Millisecond)
				update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: min(n, 200)}}, false)
				time.Sleep(time.Millisecond)
				update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: min(n, 200), Output: n - min(n, 200)}}, true)
				spent.Add(n)
			}
		})
	}
	wg.Wait()
	if n := spent.Load(); n < limit || n >= limit+most {
		t.Errorf("%d tokens were spent of %d, one request may use %d", n, limit, most)
	}
	if again.Load() == 0 {
		t.Error("no request had to wait for the others")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.machine.reserved != (sum{}) || b.users["u"].reserved != (sum{}) {
		t.Errorf("still reserved: %+v, %+v", b.machine.reserved, b.users["u"].reserved)
	}
}

// A model that reported more than a request may use is trusted to do so again: the
// concurrent requests that follow do not exceed the limit together.
func TestTheCostOfAnExpensiveRequestIsReservedForTheNext(t *testing.T) {
	b := open(t, t.TempDir(), nil, Limits{UserDayTokens: 10_000})
	reserve := func(user string) (func(dreamcore.Spent, bool) dreamcore.Nano, error) {
		return b.Job(user, "p", "j").Reserve("m", 1, 1)
	}
	update, err := reserve("u")
	if err != nil {
		t.Fatal(err)
	}
	update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: 5000}}, true)
	for user, want := range map[string]int{"u": 1, "another": 20} {
		running := 0
		for range 20 {
			if _, err := reserve(user); err == nil {
				running++
			}
		}
		if running != want {
			t.Errorf("%d requests of %s run concurrently, want %d", running, user, want)
		}
	}
}

func TestRequestsOfAUserAreRateLimited(t *testing.T) {
	c := newClock("2026-11-05T12:00:00Z")
	b := open(t, t.TempDir(), c, Limits{UserRequests: 60})
	j := b.Job("u", "p", "j")
	for range 15 {
		wantOver(t, spend(j, 1), "")
	}
	over, ok := errors.AsType[*dreamcore.OverBudget](spend(j, 1))
	if !ok || over.Limit != "user_requests" || over.After != time.Second {
		t.Errorf("%+v", over)
	}
	wantOver(t, spend(b.Job("v", "p", "j"), 1), "")
	c.set("2026-11-05T12:00:01Z")
	wantOver(t, spend(j, 1), "")
	if spend(j, 1) == nil {
		t.Error("a refused request let the next one through")
	}
}

func TestAKilledProcessLeavesAnIntactLedger(t *testing.T) {
	dir := t.TempDir()
	logged := 0
	for range 5 {
		cmd := exec.Command(os.Args[0], "spend-forever", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := io.CopyN(&b, out, 1); err != nil { // it has started to spend
			t.Fatal(err)
		}
		timer := time.AfterFunc(rand.N(100*time.Millisecond), func() { _ = cmd.Process.Kill() })
		_, _ = b.ReadFrom(out)
		_ = cmd.Wait()
		timer.Stop()
		logged += strings.Count(b.String(), "spent\n")
		if logged == 0 {
			t.Fatal("the process spent nothing")
		}
		// A torn line, as a power cut leaves it.
		f, err := os.OpenFile(filepath.Join(dir, dayOf(time.Now())+extension), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString("\n{\"t\":\"2026-11-05T12:00:00Z\",\"user\":\"u\",\"nano\":99999999")
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	// A process may have died between writing the record and reporting it.
	got := total(t, dir)
	if n := int(got.Cost / 1_000_000); n < logged || n > logged+5 || got.Requests != int64(n) || got.Tokens.Input != int64(n)*1000 {
		t.Errorf("%d requests were reported as recorded, the ledger has %+v", logged, got)
	}
	b := open(t, dir, nil, Limits{UserDayCost: got.Cost + 1})
	wantOver(t, spend(b.Job("u", "p", "k"), 1000), "")
	wantOver(t, spend(b.Job("u", "p", "k"), 1000), "budget_user_day_usd")
}

func TestALedgerThatCannotBeWrittenRefusesAndLosesNothing(t *testing.T) {
	dir, c := t.TempDir(), newClock("2026-11-05T12:00:00Z")
	var logged bytes.Buffer
	b, err := Open(dir, Options{Prices: prices(t, "m in=1 out=1 write=1"), Limits: Limits{UserDayTokens: 100}, Now: c.now, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err != nil {
		t.Fatal(err)
	}
	update, err := b.Job("u", "p", "j").Reserve("m", 10, 0)
	if err != nil {
		t.Fatal(err)
	}
	blocked := filepath.Join(dir, "2026-11-05.ndjson")
	if err := os.Mkdir(blocked, 0o700); err != nil { // no file of that name can be created
		t.Fatal(err)
	}
	update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: 10}}, false)
	update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: 10, Output: 40}}, true)
	if err := b.Job("u", "p", "k").Check(); dreamcore.CodeOf(err) != dreamcore.CodeSetup {
		t.Errorf("a job starts without a ledger: %v", err)
	}
	if n := strings.Count(logged.String(), "level=ERROR"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, logged.String())
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	wantOver(t, spend(b.Job("u", "p", "k"), 50), "")
	wantOver(t, spend(b.Job("u", "p", "k"), 1), "budget_user_day_tokens")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if got := total(t, dir); got.Tokens.Total() != 100 || got.Requests != 2 {
		t.Errorf("%+v", got)
	}
}

func TestTokensReportedAsAnotherKindLaterStayCounted(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil, Limits{UserDayTokens: 150})
	update, err := b.Job("u", "p", "j").Reserve("m", 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	update(dreamcore.Spent{Tokens: dreamcore.Tokens{CacheWrite: 100}}, false)
	cost := update(dreamcore.Spent{Tokens: dreamcore.Tokens{CacheWrite1h: 100, Output: 100}}, true)
	if got := total(t, dir); got.Tokens.CacheWrite1h != 100 || got.Tokens.Output != 100 || got.Cost != cost || cost < 200_000 {
		t.Errorf("%+v, cost %d", got, cost)
	}
	wantOver(t, b.Job("u", "p", "k").Check(), "budget_user_day_tokens")
}

func TestFreeRequestsAreNotRecorded(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil, Limits{})
	for range 100 {
		if err := spend(b.Job("u", "p", "j"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := spend(b.Job("u", "p", "j"), 1); err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(filepath.Join(dir, "*"))
	if info, err := os.Stat(names[0]); len(names) != 1 || err != nil || info.Size() > 300 || total(t, dir).Requests != 1 {
		t.Errorf("%v: %v", names, info)
	}
}

func TestTheModelThatAnsweredIsBilled(t *testing.T) {
	b, err := Open(t.TempDir(), Options{Prices: prices(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, tc := range []struct {
		asked, answered string
		want            dreamcore.Nano
	}{
		{"claude-haiku-4-5", "", 5_000},
		{"claude-haiku-4-5", "claude-opus-4-5", 25_000},
		{"claude-haiku-4-5", "us.anthropic.claude-opus-4-1-v1:0", 75_000},
		{"claude-opus-4-1", "claude-haiku-4-5", 5_000},
		{"claude-haiku-4-5", "our-own", 5_000},
	} {
		update, err := b.Job("u", "p", "j").Reserve(tc.asked, 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		if cost := update(dreamcore.Spent{Model: tc.answered, Tokens: dreamcore.Tokens{Output: 1}}, true); cost != tc.want {
			t.Errorf("%s, answered by %s, costs %d, want %d", tc.asked, tc.answered, cost, tc.want)
		}
	}
}

// After a clock that goes back, the ledger is summed up again. If that fails,
// partial sums admit no job.
func TestAFailedSumRefusesUntilItSucceeds(t *testing.T) {
	dir, c := t.TempDir(), newClock("2026-10-20T12:00:00Z")
	b := open(t, dir, c, Limits{UserMonthTokens: 100})
	wantOver(t, spend(b.Job("u", "p", "j"), 100), "")
	c.set("2026-10-15T12:00:00Z")
	blocked := filepath.Join(dir, "2026-10-10.ndjson")
	if err := os.Mkdir(blocked, 0o700); err != nil { // it can be opened, but not read
		t.Fatal(err)
	}
	for range 3 {
		if err := b.Job("u", "p", "k").Check(); err == nil {
			t.Error("a job was admitted although the ledger cannot be read")
		}
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	wantOver(t, b.Job("u", "p", "k").Check(), "budget_user_month_tokens")
}

func TestAModelWithoutAPriceIsReportedOnce(t *testing.T) {
	var logged bytes.Buffer
	b, err := Open(t.TempDir(), Options{Prices: prices(t), Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for range 3 {
		update, err := b.Job("u", "p", "j").Reserve("strange", 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		if cost := update(dreamcore.Spent{Tokens: dreamcore.Tokens{Output: 1}}, true); cost != 75_000 {
			t.Errorf("it costs %d", cost)
		}
	}
	if n := strings.Count(logged.String(), "level=WARN"); n != 1 || !strings.Contains(logged.String(), "strange") {
		t.Errorf("%s", logged.String())
	}
}

func FuzzReadLines(f *testing.F) {
	rec, err := Record{Time: time.Now(), User: "u", Model: "m", Requests: 1, Input: 5, Cost: 7}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(rec)
	f.Add(rec[:len(rec)/2])
	f.Add(append(rec[:len(rec)/2], rec...))
	f.Add([]byte("\n{\"t\":\"2026-11-05T12:00:00Z\",\"nano\":-5}\n[]\nnull\n\xff\n" + strings.Repeat("x", 2*maxLine) + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(r Record) {
			if r.Cost < 0 || r.Time.IsZero() || r.Tokens().Total() < 0 || r.Requests < 0 || r.Requests > 1 {
				t.Fatalf("%+v", r)
			}
		}
		n, err := readLines(bytes.NewReader(b), check)
		if err != nil || n > int64(len(b)) || n > 0 && b[n-1] != '\n' && n%(64<<10) != 0 {
			t.Fatalf("%d of %d, %v", n, len(b), err)
		}
		// A record that is appended next counts, even after damaged lines.
		seen := 0
		if _, err := readLines(bytes.NewReader(append(bytes.Clone(b), rec...)), func(r Record) {
			if r.User == "u" && r.Cost == 7 && r.Input == 5 {
				seen++
			}
		}); err != nil || seen == 0 {
			t.Fatalf("seen %d, %v", seen, err)
		}
	})
}

// BenchmarkRequest measures what the ledger adds to a request.
func BenchmarkRequest(b *testing.B) {
	ledger, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer ledger.Close()
	j := ledger.Job("u", "p", "j")
	for b.Loop() {
		update, err := j.Reserve("claude-opus-5-5", 20000, 32000)
		if err != nil {
			b.Fatal(err)
		}
		update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: 20000, Output: 1}}, false)
		update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: 20000, Output: 1000}}, true)
	}
}
