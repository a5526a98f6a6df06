// Package residence keeps which users and slots are moving between the cells of a
// cluster, or have moved: one file for each, named by the user's id or the slot. A user
// without a file lives here, or nowhere yet.
//
// A move passes these states, in the cell that the user leaves and in the one that the
// user comes to:
//
//	source   (none) → leaving → left → (none, after the copy was erased)
//	target   (none) → arriving → arrived → (none)
//
// Until the map of cells names the target, the source has the user; see
// pkg/cluster/move. A slot has marks as well, which hold for its users without one:
// so a user who is new is made in one cell only.
package residence

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// State says what a cell has of a user, and what it may do with it.
type State string

// The states. Reads are answered in Leaving, Arrived and Here, changes in Here only.
const (
	Leaving  State = "leaving"  // the user's files do not change, so that they can be copied
	Left     State = "left"     // another cell has the user; the copy here is erased later
	Arriving State = "arriving" // a copy is being made; it may be incomplete
	Arrived  State = "arrived"  // a complete copy, which the map does not name yet
	Here     State = "here"     // lives here, although the slot has left
	Damaged  State = "damaged"  // the mark cannot be read: nothing is answered
)

// Mark is the stored state of a user or a slot.
type Mark struct {
	State State     `json:"state"`
	Cell  string    `json:"cell,omitempty"` // where to, or where from
	Since time.Time `json:"since"`
	// Digest is the SHA-256 of the archive that has arrived, in hexadecimal digits.
	Digest string `json:"digest,omitempty"`
	// Move is the id of the move that has begun it: what has arrived is up to date only
	// if the source still waits for the end of the same move.
	Move   string `json:"move,omitempty"`
	Erased bool   `json:"erased,omitempty"` // nothing is here any more
}

// Subject is what moves: a user, or a slot with all of its users.
type Subject struct {
	User dreamcore.UserID // "" for a slot
	Slot int
}

const slotPrefix = "slot-"

// String returns the form that ParseSubject takes.
func (s Subject) String() string {
	if s.User != "" {
		return string(s.User)
	}
	return slotPrefix + strconv.Itoa(s.Slot)
}

// Has reports whether a user is the subject or belongs to it.
func (s Subject) Has(user dreamcore.UserID) bool {
	return s.User == user || s.User == "" && user.Slot() == s.Slot
}

// ParseSubject parses the id of a user, or a slot: slot-17.
func ParseSubject(text string) (Subject, error) {
	if number, ok := strings.CutPrefix(text, slotPrefix); ok {
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 || n >= dreamcore.Slots || strconv.Itoa(n) != number {
			return Subject{}, &dreamcore.Error{
				Code: dreamcore.CodeInvalid, Message: "Invalid slot: must be slot-0 to slot-" + strconv.Itoa(dreamcore.Slots-1),
			}
		}
		return Subject{Slot: n}, nil
	}
	user, err := dreamcore.ParseUserID(text)
	return Subject{User: user}, err
}

// Store is the directory of marks. One process at a time changes them, the owner; the
// other ones, which are commands of an operator, read a mark again each time they are
// asked for it, because a move can begin at any time. Its methods are safe for concurrent
// use.
type Store struct {
	root *os.Root // nil if Look has found nothing

	mu    sync.RWMutex
	owned bool             // guarded by mu
	marks map[Subject]Mark // all, or those at the start if it is not owned; guarded by mu
}

const (
	fileMode = 0o600
	maxFile  = 4 << 10 // bytes of a mark
)

// Open opens the marks in dir, which it creates if needed. The caller must Close the
// Store.
func Open(dir string) (*Store, error) { return open(dir, statefile.OpenDir) }

// Look opens the marks in dir to read them, and creates nothing. The caller must Close
// the Store.
func Look(dir string) (*Store, error) { return open(dir, statefile.LookIn) }

func open(dir string, openDir func(string) (*os.Root, error)) (*Store, error) {
	root, err := openDir(dir)
	if err != nil {
		return nil, statefile.Error("open the directory of moves", err)
	}
	s := &Store{root: root, marks: map[Subject]Mark{}}
	if root == nil {
		return s, nil
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return s, nil
}

// load reads all marks. It must be called with mu held, or before the Store is used.
func (s *Store) load() error {
	names, err := statefile.Names(s.root, func(name string) bool {
		subject, err := ParseSubject(name)
		return err == nil && subject.String() == name
	})
	if err != nil {
		return statefile.Error("read the moves of users", err)
	}
	clear(s.marks)
	for _, name := range names {
		subject, _ := ParseSubject(name)
		if m, ok := s.read(name); ok {
			s.marks[subject] = m
		}
	}
	return nil
}

// Own makes this process the one that changes the marks, which the owner before it may
// have changed until now.
func (s *Store) Own() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.root == nil {
		return nil
	}
	err := s.load()
	s.owned = err == nil
	return err
}

// read returns a mark, Damaged if it cannot be read: that holds for its subject only. ok
// is false if there is none.
func (s *Store) read(name string) (m Mark, ok bool) {
	damaged := Mark{State: Damaged}
	f, err := s.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		if _, err := s.root.Lstat(name); errors.Is(err, fs.ErrNotExist) { // not so for a link to nothing
			return Mark{}, false
		}
		return damaged, true
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil || json.Unmarshal(raw, &m) != nil {
		return damaged, true
	}
	switch m.State {
	case Leaving, Left, Arriving, Arrived, Here:
		return m, true
	}
	return damaged, true
}

// Close closes the Store.
func (s *Store) Close() error {
	if s.root == nil {
		return nil
	}
	return s.root.Close()
}

// Set notes the mark of a subject, which is on the disk when it returns.
func (s *Store) Set(subject Subject, m Mark) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, err := json.Marshal(m)
	if err == nil {
		err = statefile.Replace(s.root, subject.String(), fileMode, statefile.Bytes(raw))
	}
	if err != nil {
		return statefile.Error("note the move", err)
	}
	s.marks[subject] = m
	return nil
}

// Remove removes the mark of a subject. A subject without one is no error.
func (s *Store) Remove(subject Subject) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.marks[subject]; !ok {
		return nil
	}
	err := s.root.Remove(subject.String())
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		var d *os.File
		if d, err = s.root.Open("."); err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
	}
	if err != nil {
		return statefile.Error("remove the note of the move", err)
	}
	delete(s.marks, subject)
	return nil
}

// Get returns the own mark of a subject.
func (s *Store) Get(subject Subject) (m Mark, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.get(subject)
}

// get is Get with mu held.
func (s *Store) get(subject Subject) (m Mark, ok bool) {
	if !s.owned && s.root != nil {
		return s.read(subject.String())
	}
	m, ok = s.marks[subject]
	return m, ok
}

// None reports whether there are no marks: no user has ever moved.
func (s *Store) None() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.marks) == 0
}

// All returns every mark.
func (s *Store) All() map[Subject]Mark {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make(map[Subject]Mark, len(s.marks))
	for subject, m := range s.marks {
		all[subject] = m
	}
	return all
}

// Of returns the mark that holds for a user: the user's own, else that of the slot. The
// state of a user without one is "".
func (s *Store) Of(user dreamcore.UserID) Mark {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.owned && len(s.marks) == 0 {
		return Mark{}
	}
	m, ok := s.get(Subject{User: user})
	if !ok {
		m, _ = s.get(Subject{Slot: user.Slot()})
	}
	return m
}

// CheckRead returns CodeMoving if nothing of a user may be answered here.
func (s *Store) CheckRead(user dreamcore.UserID) error {
	switch s.Of(user).State {
	case "", Here, Leaving, Arrived:
		return nil
	}
	return errElsewhere()
}

// CheckChange returns CodeMoving if nothing of a user may change here, and no job may
// run.
func (s *Store) CheckChange(user dreamcore.UserID) error {
	switch s.Of(user).State {
	case "", Here:
		return nil
	case Leaving, Arrived:
		return &dreamcore.Error{Code: dreamcore.CodeMoving, Message: "The user is being moved to another cell", Hint: "send the request again after the time in Retry-After"}
	}
	return errElsewhere()
}

// Admit is CheckRead or, with change, CheckChange for the stores of this cell: they also
// let a copy of a user be made.
func (s *Store) Admit(user dreamcore.UserID, change bool) error {
	switch {
	case s.Of(user).State == Arriving:
		return nil
	case change:
		return s.CheckChange(user)
	}
	return s.CheckRead(user)
}

func errElsewhere() error {
	return &dreamcore.Error{Code: dreamcore.CodeMoving, Message: "The user lives in another cell", Hint: "send the request to the router"}
}

// Lists reports whether a user is in the lists of this cell: of the two copies of a
// user who moves, one is.
func (s *Store) Lists(user dreamcore.UserID) bool {
	switch s.Of(user).State {
	case "", Here, Leaving:
		return true
	}
	return false
}
