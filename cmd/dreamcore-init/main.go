// Command dreamcore-init is the program inside sandboxes: the supervisor, and
// the removal of a job's residue. The dreamcore program can do the same under
// this name, but it is fifty megabytes that a sandbox's kernel would have to
// load three times per job. On the host it is also a helper of gVisor.
// scripts/supervisor.sh embeds it in dreamcore.
package main

import (
	"os"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor/boot"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/pid1"
)

func main() {
	is, err := boot.UmountMain(os.Args)
	if !is {
		err = pid1.Main(os.Args[1:])
	}
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}
