package preview

import (
	"errors"
	"log/slog"
	"net"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// directory is a directory as the only project.
type directory string

func (d directory) Find(dreamcore.UserID, dreamcore.ProjectID) (*volume.Project, error) {
	return volume.OpenDirectory(string(d))
}

// OpenDirectory returns a Service for the game in the directory dir, a listener
// for it on a free port of loopback, and a link to the game. The game gets the
// restrictions of a preview, because the agent's code is not trusted. The caller
// must close the listener; Serve does that.
func OpenDirectory(dir string, user dreamcore.UserID, project dreamcore.ProjectID, log *slog.Logger) (_ *Service, _ net.Listener, link string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ln.Close())
		}
	}()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	s, err := New(Config{
		Place: Place{Scheme: "http", Host: Localhost, Port: port},
		Key:   secret.NewInternalSecret(), Projects: directory(dir), Logger: log,
	})
	if err != nil {
		return nil, nil, "", err
	}
	link, _, err = s.Link(user, project, MaxLifetime)
	return s, ln, link, err
}
