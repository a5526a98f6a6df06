package archive

import (
	"os"
	"path/filepath"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Forget removes the status of the imports of a project, or of all projects of a user
// if project is "".
func Forget(stateDir string, user dreamcore.UserID, project dreamcore.ProjectID) error {
	dir := filepath.Join(stateDir, importsDir, string(user))
	changed := dir
	var err error
	if project == "" {
		changed = filepath.Dir(dir)
		err = os.RemoveAll(dir)
	} else {
		err = statefile.IgnoreMissing(os.Remove(filepath.Join(dir, string(project)+".json")))
	}
	if err == nil { // also if an earlier call removed it: that may not be durable yet
		err = statefile.IgnoreMissing(statefile.Sync(changed))
	}
	if err != nil {
		return statefile.Error("forget the import", err)
	}
	return nil
}
