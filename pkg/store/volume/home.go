package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
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
	opened
	store   *Store
	user    dreamcore.UserID
	project string
}

// Home opens the home of the agent in a project and makes it if it is missing.
// It corrects an owner or mode that a sandbox changed. CodeTooLarge: the disk of
// the user is full. The caller must Close the Home after the sandboxes that mount
// it.
func (s *Store) Home(user dreamcore.UserID, project dreamcore.ProjectID) (*Home, error) {
	leave, err := s.enter(context.Background(), user, project, true)
	if err != nil {
		return nil, s.UserError("prepare the agent's home", err)
	}
	defer leave()
	notes, err := tree.MakeDirs(s.homes, string(user))
	if err != nil {
		return nil, tree.DiskError("prepare the homes of the user", err)
	}
	defer notes.Close()
	h, err := s.openHome(context.Background(), user, project, true)
	if err != nil {
		return nil, s.UserError("prepare the agent's home", err)
	}
	return h, nil
}

// FindHome opens the existing home of the agent in a project, or returns
// fs.ErrNotExist. The caller must Close the Home.
func (s *Store) FindHome(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (*Home, error) {
	if erasing, err := s.isErasing(user, project); err != nil || erasing {
		return nil, errors.Join(err, fs.ErrNotExist)
	}
	return s.openHome(ctx, user, project, false)
}

func (s *Store) openHome(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, create bool) (*Home, error) {
	homes, release, err := s.openHomes(ctx, user, create)
	if err != nil {
		return nil, err
	}
	var root *os.Root
	if create {
		root, err = s.makeOwned(homes, string(project), privateMode)
	} else {
		root, err = tree.OpenDirs(homes, string(project))
	}
	if err = errors.Join(err, homes.Close()); err != nil {
		release()
		return nil, err
	}
	return &Home{opened: opened{root: root, release: release}, store: s, user: user, project: string(project)}, nil
}

// openHomes opens the directory of a user's homes, which no sandbox can write to:
// in the file system of the user, or where the notes are. The caller must close
// root and then call release.
func (s *Store) openHomes(ctx context.Context, user dreamcore.UserID, create bool) (root *os.Root, release func(), err error) {
	open := tree.OpenDirs
	if create {
		open = tree.MakeDirs
	}
	if s.disks != nil {
		return s.openInUser(ctx, user, create, func(top *os.Root) (*os.Root, error) { return open(top, homesInDir) })
	}
	if create {
		if err := s.checkUnlimited(user); err != nil {
			return nil, nil, err
		}
	}
	if s.homes == nil {
		return nil, nil, fs.ErrNotExist
	}
	root, err = open(s.homes, string(user))
	return root, func() {}, err
}

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
	dir, err := tree.OpenDirs(h.store.homes, string(h.user))
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

func (h *Home) note() string { return path.Join(string(h.user), h.project+sessionExtension) }
