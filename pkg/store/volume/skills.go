package volume

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// ShowSkills makes the skills of the global volume visible in a project as
// dreamcore.SkillsLink, until hide is called. A sandbox has the volume
// read-only, so the agent can remove the link but not change what it leads to.
// A project that has something else at this path keeps it, and so does one
// whose .claude is no directory. Without skills there is no link. The caller
// holds the Lock of the project, and no process may be running in it.
func (s *Store) ShowSkills(p *Project) (hide func() error, err error) {
	hide = func() error { return nil }
	if !s.hasSkills() {
		return hide, hideSkills(p.root, false) // of a job that was killed
	}
	// A job that was killed leaves a directory that is not the project's.
	kept := !isJobs(p.root, dreamcore.ConfigDir, dreamcore.ConfigDir)
	dir, err := openDir(p.root, dreamcore.ConfigDir)
	if errors.Is(err, fs.ErrNotExist) {
		kept = false
		if dir, err = s.makeOwned(p.root, dreamcore.ConfigDir, sharedMode); err != nil {
			return hide, diskError("make the directory of the skills", err)
		}
	}
	if err != nil {
		return hide, nil // the project's own, and no directory
	}
	defer dir.Close()
	name := path.Base(dreamcore.SkillsLink)
	err = dir.Symlink(dreamcore.SkillsTarget, name)
	if err == nil {
		err = dir.Lchown(name, s.opts.UID, s.opts.GID)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return hide, errors.Join(diskError("link the skills", err), hideSkills(p.root, kept))
	}
	return func() error {
		err := hideSkills(p.root, kept)
		if !kept { // the agent may have removed the link alone
			err = errors.Join(err, removeEmpty(p.root, dreamcore.ConfigDir))
		}
		return err
	}, nil
}

// hasSkills reports whether the global volume has a directory for skills.
func (s *Store) hasSkills() bool {
	root, err := s.volume(Global)
	if err != nil {
		return false
	}
	defer root.Close()
	dir, err := openDirs(root, dreamcore.SkillsLink)
	if err != nil {
		return false
	}
	dir.Close()
	return true
}

// hideSkills removes the link of a job, and its directory where nothing else
// is in it, unless kept is set. What the agent put in their place stays.
func hideSkills(root *os.Root, kept bool) error {
	dir, err := openDir(root, dreamcore.ConfigDir)
	if err != nil {
		return nil // removed, or replaced by the agent
	}
	defer dir.Close()
	name := path.Base(dreamcore.SkillsLink)
	if !isJobs(dir, name, dreamcore.SkillsLink) {
		return nil
	}
	if err := dir.Remove(name); err != nil {
		return diskError("remove the link to the skills", err)
	}
	if kept {
		return nil
	}
	return removeEmpty(root, dreamcore.ConfigDir)
}

// removeEmpty removes a directory, unless something is in it or in its place.
func removeEmpty(root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err != nil || !info.IsDir() {
		return nil
	}
	err = root.Remove(name)
	if err == nil || errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return diskError("remove the directory "+name, err)
}

// isJobs reports whether name in dir is no part of a project: the link that
// ShowSkills makes, or the directory of the agent's settings where it holds
// nothing else. full is the path in the project.
func isJobs(dir *os.Root, name, full string) bool {
	switch full {
	case dreamcore.SkillsLink:
		target, err := dir.Readlink(name)
		return err == nil && dreamcore.IsSkillsLink(full, target)
	case dreamcore.ConfigDir:
		sub, err := openDir(dir, name)
		if err != nil {
			return false
		}
		defer sub.Close()
		link := path.Base(dreamcore.SkillsLink)
		enough := 2
		names, err := readNames(sub, &enough)
		return err == nil && slices.Equal(names, []string{link}) && isJobs(sub, link, dreamcore.SkillsLink)
	}
	return false
}
