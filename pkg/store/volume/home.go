package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// sessionExtension marks the note next to a home that names its conversation.
// The note is not in the home, where the sandbox could change it.
const sessionExtension = ".session"

// Home is the HOME directory that the agent has in one project, and the host's
// note of its conversation.
type Home struct {
	closer
	store   *Store
	user    string
	project string
	path    string
}

// Home opens the home of the agent in a project and makes it if it is missing.
// It corrects an owner or mode that a sandbox changed. CodeTooLarge: the disk of
// the user is full. The caller must Close the Home after the sandboxes that mount
// it.
func (s *Store) Home(user dreamcore.UserID, project dreamcore.ProjectID) (*Home, error) {
	notes, err := tree.MakeDirs(s.homes, string(user))
	if err != nil {
		return nil, tree.DiskError("prepare the homes of the user", err)
	}
	defer notes.Close()
	root, release, err := s.openHome(notes, user, project)
	if err != nil {
		return nil, s.UserError("prepare the agent's home", err)
	}
	return s.newHome(root, release, user, project), nil
}

func (s *Store) newHome(root *os.Root, release func(), user dreamcore.UserID, project dreamcore.ProjectID) *Home {
	return &Home{closer: closer{root: root, release: release}, store: s, user: string(user), project: string(project), path: filepath.Clean(root.Name())}
}

// openHome opens the home, which is next to its note, or in the file system of
// the user.
func (s *Store) openHome(notes *os.Root, user dreamcore.UserID, project dreamcore.ProjectID) (root *os.Root, release func(), err error) {
	if s.disks == nil {
		if err := s.checkUnlimited(user); err != nil {
			return nil, nil, err
		}
		root, err = s.makeOwned(notes, string(project), privateMode)
		return root, func() {}, err
	}
	return s.openInUser(context.Background(), user, true, func(top *os.Root) (*os.Root, error) {
		return s.makeBelow(top, homesInDir, string(project), privateMode)
	})
}

// FindHome opens the existing home of the agent in a project, or returns
// fs.ErrNotExist. The caller must Close the Home.
func (s *Store) FindHome(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (*Home, error) {
	if s.disks == nil {
		dir, err := tree.OpenDirs(s.homes, path.Join(string(user), string(project)))
		if err != nil {
			return nil, err
		}
		return s.newHome(dir, func() {}, user, project), nil
	}
	dir, release, err := s.openInUser(ctx, user, false, func(top *os.Root) (*os.Root, error) {
		return tree.OpenDirs(top, path.Join(homesInDir, string(project)))
	})
	if err != nil {
		return nil, err
	}
	return s.newHome(dir, release, user, project), nil
}

// Path returns the absolute path of the home on the host, to be mounted.
func (h *Home) Path() string { return h.path }

// Root returns the home's directory. It belongs to the Home.
func (h *Home) Root() *os.Root { return h.root }

// Close closes the Home; its files stay. It may be called more than once.
func (h *Home) Close() error { return h.close() }

// Fill empties the home and fills it again. The caller must hold the Lock of the
// project and call Finish of the Filler.
func (h *Home) Fill() (*tree.Filler, error) {
	entries, err := fs.ReadDir(h.root.FS(), ".")
	for _, e := range entries {
		err = errors.Join(err, tree.RemoveAll(h.root, e.Name()))
	}
	if err != nil {
		return nil, tree.DiskError("empty the agent's home", err)
	}
	return tree.NewFiller(h.root, h.store.Owner()), nil
}

// Session returns the UUID of the conversation that SetSession noted, or "" if
// there is no note or it cannot be read.
func (h *Home) Session() string {
	f, _, err := tree.OpenBelow(h.store.homes, h.note())
	if err != nil {
		return ""
	}
	defer f.Close()
	const enough = 64 // bytes: a UUID and its line end
	data, err := io.ReadAll(io.LimitReader(f, enough))
	if err != nil {
		return ""
	}
	id := strings.TrimSpace(string(data))
	if uuid.Validate(id) != nil {
		return ""
	}
	return id
}

// SetSession notes the UUID of the project's conversation; "" removes the note.
func (h *Home) SetSession(id string) error {
	if id == "" {
		if err := tree.IgnoreMissing(h.store.homes.Remove(h.note())); err != nil {
			return tree.DiskError("forget the conversation", err)
		}
		return nil
	}
	if err := uuid.Validate(id); err != nil {
		return fmt.Errorf("note the conversation: %w", err)
	}
	dir, err := tree.OpenDirs(h.store.homes, h.user)
	if err == nil {
		err = tree.ReplaceFile(dir, path.Base(h.note()), fileMode, func(f *os.File) error {
			if _, err := f.WriteString(id + "\n"); err != nil {
				return err
			}
			return f.Sync()
		})
		err = errors.Join(err, dir.Close())
	}
	if err != nil {
		return tree.DiskError("note the conversation", err)
	}
	return nil
}

// Has reports whether the home has a regular file at the relative path name. A
// symbolic link does not count.
func (h *Home) Has(name string) bool {
	clean, err := tree.CleanPath(name)
	if err != nil {
		return false
	}
	dir, err := tree.OpenDirs(h.root, path.Dir(clean))
	if err != nil {
		return false
	}
	defer dir.Close()
	info, err := dir.Lstat(path.Base(clean))
	return err == nil && info.Mode().IsRegular()
}

func (h *Home) note() string { return path.Join(h.user, h.project+sessionExtension) }
