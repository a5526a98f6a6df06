package webhook

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake answers requests without a network, so that time can be virtual.
type fake struct {
	answer func(*http.Request) (status int, header http.Header, err error)

	mu   sync.Mutex
	seen []attempt // guarded by mu
}

type attempt struct {
	at  time.Time
	url string
	id  string
}

func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	f.seen = append(f.seen, attempt{time.Now(), r.URL.String(), r.Header.Get("Webhook-Id")})
	f.mu.Unlock()
	status, header, err := f.answer(r)
	if err != nil {
		return nil, err
	}
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader("ok")), Request: r}, nil
}

// attempts returns the attempts so far.
func (f *fake) attempts() []attempt {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.seen)
}

// hang answers like a host that does not.
func hang(r *http.Request) (int, http.Header, error) {
	<-r.Context().Done()
	return 0, nil, r.Context().Err()
}

func status(n int) func(*http.Request) (int, http.Header, error) {
	return func(*http.Request) (int, http.Header, error) { return n, nil, nil }
}

func TestAMessageIsTriedLessAndLessOftenAndGivenUp(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: status(500)}
		var outcomes []Outcome
		s := open(t, Options{Dir: dir, transport: f, Entries: []Entry{{URL: "https://a.example/", Secret: "a"}}, Observe: func(o Outcome, _ time.Duration) { outcomes = append(outcomes, o) }})
		begun := time.Now()
		if err := s.Notify(event(1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * MaxAge)
		synctest.Wait()
		seen := f.attempts()
		if n := len(seen); n > MaxAttempts || n < 10 {
			t.Errorf("%d attempts", n)
		}
		for i, a := range seen {
			if a.id != seen[0].id || a.at.Sub(begun) > MaxAge {
				t.Errorf("attempt %d with id %s after %v", i, a.id, a.at.Sub(begun))
			}
			if i > 1 && i < 8 && a.at.Sub(seen[i-1].at) < 2*seen[i-1].at.Sub(seen[i-2].at) {
				t.Errorf("the pause before attempt %d does not grow", i)
			}
		}
		if last := outcomes[len(outcomes)-1]; last != Dropped || s.Backlog().Messages != 0 {
			t.Errorf("%v, %+v", outcomes, s.Backlog())
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%v, %v are left", left, err)
		}
	})
}

func TestADeadEndpointDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const dead, good, sibling = "https://dead.example/x", "https://good.example/x", "https://dead.example/other"
		f := &fake{answer: func(r *http.Request) (int, http.Header, error) {
			if r.URL.String() == dead {
				return hang(r)
			}
			return 200, nil, nil
		}}
		s := open(t, Options{transport: f, Entries: []Entry{{URL: dead, Secret: "a"}, {URL: good, Secret: "a"}, {URL: sibling, Secret: "a"}}})
		begun := time.Now()
		for i := range 100 {
			if err := s.Notify(event(i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		count, last := map[string]int{}, map[string]time.Duration{}
		for _, a := range f.attempts() {
			count[a.url]++
			last[a.url] = a.at.Sub(begun)
		}
		if count[good] != 100 || last[good] != 0 {
			t.Errorf("the good host got %d messages, the last one after %v", count[good], last[good])
		}
		// Another address at the same host waits for at most one hanging attempt.
		if count[sibling] != 100 || last[sibling] > sendLimit {
			t.Errorf("the other address got %d messages, the last one after %v", count[sibling], last[sibling])
		}
		// The dead one is not tried more often than once a minute, about.
		if n := count[dead]; n > 60 || n < 30 {
			t.Errorf("the dead address was tried %d times in an hour", n)
		}
		if b := s.Backlog(); b.Messages != 100 || !b.Oldest.Equal(begun) {
			t.Errorf("%+v", b)
		}
	})
}

// The second attempt begins with the first and fails after it, while the third, the
// one at a time, hangs.
func TestAnEarlierAttemptDoesNotEndTheOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: func(r *http.Request) (int, http.Header, error) {
			switch r.Header.Get("Webhook-Id") {
			case messageID(event(0).Job):
				time.Sleep(firstRest)
				return 500, nil, nil
			case messageID(event(1).Job):
				time.Sleep(3 * firstRest)
				return 500, nil, nil
			}
			return hang(r)
		}}
		s := open(t, Options{transport: f, Entries: []Entry{{URL: "https://a.example/", Secret: "a"}}})
		for i := range 4 {
			if err := s.Notify(event(i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(sendLimit - firstRest)
		synctest.Wait()
		if n := len(f.attempts()); n != 3 {
			t.Errorf("%d attempts, want 3", n)
		}
	})
}

func TestABadMessageDelaysNoOtherOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := messageID(event(0).Job)
		f := &fake{answer: func(r *http.Request) (int, http.Header, error) {
			if r.Header.Get("Webhook-Id") == bad {
				return 500, nil, nil
			}
			return 200, nil, nil
		}}
		s := open(t, Options{transport: f, Entries: []Entry{{URL: "https://a.example/", Secret: "a"}}})
		for i := range 50 {
			if err := s.Notify(event(i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := s.Backlog().Messages; n != 1 {
			t.Errorf("%d messages wait, want the bad one", n)
		}
	})
}

func TestMessagesToRemovedEndpointsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: status(500)}
		var outcomes []Outcome
		s := open(t, Options{transport: f, Entries: []Entry{{URL: "https://a.example/", Secret: "a"}}, Observe: func(o Outcome, _ time.Duration) { outcomes = append(outcomes, o) }})
		if err := s.Notify(event(1)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s.Apply([]Entry{{URL: "https://a.example/other", Secret: "a"}})
		time.Sleep(MaxAge)
		synctest.Wait()
		if n := len(f.attempts()); n != 1 || !slices.Equal(outcomes, []Outcome{Failed, Dropped}) || s.Backlog().Messages != 0 {
			t.Errorf("%d attempts, %v", n, outcomes)
		}
	})
}

func TestRetryAfterIsKeptWithinABound(t *testing.T) {
	for value, want := range map[string]time.Duration{"600": 10 * time.Minute, "999999999": longestAdvice, "x": 0, "-1": 0} {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{answer: func(*http.Request) (int, http.Header, error) { return 429, http.Header{"Retry-After": {value}}, nil }}
			s := open(t, Options{transport: f, Entries: []Entry{{URL: "https://a.example/", Secret: "a"}}})
			if err := s.Notify(event(1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			seen := f.attempts()
			if gap := seen[1].at.Sub(seen[0].at); gap < want || gap > max(want, 7*time.Second) {
				t.Errorf("%s: the second attempt came after %v", value, gap)
			}
		})
	}
}

func TestMessagesSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	entries := []Entry{{URL: "https://a.example/", Secret: "a"}}
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: status(503)}
		s := open(t, Options{Dir: dir, transport: f, Entries: entries})
		for i := range 3 {
			if err := s.Notify(event(i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		tried := len(f.attempts())

		f.answer = hang // an attempt that Close cuts does not count
		s = open(t, Options{Dir: dir, transport: f, Entries: entries})
		time.Sleep(sendLimit / 2)
		synctest.Wait()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}

		box, left, err := openOutbox(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		attempts := 0
		for _, m := range left {
			attempts += m.Attempts
		}
		if err := box.close(); err != nil || attempts != tried {
			t.Errorf("%d attempts are noted, want %d; %v", attempts, tried, err)
		}

		f.answer = status(200)
		s = open(t, Options{Dir: dir, transport: f, Entries: entries})
		time.Sleep(longestPause)
		synctest.Wait()
		if n := s.Backlog().Messages; n != 0 {
			t.Errorf("%d messages are left", n)
		}
		ids := map[string]bool{}
		for _, a := range f.attempts() {
			ids[a.id] = true
		}
		if len(ids) != 3 {
			t.Errorf("webhook-ids %v", ids)
		}
	})
}

const childDir = "DREAMCORE_TEST_WEBHOOK_OUTBOX"

// notifyUntilKilled queues events and prints the id of each one that is queued.
func notifyUntilKilled(dir string) {
	f := &fake{answer: status(503)}
	s, err := New(Options{Dir: dir, Secret: keys, transport: f, Entries: []Entry{{URL: "https://a.example/", Secret: "a"}}})
	for i := 0; err == nil; i++ {
		e := event(i)
		if err = s.Notify(e); err == nil {
			fmt.Println(messageID(e.Job))
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestAKilledProcessLosesNoMessage(t *testing.T) {
	dir := t.TempDir()
	var confirmed []string
	for range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n := 0
		for lines := bufio.NewScanner(out); lines.Scan(); n++ {
			confirmed = append(confirmed, lines.Text())
			if n == 40 {
				_ = cmd.Process.Kill() // what it has printed by then is read too
			}
		}
		if err := cmd.Wait(); err == nil || n < 40 {
			t.Fatalf("the child ended after %d events: %v", n, err)
		}
	}
	var mu sync.Mutex
	got := map[string]bool{}
	delivered := make(chan struct{}, 10_000)
	f := &fake{answer: func(r *http.Request) (int, http.Header, error) {
		mu.Lock()
		defer mu.Unlock()
		got[r.Header.Get("Webhook-Id")] = true
		return 200, nil, nil
	}}
	// The pauses after failed attempts are over.
	box, left, err := openOutbox(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range left {
		body, err := box.body(m)
		if err != nil {
			t.Fatal(err)
		}
		m.Next = time.Time{}
		if err := box.update(m, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := box.close(); err != nil {
		t.Fatal(err)
	}
	open(t, Options{Dir: dir, transport: f, Entries: []Entry{{URL: "https://a.example/", Secret: "a"}}, Observe: func(Outcome, time.Duration) { delivered <- struct{}{} }})
	for range left {
		<-delivered
	}
	for _, id := range confirmed {
		if !got[id] {
			t.Errorf("%s was queued and is lost", id)
		}
	}
}

func TestDamagedFilesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	m := &message{ID: "msg_1", Event: JobFailed, Job: "1", URL: "https://a.example/", Created: time.Now(), Body: []byte(`{}`)}
	box, _, err := openOutbox(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if added, err := box.create(m); !added || err != nil {
		t.Fatal(added, err)
	}
	if err := box.close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, m.name()))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"a.json": "{", "b.json": "", "c.json": string(good), "d.json": strings.Repeat(" ", maxFile+1), "e.json": "null",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, Options{Dir: dir, transport: &fake{answer: func(*http.Request) (int, http.Header, error) { return 0, nil, errors.New("down") }}, Entries: []Entry{{URL: m.URL, Secret: "a"}}})
	if n := s.Backlog().Messages; n != 1 {
		t.Errorf("%d messages", n)
	}
	if err := s.Close(); err != nil { // an attempt may be being noted
		t.Fatal(err)
	}
	if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
}

func TestTheAddressWithTheMostMessagesPays(t *testing.T) {
	s := &Service{hosts: map[string]*host{}, closed: true}
	fill := func(url string, n int) (first *message) {
		for i := range n {
			m := &message{ID: fmt.Sprint(i), URL: url, Created: time.Unix(int64(i), 0)}
			if s.enqueue(m); first == nil {
				first = m
			}
		}
		return first
	}
	small := fill("https://a.example/", 1)
	if m := s.excess(small.URL); m != nil {
		t.Errorf("one message is too much: %+v", m)
	}
	full := fill("https://b.example/", maxPerURL+1)
	if m := s.excess(full.URL); m != full {
		t.Errorf("%+v is dropped, want the oldest of the full address", m)
	}
	full.busy = true
	if m := s.excess(full.URL); m == nil || m == full {
		t.Errorf("%+v is dropped, want one that is not being sent", m)
	}
	for i := range maxMessages/maxPerURL - 1 {
		fill(fmt.Sprintf("https://c%d.example/", i), maxPerURL)
	}
	if m := s.excess(small.URL); m == nil || m.URL != full.URL {
		t.Errorf("%+v is dropped, want one of the address with the most", m)
	}
}
