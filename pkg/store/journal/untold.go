package journal

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// untoldAttribute marks the file of a job whose end is still to be told to other
// programs. It is set while there is space and removed later, because a removal works
// on a full disk, too.
const untoldAttribute = "user.dreamcore.untold"

// SetUntold notes that the end of the job is to be told, until Told is called. A file
// system without extended attributes does not keep the note.
func (l *Log) SetUntold() { _ = unix.Fsetxattr(int(l.f.Fd()), untoldAttribute, []byte{1}, 0) }

// Told removes the note of SetUntold. A log that is gone or has no note is no error.
func (s *Store) Told(job string) error {
	name, err := fileName(job)
	if err != nil {
		return errNotFound(job, err)
	}
	f, err := s.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return statefile.Error("open the log of job "+job, err)
	}
	defer f.Close()
	if err := unix.Fremovexattr(int(f.Fd()), untoldAttribute); err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
		return statefile.Error("note that the end of job "+job+" was told", err)
	}
	return nil
}

func isUntold(f *os.File) bool {
	n, err := unix.Fgetxattr(int(f.Fd()), untoldAttribute, nil)
	return err == nil && n > 0
}
