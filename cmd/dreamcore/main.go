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

// main runs the role that the name of this process selects. The command line
// comes last: the roles inside and around a sandbox have names of their own, and
// must start without its cost.
func main() {
	switch filepath.Base(os.Args[0]) {
	case oci.InitRole:
		exit(pid1.Main(os.Args[1:]))
	case crash.Role:
		exit(crash.Main())
	}
	runsc.Dispatch(os.Args)
	os.Exit(run())
}

// exit ends the process of a role.
func exit(err error) {
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	os.Exit(0)
}
