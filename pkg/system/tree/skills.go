package tree

import (
	"os"
	"path"
	"slices"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// AddedByJob reports whether name in dir was added to a project by a job and is
// not part of it: the link to the skills, or the agent's configuration directory
// if it holds nothing but that link. full is the path in the project. A job
// removes both at its end, but a job that was killed leaves them.
func AddedByJob(dir *os.Root, name, full string) bool {
	switch full {
	case dreamcore.SkillsLink:
		target, err := dir.Readlink(name)
		return err == nil && dreamcore.IsSkillsLink(full, target)
	case dreamcore.ConfigDir:
		sub, err := OpenDir(dir, name)
		if err != nil {
			return false
		}
		defer sub.Close()
		link := path.Base(dreamcore.SkillsLink)
		limit := 2
		names, err := ReadNames(sub, &limit)
		return err == nil && slices.Equal(names, []string{link}) && AddedByJob(sub, link, dreamcore.SkillsLink)
	}
	return false
}
