package pid1

import (
	"fmt"
	"io"
	"os"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// CleanRole is the argument that makes the program inside a sandbox remove the
// contents of the directories that follow, as the user that it runs as.
const CleanRole = "clean"

// SpecialPrefix precedes a directory of CleanRole of which only FIFOs, sockets
// and devices are removed.
const SpecialPrefix = "--special="

// PauseRole is the argument that makes the program on the host wait for the end
// of its input. Meanwhile it keeps the namespace alive that it was started in.
const PauseRole = "pause"

// Main runs the program inside a sandbox in the role that args select: the
// supervisor, which communicates over its standard input and output, the
// removal of an ended job's residue, or the attempts of a check.
func Main(args []string) error {
	if len(args) > 1 && args[0] == CleanRole {
		return Clean(args[1:])
	}
	if len(args) == 2 && args[0] == TryRole {
		return Try(args[1], os.Stdout)
	}
	if len(args) == 1 && args[0] == PauseRole {
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	setup, err := sandbox.ParseSetup(args)
	if err == nil {
		err = setRlimits(setup.Rlimits)
	}
	if err != nil {
		return fmt.Errorf("PID 1: %w", err)
	}
	return Serve(Stdio{In: os.Stdin, Out: os.Stdout}, setup.Relay)
}
