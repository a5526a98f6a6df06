package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Origin identifies everything that a CLI is started with and reads at its start,
// except for its token and the id of a new conversation. A CLI that was started from
// another origin must not be used.
type Origin string

// Sources are the files on the host behind a start.
type Sources struct {
	Project *os.Root // nil if it is not known yet
	Home    *os.Root // the same
	Skills  string   // directory of the skills; "" without skills
}

// maxSkillFiles bounds the files of the skills that are compared.
const maxSkillFiles = 4096

var errManySkills = fmt.Errorf("the skills have more than %d files", maxSkillFiles)

// Origin returns the origin of a start at a time. Processes of the agent's user must
// not run, except for the CLI that was started from it.
func (c Config) Origin(start Start, from Sources, now time.Time) (Origin, error) {
	h := sha256.New()
	conversation := SessionFile(start.Dir, start.Session.ID)
	if start.Token = ""; !start.Session.Resume {
		start.Session.ID, conversation = "", ""
	}
	cmd := c.command(start)
	fmt.Fprintf(h, "%q %q %q %d %d\n", cmd.Args, cmd.Env, cmd.Dir, cmd.UID, cmd.GID)
	// The CLI tells the model the date, perhaps in the time zone of this machine.
	fmt.Fprintf(h, "%s %s\n", now.UTC().Format(time.DateOnly), now.Format(time.DateOnly))
	var err error
	for _, root := range []*os.Root{from.Project, from.Home} {
		if root != nil {
			err = errors.Join(err, identify(h, root, "."))
		}
	}
	if conversation != "" {
		err = errors.Join(err, identify(h, from.Home, conversation))
	}
	if from.Skills != "" {
		err = errors.Join(err, describe(h, from.Skills))
	}
	return Origin(hex.EncodeToString(h.Sum(nil))), err
}

// identify adds which file or directory has a name, but not its content: the CLI
// itself writes to its home. A file that was replaced has another time of birth, where
// the file system knows it.
func identify(h hash.Hash, root *os.Root, name string) error {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return &fs.PathError{Op: "statx", Path: f.Name(), Err: err}
	}
	_, err = fmt.Fprintln(h, st.Dev_major, st.Dev_minor, st.Ino, st.Btime.Sec, st.Btime.Nsec)
	return err
}

// describe adds the files below a directory, which only the operator writes.
func describe(h hash.Hash, dir string) error {
	n := 0
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		if n++; n > maxSkillFiles {
			return errManySkills
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		_, err = fmt.Fprintf(h, "%q %d %d %d %d %d %d\n", path, st.Mode, st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
		return err
	})
}
