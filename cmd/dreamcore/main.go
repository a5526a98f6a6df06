// Command dreamcore makes browser games from prompts: it runs an AI agent in
// gVisor sandboxes, behind an HTTP service and a command line.
package main

import (
	"os"
	"path/filepath"

	"github.com/notef-neighbor/dreamcore/pkg/daemon/crash"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor/runsc"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/oci"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/pid1"
	_ "github.com/notef-neighbor/dreamcore/pkg/system/prefault"
)

// main finds out which of our roles this process has. The command line of
// operators is the last: the roles inside and around a sandbox are started by
// other names, and must not pay for it.
func main() {
	if filepath.Base(os.Args[0]) == oci.InitRole {
		if err := pid1.Main(os.Args[1:]); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	if filepath.Base(os.Args[0]) == crash.Role {
		if err := crash.Main(); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	runsc.Dispatch(os.Args)
	os.Exit(run())
}
