package acceptance

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// Installed returns the path inside of the browser that sandboxes with this root
// have, or "". It starts nothing: whether the browser works shows in a sandbox.
func Installed(root sandbox.Root) string {
	for _, name := range verdict.Browsers() {
		if exists(root, name) {
			return name
		}
	}
	return ""
}

// exists reports whether a root has the entry name. A link counts: its target is
// meant for inside, and may not exist here.
func exists(root sandbox.Root, name string) bool {
	for _, m := range root.Mounts {
		rest, ok := strings.CutPrefix(name, m.Target+"/")
		if !ok || m.Source == "" {
			continue
		}
		dir, err := os.OpenRoot(m.Source)
		if err != nil {
			continue
		}
		_, err = dir.Lstat(filepath.FromSlash(rest))
		_ = dir.Close()
		if err == nil {
			return true
		}
	}
	return false
}
