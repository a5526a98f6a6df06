// Package block keeps which users the operator has blocked: one file for each, named
// by the user's id. Every check looks at the disk, so that a block applies to all
// processes at once, and after every restart.
package block

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Block says since when a user is blocked, and why.
type Block struct {
	Since  time.Time `json:"since"`
	Reason string    `json:"reason,omitempty"` // the operator's own words
}

// MaxReason bounds the reason, in bytes.
const MaxReason = 1000

const fileMode = 0o600

// Store is the directory of blocks. Its methods are safe for concurrent use by
// several goroutines and processes.
type Store struct{ root *os.Root } // nil if Look has found nothing

// Open opens the blocks in dir, which it creates if needed. The caller must Close the
// Store.
func Open(dir string) (*Store, error) {
	root, err := statefile.OpenDir(dir)
	if err != nil {
		return nil, statefile.Error("open the directory of blocked users", err)
	}
	return &Store{root}, nil
}

// Look opens the blocks in dir to read them, and creates nothing: no user is blocked
// without the directory. The caller must Close the Store.
func Look(dir string) (*Store, error) {
	root, err := statefile.LookIn(dir)
	if err != nil {
		return nil, statefile.Error("open the directory of blocked users", err)
	}
	return &Store{root}, nil
}

// Close closes the Store.
func (s *Store) Close() error {
	if s.root == nil {
		return nil
	}
	return s.root.Close()
}

// Set blocks a user. A user who is blocked already stays so since then, with the new
// reason. CodeInvalid: the reason is too long.
func (s *Store) Set(user dreamcore.UserID, reason string, now time.Time) (Block, error) {
	if len(reason) > MaxReason {
		return Block{}, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the reason is too long", Hint: "shorten it to 1000 bytes"}
	}
	b, ok, err := s.Get(user)
	if err != nil {
		return b, err
	}
	if !ok {
		b.Since = now.UTC().Truncate(time.Second)
	}
	b.Reason = reason
	raw, err := json.Marshal(b)
	if err == nil {
		err = statefile.Replace(s.root, string(user), fileMode, statefile.Bytes(raw))
	}
	if err != nil {
		return b, statefile.Error("block the user", err)
	}
	return b, nil
}

// Remove removes the block of a user, and reports whether there was one.
func (s *Store) Remove(user dreamcore.UserID) (was bool, err error) {
	err = s.root.Remove(string(user))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = s.sync()
	}
	if err != nil {
		return true, statefile.Error("remove the block of the user", err)
	}
	return true, nil
}

func (s *Store) sync() error {
	d, err := s.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// maxFile is more than a block takes: each byte of the reason may be escaped.
const maxFile = 8 << 10

// Get returns the block of a user; ok is false if the user is not blocked. A user
// whose file is damaged is blocked.
func (s *Store) Get(user dreamcore.UserID) (b Block, ok bool, err error) {
	if s.root == nil {
		return b, false, nil
	}
	f, err := s.root.Open(string(user))
	if errors.Is(err, fs.ErrNotExist) {
		return b, false, nil
	}
	if err != nil {
		return b, false, statefile.Error("read the block of the user", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return b, false, statefile.Error("read the block of the user", err)
	}
	if json.Unmarshal(raw, &b) != nil {
		return Block{}, true, nil
	}
	return b, true, nil
}

// Check returns CodeBlocked if a user is blocked.
func (s *Store) Check(user dreamcore.UserID) error {
	if s.root == nil {
		return nil
	}
	_, err := s.root.Lstat(string(user))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return statefile.Error("check whether the user is blocked", err)
	}
	return &dreamcore.Error{Code: dreamcore.CodeBlocked, Message: "The user is blocked", Hint: "only the operator of the service can unblock the user"}
}

// Users returns the blocked users, sorted.
func (s *Store) Users() (users []dreamcore.UserID, err error) {
	if s.root == nil {
		return nil, nil
	}
	names, err := statefile.Names(s.root, func(name string) bool {
		id, err := dreamcore.ParseUserID(name)
		return err == nil && string(id) == name
	})
	if err != nil {
		return nil, statefile.Error("list the blocked users", err)
	}
	for _, name := range names {
		users = append(users, dreamcore.UserID(name))
	}
	return users, nil
}
