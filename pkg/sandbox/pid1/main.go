package pid1

import (
	"fmt"
	"io"
	"os"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// CleanRole is the argument that tells the program inside a sandbox to remove
// what is in the directories that follow, as the user that it runs as.
const CleanRole = "clean"

// SpecialPrefix stands before a directory of CleanRole that keeps its files and
// directories, but nothing else.
const SpecialPrefix = "--special="

// PauseRole is the argument that tells the program on the host to do nothing
// until the end of its input: it holds a namespace that it was started in.
const PauseRole = "pause"

// Main is the program inside a sandbox: the supervisor, which talks over its
// standard input and output, or the removal of what an ended job has left, or the
// attempts of a check.
func Main(args []string) error {
	if len(args) > 1 && args[0] == CleanRole {
		return Clean(args[1:])
	}
	if len(args) > 1 && args[0] == TryRole {
		return Try(args[1:], os.Stdout)
	}
	if len(args) == 1 && args[0] == PauseRole {
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	limits, args, err := sandbox.ParseRlimits(args)
	if err == nil {
		err = setRlimits(limits)
	}
	if err != nil {
		return fmt.Errorf("PID 1: %w", err)
	}
	r, err := sandbox.ParseRelay(args)
	if err != nil {
		return fmt.Errorf("PID 1: %w", err)
	}
	return Serve(Stdio{In: os.Stdin, Out: os.Stdout}, r)
}
