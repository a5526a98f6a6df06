package commandline

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Misuse gives an error of the command line its code and hint.
func Misuse(c *cobra.Command, err error) error {
	return Mistake(strings.TrimSpace(err.Error()), "", "", nil, "run: "+c.CommandPath()+" --help")
}

// Mistake returns an error whose hint is the known word that is nearest to word, after
// prefix, or otherwise if none is near.
func Mistake(message, prefix, word string, known []string, otherwise string) error {
	if meant := term.Nearest(word, known); meant != "" {
		otherwise = "did you mean: " + prefix + meant
	}
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: message, Hint: otherwise}
}

// unknown returns the error for a subcommand of c that does not exist.
func unknown(c *cobra.Command, word string) error {
	var known []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			known = append(append(known, sub.Name()), sub.Aliases...)
		}
	}
	path := c.CommandPath()
	return Mistake(fmt.Sprintf("there is no command %q in %s", word, path), path+" ", word, known, "run: "+path+" --help")
}

// UnknownFlag adds the flag that was probably meant to an error of the command line.
func UnknownFlag(c *cobra.Command, err error) error {
	name, ok := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !ok {
		return Misuse(c, err)
	}
	var known []string
	visit := func(f *pflag.Flag) { known = append(known, f.Name) }
	c.Flags().VisitAll(visit)
	c.InheritedFlags().VisitAll(visit)
	return Mistake(err.Error(), "--", name, known, "run: "+c.CommandPath()+" --help")
}

// Args wraps check so that its errors are errors of the command line.
func Args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > 0 && c.HasSubCommands() {
			return unknown(c, args[0])
		}
		if err := check(c, args); err != nil {
			return Misuse(c, err)
		}
		return nil
	}
}
