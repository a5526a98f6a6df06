package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// stateNames are what a state directory has, one at least.
var stateNames = []string{config.FileName, SecretsDir, VolumesDir, UsageDir, AuditDir, RunDir, AgentDir, ImagesDir, JobsDir, homesDir, historyDir}

// CheckState returns an error unless dir is a state directory, with all of the
// needed directories in it. It creates nothing: a command that only reads would
// otherwise report an empty directory where the operator has mistyped a name. The
// code is CodeNotFound, or CodeSetup if the directory cannot be read.
func CheckState(dir string, needed ...string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &dreamcore.Error{Code: dreamcore.CodeNotFound, Reason: ReasonNoState, Message: "there is no state directory " + dir}
	case errors.Is(err, fs.ErrPermission):
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: ReasonState, Message: "the state directory " + dir + " cannot be read", Err: err,
			Hint: "run the command with sudo, or use a directory of your own",
		}
	case err != nil:
		return &dreamcore.Error{Code: dreamcore.CodeNotFound, Reason: ReasonNoState, Message: dir + " is not a state directory", Err: err}
	}
	has := map[string]bool{}
	for _, e := range entries {
		has[e.Name()] = true
	}
	known := false
	for _, name := range stateNames {
		known = known || has[name]
	}
	if !known {
		return &dreamcore.Error{Code: dreamcore.CodeNotFound, Reason: ReasonNoState, Message: dir + " is not a state directory: it has nothing of one"}
	}
	for _, name := range needed {
		if !has[name] {
			return &dreamcore.Error{Code: dreamcore.CodeNotFound, Reason: ReasonNoState, Message: "the state directory " + dir + " has no " + filepath.Base(name) + " yet"}
		}
	}
	return nil
}
