package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	jobA = "11111111-1111-4111-8111-111111111111"
	jobB = "22222222-2222-4222-8222-222222222222"
)

func openStore(t testing.TB, opts Options) (*Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "jobs")
	return openStoreAt(t, dir, opts), dir
}

func openStoreAt(t testing.TB, dir string, opts Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func create(t testing.TB, s *Store, job string) *Log {
	t.Helper()
	l, err := s.Create(job)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func appendAll(t testing.TB, l *Log, events ...dreamcore.Event) {
	t.Helper()
	for _, e := range events {
		if _, err := l.Append(e); err != nil {
			t.Fatal(err)
		}
	}
}

func follow(t testing.TB, s *Store, job string, after uint64) *Reader {
	t.Helper()
	r, err := s.Reader(job, after)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// drain reads to the end of the job.
func drain(t testing.TB, r *Reader) (entries []Entry) {
	t.Helper()
	for {
		e, err := r.Next(t.Context())
		if err == io.EOF {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
}

func number(i int) dreamcore.Event { return dreamcore.Event(fmt.Sprintf(`{"n":%d}`, i)) }

func wantCode(t *testing.T, err error, code dreamcore.Code) {
	t.Helper()
	if err == nil || dreamcore.CodeOf(err) != code {
		t.Fatalf("error %v, want code %s", err, code)
	}
	if dreamcore.HintOf(err) == "" {
		t.Fatalf("error %v has no hint", err)
	}
}

func TestEventsComeBackInOrderWithTheirLineNumbers(t *testing.T) {
	s, dir := openStore(t, Options{})
	l := create(t, s, jobA)
	for i := 1; i <= 500; i++ {
		if id, err := l.Append(number(i)); err != nil || id != uint64(i) {
			t.Fatalf("append %d: id %d, %v", i, id, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again := openStoreAt(t, dir, Options{})
	for _, store := range []*Store{s, again} {
		for _, after := range []uint64{0, 1, 250, 499, 500, 501} {
			got := drain(t, follow(t, store, jobA, after))
			if want := max(0, 500-int(after)); len(got) != want {
				t.Fatalf("after %d: %d events, want %d", after, len(got), want)
			}
			for i, e := range got {
				if e.ID != after+uint64(i)+1 || string(e.Event) != string(number(int(e.ID))) {
					t.Fatalf("after %d, entry %d: %d %s", after, i, e.ID, e.Event)
				}
			}
		}
	}
}

func TestReadersFollowAJobWhileItRuns(t *testing.T) {
	s, _ := openStore(t, Options{})
	l := create(t, s, jobA)
	const events, readers = 2000, 20
	var all sync.WaitGroup
	for i := range readers {
		r := follow(t, s, jobA, uint64(i))
		all.Go(func() {
			want := uint64(i)
			for {
				e, err := r.Next(t.Context())
				if err == io.EOF {
					break
				}
				want++
				if err != nil || e.ID != want || string(e.Event) != string(number(int(want))) {
					t.Errorf("reader %d: got %d %s %v, want %d", i, e.ID, e.Event, err, want)
					return
				}
			}
			if want != events {
				t.Errorf("reader %d ended at %d", i, want)
			}
		})
	}
	for i := 1; i <= events; i++ {
		appendAll(t, l, number(i))
	}
	l.Close()
	all.Wait()
}

func TestAReaderAheadOfTheLogWaitsForItsEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := openStore(t, Options{})
		l := create(t, s, jobA)
		r := follow(t, s, jobA, 2)
		got := make(chan Entry)
		go func() {
			e, err := r.Next(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- e
		}()
		appendAll(t, l, number(1), number(2))
		synctest.Wait()
		select {
		case e := <-got:
			t.Fatalf("got %d, which the reader has seen", e.ID)
		default:
		}
		appendAll(t, l, number(3))
		if e := <-got; e.ID != 3 {
			t.Fatalf("got %d, want 3", e.ID)
		}
	})
}

func TestNextCanBeRepeatedAfterItsContextEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := openStore(t, Options{})
		l := create(t, s, jobA)
		r := follow(t, s, jobA, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		appendAll(t, l, number(1))
		if _, err := r.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("an ended context reads: %v", err)
		}
		if e, err := r.Next(t.Context()); err != nil || e.ID != 1 {
			t.Fatalf("got %d, %v", e.ID, err)
		}
	})
}

func TestConcurrentAppendsGetDistinctIDs(t *testing.T) {
	s, _ := openStore(t, Options{})
	l := create(t, s, jobA)
	const writers, each = 8, 200
	var all sync.WaitGroup
	ids := make([][]uint64, writers)
	for w := range writers {
		all.Go(func() {
			for i := range each {
				id, err := l.Append(dreamcore.Event(fmt.Sprintf(`{"w":%d,"i":%d}`, w, i)))
				if err != nil {
					t.Error(err)
				}
				ids[w] = append(ids[w], id)
			}
		})
	}
	all.Wait()
	l.Close()
	got := drain(t, follow(t, s, jobA, 0))
	if len(got) != writers*each {
		t.Fatalf("%d events", len(got))
	}
	for w := range writers {
		for i, id := range ids[w] {
			if want := fmt.Sprintf(`{"w":%d,"i":%d}`, w, i); string(got[id-1].Event) != want {
				t.Fatalf("event %d is %s, want %s", id, got[id-1].Event, want)
			}
		}
	}
}

func TestAppendRefusesAnEventThatIsNotOneLine(t *testing.T) {
	s, dir := openStore(t, Options{})
	l := create(t, s, jobA)
	huge := dreamcore.Event(`{"a":"` + strings.Repeat("x", dreamcore.MaxEventBytes) + `"}`)
	for name, c := range map[string]struct {
		event dreamcore.Event
		code  dreamcore.Code
	}{
		"newline":         {dreamcore.Event("{\"a\":1,\n\"b\":2}"), dreamcore.CodeInvalid},
		"carriage return": {dreamcore.Event("{\"a\":1,\r\"b\":2}"), dreamcore.CodeInvalid},
		"empty":           {nil, dreamcore.CodeInvalid},
		"array":           {dreamcore.Event("[1]"), dreamcore.CodeInvalid},
		"text":            {dreamcore.Event("hello"), dreamcore.CodeInvalid},
		"too large":       {huge, dreamcore.CodeTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := l.Append(c.event)
			wantCode(t, err, c.code)
		})
	}
	if info, err := os.Stat(filepath.Join(dir, jobA+extension)); err != nil || info.Size() != 0 {
		t.Fatalf("refused events left %v, %v", info, err)
	}
}

func TestTheLargestEventIsReadBack(t *testing.T) {
	s, _ := openStore(t, Options{})
	l := create(t, s, jobA)
	largest := dreamcore.Event(`{"a":"` + strings.Repeat("x", dreamcore.MaxEventBytes-8) + `"}`)
	r := follow(t, s, jobA, 0)
	appendAll(t, l, number(1), largest, number(3), largest, dreamcore.DoneEvent())
	l.Close()
	got := drain(t, r)
	if len(got) != 5 || len(got[1].Event) != dreamcore.MaxEventBytes || string(got[3].Event) != string(largest) {
		t.Fatalf("%d events", len(got))
	}
	if cap(r.space) > maxIdleBuffer {
		t.Fatalf("the reader keeps %d bytes", cap(r.space))
	}
	if jobs, err := s.Unfinished(); err != nil || len(jobs) != 0 {
		t.Fatalf("unfinished %v, %v", jobs, err)
	}
}

func TestALineOverTheLimitIsNotReadIntoMemory(t *testing.T) {
	s, dir := openStore(t, Options{})
	line := strings.Repeat("x", 100<<10) + "\n"
	os.WriteFile(filepath.Join(dir, jobA+extension), []byte("{}\n"+line), fileMode)
	r := follow(t, s, jobA, 0)
	r.maxLine = 64 << 10
	if e, err := r.Next(t.Context()); err != nil || e.ID != 1 {
		t.Fatalf("%v, %v", e, err)
	}
	_, err := r.Next(t.Context())
	wantCode(t, err, dreamcore.CodeInternal)
	if cap(r.space) > 64<<10 {
		t.Fatalf("buffer of %d bytes", cap(r.space))
	}
}

func TestAFullLogStillTakesItsTerminalEvent(t *testing.T) {
	s, _ := openStore(t, Options{MaxLogBytes: 100})
	l := create(t, s, jobA)
	event := dreamcore.Event(`{"a":"` + strings.Repeat("x", 50) + `"}`)
	appendAll(t, l, event)
	_, err := l.Append(event)
	wantCode(t, err, dreamcore.CodeTooLarge)
	_, err = l.Append(dreamcore.Event(`{"type":"error","a":"` + strings.Repeat("x", 100<<10) + `"}`))
	wantCode(t, err, dreamcore.CodeTooLarge)
	if id, err := l.Append(dreamcore.DoneEvent()); err != nil || id != 2 {
		t.Fatalf("terminal event: %d, %v", id, err)
	}
}

func TestJobIDsAreUUIDs(t *testing.T) {
	s, _ := openStore(t, Options{})
	for _, id := range []string{"", "..", "../" + jobA, "{" + jobA + "}", "urn:uuid:" + jobA, strings.Repeat("a", 36), jobA + "\x00", strings.ReplaceAll(jobA, "-", "")} {
		_, err := s.Create(id)
		wantCode(t, err, dreamcore.CodeInvalid)
		_, err = s.Reader(id, 0)
		wantCode(t, err, dreamcore.CodeNotFound)
		_, err = s.Reopen(id)
		wantCode(t, err, dreamcore.CodeNotFound)
	}
	_, err := s.Reader(jobA, 0)
	wantCode(t, err, dreamcore.CodeNotFound)
	_, err = s.Reopen(jobA)
	wantCode(t, err, dreamcore.CodeNotFound)
	create(t, s, jobA)
	_, err = s.Create(jobA)
	wantCode(t, err, dreamcore.CodeConflict)
}

func TestAnIDInAnyCaseNamesOneLog(t *testing.T) {
	const lower = "abcdefab-cdef-4abc-8def-abcdefabcdef"
	s, _ := openStore(t, Options{})
	l := create(t, s, strings.ToUpper(lower))
	appendAll(t, l, number(1))
	if e, err := follow(t, s, lower, 0).Next(t.Context()); err != nil || e.ID != 1 {
		t.Fatal(e, err)
	}
	_, err := s.Reopen(lower)
	wantCode(t, err, dreamcore.CodeConflict)
	l.Close()
	if _, err := s.Reopen(strings.ToUpper(lower)); err != nil {
		t.Fatal(err)
	}
	_, err = s.Reopen(lower)
	wantCode(t, err, dreamcore.CodeConflict)
}

func TestAppendAfterCloseIsAnError(t *testing.T) {
	s, _ := openStore(t, Options{})
	l := create(t, s, jobA)
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Append(number(1)); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("got %v", err)
	}
}

func TestClosingTheStoreEndsItsReaders(t *testing.T) {
	s, _ := openStore(t, Options{})
	l := create(t, s, jobA)
	appendAll(t, l, number(1))
	r := follow(t, s, jobA, 0)
	ended := make(chan []Entry)
	go func() { ended <- drain(t, r) }()
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-ended; len(got) != 1 {
		t.Fatalf("%d events", len(got))
	}
	if _, err := s.Create(jobB); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("create: %v", err)
	}
	if _, err := s.Reader(jobA, 0); err == nil {
		t.Fatal("a closed store returned a reader")
	}
}

func TestTheLastEventOfAJob(t *testing.T) {
	s, dir := openStore(t, Options{})
	last := func(want string) {
		t.Helper()
		if e, err := s.Last(jobA); err != nil || string(e) != want {
			t.Errorf("the last event is %q, %v, want %q", e, err, want)
		}
	}
	if _, err := s.Last(jobA); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("an unknown job: %v", err)
	}
	l := create(t, s, jobA)
	last("")
	appendAll(t, l, number(1))
	last(`{"n":1}`)
	long := dreamcore.LogEvent(strings.Repeat("x", 3*readBuffer), "")
	appendAll(t, l, long)
	last(string(long))
	appendAll(t, l, dreamcore.DoneEvent())
	last(string(dreamcore.DoneEvent()))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	last(string(dreamcore.DoneEvent()))
	// A torn last line is not an event.
	if err := os.WriteFile(filepath.Join(dir, jobB+extension), []byte("{\"n\":1}\n{\"type\":\"do"), fileMode); err != nil {
		t.Fatal(err)
	}
	if e, err := s.Last(jobB); err != nil || string(e) != `{"n":1}` {
		t.Errorf("after a crash: %q, %v", e, err)
	}
}
