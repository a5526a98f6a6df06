package webhook

import (
	"errors"
	"log/slog"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// of reports whether a message is about a job of a user, or of one project of the
// user if project is not "".
func (m *message) of(user dreamcore.UserID, project dreamcore.ProjectID) bool {
	return m.User == user && (project == "" || m.Project == project)
}

// Forget removes the messages about jobs of a user, or of one project of the user:
// a record holds what the user has written. They are gone from the disk, also after a
// power cut; one that is being sent may still arrive.
func (s *Service) Forget(user dreamcore.UserID, project dreamcore.ProjectID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, h := range s.hosts {
		for i := len(h.messages) - 1; i >= 0; i-- {
			if m := h.messages[i]; m.of(user, project) {
				m.forgotten = true
				errs = append(errs, s.outbox.remove(m))
				h.remove(m)
				i = min(i, len(h.messages))
			}
		}
	}
	return errors.Join(append(errs, s.outbox.sync())...)
}

// Forget removes messages like Service.Forget from an outbox that no Service has open.
func Forget(dir string, user dreamcore.UserID, project dreamcore.ProjectID, log *slog.Logger) error {
	box, left, err := openOutbox(dir, log)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range left {
		if m.of(user, project) {
			errs = append(errs, box.remove(m))
		}
	}
	return errors.Join(append(errs, box.sync(), box.close())...)
}
