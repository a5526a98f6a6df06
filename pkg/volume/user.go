package volume

import (
	"errors"
	"path/filepath"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// passMode lets the sandbox's user go through a directory to what is its own,
// and see no names in it.
const passMode = 0o711

// User is what a sandbox that serves all projects of one user sees of them.
type User struct {
	projects, homes string
}

// User opens what belongs to a user and makes it where it is missing.
// CodeNotFound: there is no data volume. The caller must Close the User, after
// the sandbox that sees it.
func (s *Store) User(user dreamcore.UserID) (*User, error) {
	data, err := s.volume(Data)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	projects, err := makeDirs(data, usersDir, string(user), projectsDir)
	if err != nil {
		return nil, diskError("prepare the projects of the user", err)
	}
	defer projects.Close()
	homes, err := makeDirs(s.homes, string(user))
	if err != nil {
		return nil, diskError("prepare the homes of the user", err)
	}
	defer homes.Close()
	if err := errors.Join(projects.Chmod(".", passMode), homes.Chmod(".", passMode)); err != nil {
		return nil, diskError("prepare what belongs to the user", err)
	}
	return &User{projects: filepath.Clean(projects.Name()), homes: filepath.Clean(homes.Name())}, nil
}

// ProjectsPath is the directory on the host with the user's projects, to be
// mounted at /data/users/U/projects.
func (u *User) ProjectsPath() string { return u.projects }

// HomesPath is the directory on the host with the agent's homes, one for each
// project.
func (u *User) HomesPath() string { return u.homes }

// Close closes the User; the files stay.
func (u *User) Close() error { return nil }
