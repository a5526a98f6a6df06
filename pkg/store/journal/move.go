package journal

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Import takes over the log of a job of a user from another store, with the time of its
// last write. The job goes on here if it has no terminal event. CodeConflict: there is
// a log of this job; CodeInvalid: job is not a job; CodeTooLarge: the log is larger than
// logs can be.
func (s *Store) Import(job string, user dreamcore.UserID, modified time.Time, from io.Reader) error {
	name, err := fileName(job)
	if err != nil {
		return err
	}
	s.makeRoom()
	limit := s.opts.MaxLogBytes + terminalReserve
	var tooLarge bool
	var size int64
	err = statefile.Create(s.root, name, fileMode, func(f *os.File) error {
		var err error
		size, err = io.Copy(f, io.LimitReader(from, limit+1))
		if tooLarge = size > limit; tooLarge {
			err = errFull()
		}
		if err != nil {
			return err
		}
		_ = unix.Fsetxattr(int(f.Fd()), ownerAttribute, []byte(user), 0)
		written, err := s.root.Open(filepath.Base(f.Name())) // to read
		if err != nil {
			return err
		}
		ended, err := endsTerminal(written)
		if err = errors.Join(err, written.Close()); err != nil {
			return err
		}
		if !ended { // this process tells its end
			_ = unix.Fsetxattr(int(f.Fd()), untoldAttribute, []byte{1}, 0)
		}
		at := unix.NsecToTimeval(modified.UnixNano())
		return os.NewSyscallError("futimes", unix.Futimes(int(f.Fd()), []unix.Timeval{at, at}))
	})
	switch {
	case err == nil:
		s.room.grow(size)
		return nil
	case tooLarge:
		return errFull()
	case errors.Is(err, fs.ErrExist):
		job = strings.TrimSuffix(name, extension)
		return &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "job " + job + " already exists", Hint: "it is one of another user", Err: err}
	}
	return statefile.Error("write the log of job "+job, err)
}
