// Package commandline is how the command line of dreamcore behaves, whatever its
// commands do: it makes commands of a table of texts (table.go), answers mistyped
// words (mistake.go), completes words in a shell (complete.go), repeats flags in hints
// (hint.go), and writes help (help.go) and manual pages (manual.go).
package commandline

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// Table has the texts of every command: how it is called, what it does, examples,
// and how it uses the state directory. Its form is:
//
//	= Title of a group of commands
//
//	== dreamcore secret show NAME [KEY]
//	One line that says what the command does
//	alias: other names
//	state: looks volumes
//
//	More about it, in paragraphs.
//
//	$ dreamcore secret show weather
//
// How a command is called also says how many arguments it accepts.
type Table struct {
	commands map[string]*entry
	groups   []*cobra.Group
}

type entry struct {
	use, short, long, example string
	aliases                   []string
	state, group              string
}

// Parse reads a table. values replace the names in braces that stand in its texts.
func Parse(text string, values *strings.Replacer) *Table {
	t := &Table{commands: map[string]*entry{}}
	e, group, inHead := &entry{}, "", false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if call, ok := strings.CutPrefix(line, "== "); ok {
			path, arguments := splitCall(call)
			e, inHead = &entry{use: strings.TrimSpace(path[strings.LastIndex(path, " ")+1:] + " " + arguments), group: group}, true
			t.commands[path] = e
			continue
		}
		if title, ok := strings.CutPrefix(line, "="); ok {
			if group = strings.TrimSpace(title); group != "" {
				t.groups = append(t.groups, &cobra.Group{ID: group, Title: group + ":"})
			}
			continue
		}
		example, isExample := strings.CutPrefix(line, "$ ")
		name, value, isPair := strings.Cut(line, ": ")
		switch {
		case isExample:
			e.example += "  " + example + "\n"
		case !inHead:
			e.long += values.Replace(line) + "\n"
		case line == "":
			inHead = false
		case e.short == "":
			e.short = line
		case isPair && name == "alias":
			e.aliases = strings.Fields(value)
		case isPair && name == "state":
			e.state = value
		default:
			panic("table of commands: " + e.use + ": " + line)
		}
	}
	return t
}

// splitCall returns the path of a command and what its arguments are called.
func splitCall(call string) (path, arguments string) {
	words := strings.Fields(call)
	n := 0
	for n < len(words) && words[n][0] >= 'a' && words[n][0] <= 'z' {
		n++
	}
	return strings.Join(words[:n], " "), strings.Join(words[n:], " ")
}

// New returns the command with a path such as "dreamcore secret show". run may be nil
// for one that consists of subcommands.
func (t *Table) New(path string, run func(ctx context.Context, args []string) error) *cobra.Command {
	e, ok := t.commands[path]
	if !ok {
		panic("the table of commands has no " + path)
	}
	c := &cobra.Command{
		Use: e.use, Short: e.short, Long: strings.Trim(e.long, "\n"), Example: strings.TrimSuffix(e.example, "\n"), Aliases: e.aliases,
		Args: Args(accepted(e.use)), Annotations: map[string]string{StateKey: e.state},
	}
	if strings.Count(path, " ") == 1 {
		c.GroupID = e.group
	}
	c.RunE = func(c *cobra.Command, args []string) error { return run(c.Context(), args) }
	return c
}

// Group returns a command that consists of subcommands. Alone it lists, where one
// of them does.
func (t *Table) Group(path string, subcommands ...*cobra.Command) *cobra.Command {
	c := t.New(path, nil)
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	c.AddCommand(subcommands...)
	if list := ListOf(c); list != nil {
		c.RunE = list.RunE
		c.Flags().AddFlagSet(list.Flags())
	}
	return c
}

// ListOf returns the subcommand that lists the things of c, or nil.
func ListOf(c *cobra.Command) *cobra.Command {
	for _, sub := range c.Commands() {
		if sub.Name() == "list" {
			return sub
		}
	}
	return nil
}

// Groups returns the groups of commands in the help, in the order of the table.
func (t *Table) Groups() []*cobra.Group { return t.groups }

// accepted returns the check for the arguments that a usage line names: those in
// brackets are optional, and dots allow any number.
func accepted(use string) cobra.PositionalArgs {
	least, most, depth, endless := 0, 0, 0, false
	for _, word := range strings.Fields(use)[1:] {
		required := depth == 0 && word[0] != '['
		depth += strings.Count(word, "[") - strings.Count(word, "]")
		if strings.HasPrefix(word, "...") || strings.Contains(word, "…") {
			endless = true
		} else if word != "--" {
			most++
			if required {
				least++
			}
		}
	}
	switch {
	case endless:
		return cobra.MinimumNArgs(least)
	case most == 0:
		return cobra.NoArgs
	case least == most:
		return cobra.ExactArgs(least)
	case least == 0:
		return cobra.MaximumNArgs(most)
	}
	return cobra.RangeArgs(least, most)
}

// Access is how a command uses the state directory.
type Access int

const (
	Apart  Access = iota // not at all, or only as a client of a service
	Looks                // it creates nothing at all in there, and fails without a state directory
	Reads                // it creates no state directory, and fails without one
	Writes               // it may create it
)

// Use is how a command uses the state directory, and what it needs in there.
type Use struct {
	Access Access
	Needs  []string
}

// StateKey is the annotation of a command with its use of the state directory.
const StateKey = "state"

// UseOf returns how c uses the state directory. The name of a group alone lists.
func UseOf(c *cobra.Command) Use {
	if list := ListOf(c); list != nil {
		c = list
	}
	return uses(c.Annotations[StateKey])
}

// uses reads the line of a use, such as "looks volumes". Without one, a command is
// apart.
func uses(line string) Use {
	words := strings.Fields(line)
	if len(words) == 0 {
		return Use{}
	}
	access := slices.Index([]string{"apart", "looks", "reads", "writes"}, words[0])
	if access < 0 {
		panic("table of commands: state: " + line)
	}
	return Use{Access(access), words[1:]}
}
