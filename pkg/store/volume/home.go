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
)

// sessionExtension marks the file beside a home that names its conversation.
// It is not in the home, where the sandbox could change it.
const sessionExtension = ".session"

// Home is the HOME directory that the agent has in one project, and what the
// host remembers about it.
type Home struct {
	closer
	store   *Store
	user    string
	project string
	path    string
}

// Home makes the home of the agent in a project where it is missing, and puts
// right what a sandbox changed about its owner and mode. CodeTooLarge: the
// disk of the user is full. The caller must Close the Home, after the sandboxes
// that it is mounted in.
func (s *Store) Home(user dreamcore.UserID, project dreamcore.ProjectID) (*Home, error) {
	notes, err := makeDirs(s.homes, string(user))
	if err != nil {
		return nil, diskError("prepare the homes of the user", err)
	}
	defer notes.Close()
	root, release, err := s.openHome(notes, user, project)
	if err != nil {
		return nil, s.userError("prepare the agent's home", err)
	}
	return &Home{
		closer: closer{root: root, release: release}, store: s,
		user: string(user), project: string(project), path: filepath.Clean(root.Name()),
	}, nil
}

// openHome opens the home, which is beside its note, or in the file system of
// the user.
func (s *Store) openHome(notes *os.Root, user dreamcore.UserID, project dreamcore.ProjectID) (root *os.Root, release func(), err error) {
	if s.disks == nil {
		if err := s.checkUnbounded(user); err != nil {
			return nil, nil, err
		}
		root, err = s.makeOwned(notes, string(project), privateMode)
		return root, func() {}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), openLimit)
	defer cancel()
	top, release, err := s.openUser(ctx, user, true)
	if err != nil {
		return nil, nil, err
	}
	root, err = s.makeBelow(top, homesInDir, string(project), privateMode)
	if err != nil {
		release()
	}
	return root, release, err
}

// Path returns the absolute path of the home on the host, to be mounted.
func (h *Home) Path() string { return h.path }

// Close closes the Home; its files stay. It may be called more than once.
func (h *Home) Close() error { return h.close() }

// Session returns the UUID of the conversation that SetSession noted, or ""
// when there is none or the note cannot be read.
func (h *Home) Session() string {
	dir, err := openDirs(h.store.homes, h.user)
	if err != nil {
		return ""
	}
	defer dir.Close()
	f, _, err := openRegular(dir, path.Base(h.note()))
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

// SetSession notes the UUID of the project's conversation; "" forgets it.
func (h *Home) SetSession(id string) error {
	if id == "" {
		if err := h.store.homes.Remove(h.note()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return diskError("forget the conversation", err)
		}
		return nil
	}
	if err := uuid.Validate(id); err != nil {
		return fmt.Errorf("note the conversation: %w", err)
	}
	temp := h.note() + "-" + uuid.NewString()
	if err := h.replace(temp, id+"\n"); err != nil {
		return diskError("note the conversation", errors.Join(err, ignoreMissing(h.store.homes.Remove(temp))))
	}
	return nil
}

func (h *Home) replace(temp, text string) error {
	f, err := h.store.homes.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return h.store.homes.Rename(temp, h.note())
}

// Has tells whether the home has a regular file at name, a path relative to
// it. Symbolic links count as nothing.
func (h *Home) Has(name string) bool {
	clean, err := cleanPath(name)
	if err != nil {
		return false
	}
	dir, err := openDirs(h.root, path.Dir(clean))
	if err != nil {
		return false
	}
	defer dir.Close()
	info, err := dir.Lstat(path.Base(clean))
	return err == nil && info.Mode().IsRegular()
}

func (h *Home) note() string { return path.Join(h.user, h.project+sessionExtension) }

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
