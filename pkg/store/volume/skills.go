package volume

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// ShowSkills makes the skills of the global volume visible in a project as
// dreamcore.SkillsLink, until hide is called. Sandboxes mount the volume
// read-only, so the agent can remove the link but not change its target. A
// project that has something else at this path keeps it, and so does one whose
// .claude is not a directory. Without skills there is no link. The caller must
// hold the Lock of the project, and no process may be running in it.
func (s *Store) ShowSkills(p *Project) (hide func() error, err error) {
	hide = func() error { return nil }
	if !s.hasSkills() {
		return hide, hideSkills(p.root, false) // left by a job that was killed
	}
	// A job that was killed leaves a directory that is not part of the project.
	keep := !tree.AddedByJob(p.root, dreamcore.ConfigDir, dreamcore.ConfigDir)
	dir, err := tree.OpenDir(p.root, dreamcore.ConfigDir)
	if errors.Is(err, fs.ErrNotExist) {
		keep = false
		if dir, err = s.makeOwned(p.root, dreamcore.ConfigDir, sharedMode); err != nil {
			return hide, tree.DiskError("make the directory of the skills", err)
		}
	}
	if err != nil {
		return hide, nil // the project has something else there
	}
	defer dir.Close()
	name := path.Base(dreamcore.SkillsLink)
	err = dir.Symlink(dreamcore.SkillsTarget, name)
	if err == nil {
		err = dir.Lchown(name, s.opts.UID, s.opts.GID)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return hide, errors.Join(tree.DiskError("link the skills", err), hideSkills(p.root, keep))
	}
	return func() error {
		err := hideSkills(p.root, keep)
		if !keep { // the agent may have removed the link alone
			err = errors.Join(err, removeEmpty(p.root, dreamcore.ConfigDir))
		}
		return err
	}, nil
}

// hasSkills reports whether the global volume has a directory for skills.
func (s *Store) hasSkills() bool {
	root, err := s.OpenVolume(Global)
	if err != nil {
		return false
	}
	defer root.Close()
	dir, err := tree.OpenDirs(root, dreamcore.SkillsLink)
	if err != nil {
		return false
	}
	return dir.Close() == nil
}

// hideSkills removes the link that a job made. It also removes the directory of
// the link if that is empty then, unless keep is set. Files that the agent made in
// their place stay.
func hideSkills(root *os.Root, keep bool) error {
	dir, err := tree.OpenDir(root, dreamcore.ConfigDir)
	if err != nil {
		return nil // removed, or replaced by the agent
	}
	defer dir.Close()
	name := path.Base(dreamcore.SkillsLink)
	if !tree.AddedByJob(dir, name, dreamcore.SkillsLink) {
		return nil
	}
	if err := dir.Remove(name); err != nil {
		return tree.DiskError("remove the link to the skills", err)
	}
	if keep {
		return nil
	}
	return removeEmpty(root, dreamcore.ConfigDir)
}

// removeEmpty removes a directory if it is empty.
func removeEmpty(root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err != nil || !info.IsDir() {
		return nil
	}
	err = root.Remove(name)
	if err == nil || errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return tree.DiskError("remove the directory "+name, err)
}
