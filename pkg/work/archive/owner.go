package archive

import (
	"io/fs"
	"os"

	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// Owner is the owner of files that leave the stores.
type Owner tree.Owner

// restrictMode removes permissions that an entry must not have outside of the stores:
// the copy is writable by its owner alone.
func restrictMode(e tree.Entry) tree.Entry {
	e.Mode &= fs.ModeType | 0o755
	return e
}

// chown changes the owner of files below root, unless they have that owner
// already because it is the user of this process.
func (o Owner) chown(root *os.Root, names ...string) error {
	if o == (Owner{UID: os.Geteuid(), GID: os.Getegid()}) {
		return nil
	}
	for _, name := range names {
		if err := root.Lchown(name, o.UID, o.GID); err != nil {
			return err
		}
	}
	return nil
}
