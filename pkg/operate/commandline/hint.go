package commandline

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

// repeated are the flags that say where a command works and for whom. A hint that
// names another command repeats them; otherwise it would work elsewhere, or for
// another user.
var repeated = []string{"state", "config", "endpoint", "secret-file", "user"}

// SettingFlag is the annotation of flags of settings. A hint that names the same
// command repeats them too.
const SettingFlag = "setting"

// program finds the commands of this program in a text.
var program = pattern.New(`\bdreamcore((?: [a-z][a-z-]*)+)`)

// Repeat adds to each command in a hint the flags that the current command was given.
func Repeat(current *cobra.Command, hint string) string {
	var b strings.Builder
	done := 0
	for _, m := range program().FindAllStringSubmatchIndex(hint, -1) {
		target, end := commandIn(current, hint, m[2], m[3])
		if target == current.Root() {
			continue
		}
		b.WriteString(hint[done:end])
		rest := hint[end:] // of the same command
		if i := strings.IndexAny(rest, "(;,"); i >= 0 {
			rest = rest[:i]
		}
		b.WriteString(flagsFor(current, target, rest))
		done = end
	}
	return b.String() + hint[done:]
}

// commandIn returns the command that the words in hint[start:stop] begin with, and
// where its name ends.
func commandIn(current *cobra.Command, hint string, start, stop int) (c *cobra.Command, end int) {
	c, end = current.Root(), start
	for end < stop {
		word := strings.TrimLeft(hint[end:stop], " ")
		word, _, _ = strings.Cut(word, " ")
		i := slices.IndexFunc(c.Commands(), func(sub *cobra.Command) bool { return sub.Name() == word || sub.HasAlias(word) })
		if i < 0 {
			break
		}
		c, end = c.Commands()[i], end+1+len(word)
	}
	return c, end
}

// flagsFor returns the flags to repeat for a command, without those in rest.
func flagsFor(current, target *cobra.Command, rest string) string {
	text := ""
	current.Flags().Visit(func(f *pflag.Flag) {
		same := target == current && f.Annotations[SettingFlag] != nil
		if !same && !slices.Contains(repeated, f.Name) || target.Flag(f.Name) == nil || strings.Contains(rest, "--"+f.Name) || f.Name == "state" && IsJobState(f.Value.String()) {
			return
		}
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		for _, v := range values {
			text += " --" + f.Name + " " + quote(v)
		}
	})
	return text
}

// IsJobState reports whether a directory has the name of a state of jobs: a mistake.
func IsJobState(name string) bool {
	_, err := dreamcore.ParseJobState(name)
	return err == nil
}

var plain = pattern.New(`^[A-Za-z0-9_./:@%+=,-]+$`)

// quote returns a word as a shell reads it.
func quote(word string) string {
	if plain().MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
