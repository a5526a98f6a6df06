package volume

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

const (
	scratchDir    = ".checks"
	scratchMaxAge = time.Hour
)

// Scratch makes an empty directory in the data volume, owned by the sandbox's
// user, for one check. id is a new UUID. path is absolute on the host; remove
// deletes the directory and may be called more than once. Scratch also removes
// the directories that a crash left more than an hour ago.
func (s *Store) Scratch(id string) (path string, remove func() error, err error) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return "", nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid id of a check: must be UUID format", Hint: "use a new random UUID", Err: err}
	}
	id = parsed.String()
	data, err := s.OpenVolume(Data)
	if err != nil {
		return "", nil, err
	}
	defer data.Close()
	checks, err := tree.MakeDirs(data, scratchDir)
	if err != nil {
		return "", nil, tree.DiskError("prepare the directory of checks", err)
	}
	defer checks.Close()
	if err := sweep(checks, time.Now().Add(-scratchMaxAge)); err != nil {
		return "", nil, tree.DiskError("remove old checks", err)
	}
	if _, err := checks.Lstat(id); !errors.Is(err, fs.ErrNotExist) {
		return "", nil, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the check " + id + " exists already", Hint: "use a new random UUID", Err: err}
	}
	dir, err := s.makeOwned(checks, id, sharedMode)
	if err != nil {
		return "", nil, tree.DiskError("prepare a check", errors.Join(err, checks.RemoveAll(id)))
	}
	return filepath.Clean(dir.Name()), func() error { return s.removeScratch(id) }, dir.Close()
}

func (s *Store) removeScratch(id string) error {
	data, err := s.OpenVolume(Data)
	if err != nil {
		return err
	}
	defer data.Close()
	checks, err := tree.OpenDir(data, scratchDir)
	if err == nil {
		defer checks.Close()
		err = checks.RemoveAll(id)
	}
	if err != nil {
		return tree.DiskError("remove a check", err)
	}
	return nil
}

// sweep removes the directories that are older than a time. Their age is that of
// the last status change (ctime), which no sandbox can set.
func sweep(checks *os.Root, olderThan time.Time) error {
	entries, err := fs.ReadDir(checks.FS(), ".")
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || time.Unix(info.Sys().(*syscall.Stat_t).Ctim.Unix()).After(olderThan) {
			continue // removed meanwhile, or in use
		}
		errs = append(errs, checks.RemoveAll(e.Name()))
	}
	return errors.Join(errs...)
}
