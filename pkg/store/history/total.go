package history

import (
	"path/filepath"
	"sync"
	"time"
)

const (
	// totalAge is for how long a total holds: another process may change histories too.
	totalAge = 10 * time.Minute
	// maxTotals bounds the repositories of all users whose sizes are kept; each takes
	// about 100 bytes.
	maxTotals = 200_000
)

// totals keep how much the histories of users take together, so that a version of one of
// a user's projects costs the same however many the user has. The zero value is ready.
type totals struct {
	mu    sync.Mutex
	users map[string]*total // by directory; guarded by mu
	repos int               // in all of them; guarded by mu
}

type total struct {
	sizes map[string]int64 // by name of the repository
	bytes int64
	since time.Time
}

// change stores the size of one repository and returns the total of its user. ok is false
// if the total is unknown or old and must be counted again.
func (t *totals) change(dir, name string, size int64) (bytes int64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.users[dir]
	if u == nil || time.Since(u.since) > totalAge {
		return 0, false
	}
	before, known := u.sizes[name]
	if !known {
		t.repos++
	}
	u.sizes[name] = size
	u.bytes += size - before
	return u.bytes, true
}

// set stores the sizes of all repositories of a user, by path.
func (t *totals) set(dir string, sizes map[string]int64) {
	u := &total{sizes: make(map[string]int64, len(sizes)), since: time.Now()}
	for path, size := range sizes {
		u.sizes[filepath.Base(path)] = size
		u.bytes += size
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(dir)
	if t.repos+len(sizes) > maxTotals {
		clear(t.users)
		t.repos = 0
	}
	if len(sizes) > maxTotals {
		return
	}
	if t.users == nil {
		t.users = map[string]*total{}
	}
	t.users[dir] = u
	t.repos += len(sizes)
}

// forget removes the entry of a user.
func (t *totals) forget(dir string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(dir)
}

// drop is forget with mu held.
func (t *totals) drop(dir string) {
	if u := t.users[dir]; u != nil {
		t.repos -= len(u.sizes)
		delete(t.users, dir)
	}
}
