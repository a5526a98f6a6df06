package commandline

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const (
	// CompletionLimit is how long a shell waits for words.
	CompletionLimit = time.Second
	// MaxCompletions bounds the words that a shell is offered.
	MaxCompletions = 200
)

// Words returns the possible values of an argument or a flag, each with a
// description. It is given the arguments before.
type Words func(c *cobra.Command, before []string) ([]cobra.Completion, error)

// Always returns words that depend on nothing.
func Always(list func() []cobra.Completion) Words {
	return func(*cobra.Command, []string) ([]cobra.Completion, error) { return list(), nil }
}

// First completes the first argument only.
func (w Words) First() Words {
	return func(c *cobra.Command, before []string) ([]cobra.Completion, error) {
		if len(before) > 0 {
			return nil, nil
		}
		return w(c, nil)
	}
}

// Complete implements cobra.CompletionFunc. It matches words in any case. A completion
// has no place for an error.
func (w Words) Complete(c *cobra.Command, before []string, prefix string) (found []cobra.Completion, _ cobra.ShellCompDirective) {
	all, err := w(c, before)
	if err != nil {
		cobra.CompDebugln(err.Error(), false)
	}
	for _, word := range all {
		plain, _, _ := strings.Cut(word, "\t")
		begins := len(plain) >= len(prefix) && strings.EqualFold(plain[:len(prefix)], prefix)
		if begins && !slices.Contains(before, plain) && len(found) < MaxCompletions {
			found = append(found, word)
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// AddCompletions gives the commands below root their words: arguments by the path of a
// command, flags by their name. Those that a command has are kept; all are bounded in
// time.
func AddCompletions(root *cobra.Command, arguments, flags map[string]Words) {
	if w, ok := arguments[root.CommandPath()]; ok {
		root.ValidArgsFunction = Quick(w.Complete)
	} else if root.ValidArgsFunction != nil {
		root.ValidArgsFunction = Quick(root.ValidArgsFunction)
	}
	for name, w := range flags {
		completeFlag(root, name, Quick(w.Complete))
	}
	for _, sub := range root.Commands() {
		AddCompletions(sub, arguments, flags)
	}
}

// completeFlag gives a flag of a command its words, if the command has it. A group
// shares the flags of the command that lists its things.
func completeFlag(c *cobra.Command, name string, words cobra.CompletionFunc) {
	if c.LocalNonPersistentFlags().Lookup(name) == nil {
		return
	}
	if _, ok := c.GetFlagCompletionFunc(name); ok {
		return
	}
	if err := c.RegisterFlagCompletionFunc(name, words); err != nil {
		panic(err) // the flag exists and has no completion yet
	}
}

// Quick bounds the time of a completion, and hides its errors: the shell would show
// them in the middle of a line.
func Quick(complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		type result struct {
			words     []cobra.Completion
			directive cobra.ShellCompDirective
		}
		ctx := c.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, CompletionLimit)
		defer cancel()
		c.SetContext(ctx)
		done := make(chan result, 1)
		go func() { // it may be blocked in the file system; the process ends without it
			words, directive := complete(c, args, prefix)
			done <- result{words, directive}
		}()
		select {
		case r := <-done:
			if r.directive&cobra.ShellCompDirectiveError != 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return r.words, r.directive
		case <-ctx.Done():
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
	}
}
