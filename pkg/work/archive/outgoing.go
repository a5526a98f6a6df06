package archive

import (
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// Owner is who owns files that leave the stores.
type Owner struct{ UID, GID int }

// headName is a file that every repository of Git has. A directory with one,
// and a few others beside it, is a repository without being called .git.
const headName = "head"

// LeftOut returns why a file of a project is not copied out of the stores, or
// "". Stock git runs commands that the configuration of a repository names, so
// that a game with a repository in it would run the game's commands for the
// person who looks at it. What lies in a directory that is left out is left out
// without a reason.
func LeftOut(name string) (reason string, out bool) {
	if parent := path.Dir(name); parent != "." && history.Reserved(parent) {
		return "", true
	}
	switch {
	case history.Reserved(name):
		return "git would take it for its own", true
	case strings.ToLower(path.Base(name)) == headName:
		return "git would take its directory for a repository", true
	}
	return "", false
}

// harmless takes from an entry what must not leave with it: others may not
// write to a copy.
func harmless(e volume.Entry) volume.Entry {
	e.Mode &= fs.ModeType | 0o755
	return e
}

// give makes files below root belong to an owner. It does nothing when they do
// already.
func (o Owner) give(root *os.Root, names ...string) error {
	if o == (Owner{os.Geteuid(), os.Getegid()}) {
		return nil
	}
	for _, name := range names {
		if err := root.Lchown(name, o.UID, o.GID); err != nil {
			return err
		}
	}
	return nil
}
