// Command dreamcore-init is what runs inside of sandboxes: the supervisor, and
// the removal of what a job has left. The program dreamcore does the same under
// this name; but it is fifty megabytes that a sandbox's kernel would have to
// start, three times a job. scripts/supervisor.sh embeds this one in it.
package main

import (
	"os"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/pid1"
)

func main() {
	if err := pid1.Main(os.Args[1:]); err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}
