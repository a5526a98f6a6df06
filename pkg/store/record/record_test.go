package record

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	bolt "go.etcd.io/bbolt"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func open1(t testing.TB, path string, o Options) *Store {
	t.Helper()
	s, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newStore(t testing.TB, o Options) *Store {
	t.Helper()
	return open1(t, filepath.Join(t.TempDir(), "index.db"), o)
}

var began = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func userID(n int) dreamcore.UserID {
	return dreamcore.UserID(fmt.Sprintf("%08d-0000-4000-8000-000000000001", n))
}
func projectID(n int) dreamcore.ProjectID {
	return dreamcore.ProjectID(fmt.Sprintf("%08d-0000-4000-8000-000000000002", n))
}

func row(n int, user, project int, state dreamcore.JobState) Row {
	return Row{Job: dreamcore.Job{
		ID: uuid.NewString(), User: userID(user), Project: projectID(project), State: state, Prompt: fmt.Sprint("prompt ", n),
		Created: began.Add(time.Duration(n) * time.Second), Cost: dreamcore.Dollars(n) * 1000,
	}}
}

// all pages through a list.
func all(t *testing.T, s *Store, f dreamcore.JobFilter) (ids []string) {
	t.Helper()
	for {
		rows, more, err := s.List(f, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			ids = append(ids, r.ID)
		}
		if !more {
			return ids
		}
		if len(rows) != f.Limit {
			t.Fatalf("a page of %d, and more follow", len(rows))
		}
		f.Cursor = PositionOf(rows[len(rows)-1].Job).Cursor()
	}
}

func TestEveryFilterFindsItsRowsInOrder(t *testing.T) {
	s := newStore(t, Options{})
	var rows []Row
	for n := range 300 {
		r := row(n/2, rand.IntN(3), rand.IntN(3), states[rand.IntN(5)]) // two have each time
		rows = append(rows, r)
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	// A row that changes its state is found under the new one only.
	for i := range 100 {
		rows[i].State = states[rand.IntN(5)]
		if err := s.Put(rows[i]); err != nil {
			t.Fatal(err)
		}
	}
	slices.SortFunc(rows, func(a, b Row) int {
		if PositionOf(a.Job).Before(PositionOf(b.Job)) {
			return 1
		}
		return -1
	})
	since, until := began.Add(20*time.Second), began.Add(100*time.Second)
	for i := range 1 << 5 {
		f := dreamcore.JobFilter{Limit: 1 + rand.IntN(40)}
		if i&1 > 0 {
			f.User = userID(1)
		}
		if i&2 > 0 {
			f.Project = projectID(2)
		}
		if i&4 > 0 {
			f.State = dreamcore.JobFailed
		}
		if i&8 > 0 {
			f.Since = since
		}
		if i&16 > 0 {
			f.Until = until
		}
		var want []string
		for _, r := range rows {
			if (f.User == "" || r.User == f.User) && (f.Project == "" || r.Project == f.Project) && (f.State == "" || r.State == f.State) &&
				!r.Created.Before(f.Since) && (f.Until.IsZero() || r.Created.Before(f.Until)) {
				want = append(want, r.ID)
			}
		}
		if got := all(t, s, f); !slices.Equal(got, want) {
			t.Errorf("%+v: %d rows, want %d", f, len(got), len(want))
		}
	}
}

func TestPagesStayWhenRowsAreAdded(t *testing.T) {
	s := newStore(t, Options{})
	var want []string
	for n := range 10 {
		r := row(n, 1, 1, dreamcore.JobSucceeded)
		want = append([]string{r.ID}, want...)
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	first, more, err := s.List(dreamcore.JobFilter{Limit: 4}, nil)
	if err != nil || !more || len(first) != 4 {
		t.Fatal(len(first), more, err)
	}
	if err := s.Put(row(100, 1, 1, dreamcore.JobQueued)); err != nil {
		t.Fatal(err)
	}
	rest := all(t, s, dreamcore.JobFilter{Limit: 4, Cursor: PositionOf(first[3].Job).Cursor()})
	if !slices.Equal(rest, want[4:]) {
		t.Errorf("%v, want %v", rest, want[4:])
	}
	for _, cursor := range []string{"x", "!", PositionOf(first[0].Job).Cursor() + "AA", "_____________________w"} {
		if _, _, err := s.List(dreamcore.JobFilter{Limit: 1, Cursor: cursor}, nil); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("cursor %q: %v", cursor, err)
		}
	}
}

func TestExpiredRowsAreRememberedUpToABound(t *testing.T) {
	s := newStore(t, Options{Graves: 3})
	var ids []string
	for n := range 5 {
		r := row(n, 1, 1, dreamcore.JobSucceeded)
		r.Key = []byte{byte(n)}
		ids = append(ids, r.ID)
		if err := errors.Join(s.Put(r), s.Expire(r.ID), s.Expire(r.ID)); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := s.ByKey(r.User, r.Key); ok || err != nil {
			t.Errorf("the key of an expired job: %v, %v", ok, err)
		}
	}
	for i, id := range ids {
		_, err := s.Get(id)
		if expired := dreamcore.ReasonOf(err) == ReasonExpired; dreamcore.CodeOf(err) != dreamcore.CodeNotFound || expired != (i >= 2) {
			t.Errorf("job %d: %v", i, err)
		}
	}
	if err := s.Remove(ids...); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ids[4]); dreamcore.ReasonOf(err) == ReasonExpired {
		t.Error("a removed job has expired")
	}
	if got := all(t, s, dreamcore.JobFilter{Limit: 9}); len(got) != 0 {
		t.Errorf("rows remain: %v", got)
	}
}

func TestKeysBelongToUsers(t *testing.T) {
	s := newStore(t, Options{})
	r := row(1, 1, 1, dreamcore.JobSucceeded)
	r.Key, r.Digest = []byte("hash"), []byte("digest")
	if err := s.Put(r); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := s.ByKey(r.User, r.Key); err != nil || !ok || got.ID != r.ID || string(got.Digest) != "digest" {
		t.Errorf("%+v, %v, %v", got, ok, err)
	}
	if _, ok, err := s.ByKey(userID(2), r.Key); ok || err != nil {
		t.Errorf("of another user: %v, %v", ok, err)
	}
}

func TestRowsOutliveTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "index.db")
	s := open1(t, path, Options{})
	if !s.Fresh() {
		t.Error("a new index is not fresh")
	}
	r := row(1, 1, 1, dreamcore.JobRunning)
	if err := errors.Join(s.Put(r), s.Complete(), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = open1(t, path, Options{})
	left, err := s.Unfinished()
	if err != nil || len(left) != 1 || left[0].ID != r.ID || s.Fresh() {
		t.Errorf("%v, %v, fresh %v", left, err, s.Fresh())
	}
}

func TestADamagedFileIsSetAside(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"other": func(path string) error {
			return os.WriteFile(path, []byte("this is not an index of jobs, whatever its name says"), 0o600)
		},
		"empty pages": func(path string) error {
			info, err := os.Stat(path)
			return errors.Join(err, os.WriteFile(path, make([]byte, info.Size()), 0o600))
		},
		"another version": func(path string) error {
			db, err := bolt.Open(path, 0o600, nil)
			if err != nil {
				return err
			}
			return errors.Join(db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketState).Put(keyFormat, []byte("0")) }), db.Close())
		},
		"cut": func(path string) error { return os.Truncate(path, 3*int64(os.Getpagesize())) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "index.db")
			s := open1(t, path, Options{})
			for n := range 200 {
				if err := s.Put(row(n, 1, n, dreamcore.JobSucceeded)); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(s.Complete(), s.Close(), damage(path)); err != nil {
				t.Fatal(err)
			}
			s = open1(t, path, Options{})
			if got := all(t, s, dreamcore.JobFilter{Limit: 500}); len(got) != 0 || !s.Fresh() {
				t.Errorf("%d rows, fresh %v", len(got), s.Fresh())
			}
			if err := s.Put(row(1, 1, 1, dreamcore.JobQueued)); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(path + asideExtension); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAnIndexThatBreaksWhileItIsUsedIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "index.db")
	damaged := make(chan error, 1)
	s := open1(t, path, Options{Damaged: func(cause error) { damaged <- cause }})
	for n := range 50 {
		if err := s.Put(row(n, 1, n, dreamcore.JobSucceeded)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Complete(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	page := int64(os.Getpagesize()) // the first two are the heads of the file
	if _, err := f.WriteAt(slices.Repeat([]byte{0xa5}, int(info.Size()-2*page)), 2*page); err != nil {
		t.Fatal(err)
	}
	if got := all(t, s, dreamcore.JobFilter{Limit: 100}); len(got) != 0 {
		t.Errorf("%d rows", len(got))
	}
	select {
	case cause := <-damaged:
		t.Log(cause)
	default:
		t.Error("the damage was not reported")
	}
	r := row(1, 1, 1, dreamcore.JobQueued)
	if err := s.Put(r); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(r.ID); err != nil || got.ID != r.ID || !s.Fresh() {
		t.Errorf("%v, %v", got, err)
	}
}

// filled returns the path of an index with n rows.
func filled(b *testing.B, n int) string {
	path := filepath.Join(b.TempDir(), "index.db")
	s, err := Open(path, Options{})
	if err != nil {
		b.Fatal(err)
	}
	rows := make([]Row, 0, 1000)
	for i := range n {
		r := row(i, i%1000, i%5000, states[2+i%3])
		r.Prompt = fmt.Sprintf("%0500d", i)
		if rows = append(rows, r); len(rows) == cap(rows) || i == n-1 {
			if err := s.Put(rows...); err != nil {
				b.Fatal(err)
			}
			rows = rows[:0]
		}
	}
	if err := errors.Join(s.Complete(), s.Close()); err != nil {
		b.Fatal(err)
	}
	return path
}

func BenchmarkFirstPageOf100000(b *testing.B) {
	s := open1(b, filled(b, 100_000), Options{})
	for name, f := range map[string]dreamcore.JobFilter{
		"all": {}, "user": {User: userID(7)}, "project": {Project: projectID(7)}, "failed": {State: dreamcore.JobFailed},
		"user failed": {User: userID(7), State: dreamcore.JobFailed}, "user queued": {User: userID(7), State: dreamcore.JobQueued},
	} {
		f.Limit = 50
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := s.List(f, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{0, 100_000} {
		path := filled(b, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				s, err := Open(path, Options{})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.Unfinished(); err != nil {
					b.Fatal(err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPut(b *testing.B) {
	s := open1(b, filled(b, 100_000), Options{})
	r := row(1, 1, 1, dreamcore.JobQueued)
	for i := 0; b.Loop(); i++ {
		r.State = states[i%5]
		if err := s.Put(r); err != nil {
			b.Fatal(err)
		}
	}
}
