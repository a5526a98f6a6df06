package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

const securityPage = "../../pkg/docs/security.md"

// pages are the documents of the project, relative to this directory.
var pages = append(must(filepath.Glob("../../pkg/docs/*.md")), "../../README.md", "../../.github/CONTRIBUTING.md", "../../.github/SECURITY.md")

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func readPage(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func testRoot() *cobra.Command {
	io, _, _ := term.Buffers("")
	root := newRootCmd(&app{io: io, flags: map[string]any{}})
	root.InitDefaultVersionFlag()
	root.InitDefaultHelpCmd()
	return root
}

func everyCommand(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		all = append(all, everyCommand(sub)...)
	}
	return all
}

func TestEveryCommandIsDescribedTheSameWay(t *testing.T) {
	root := testRoot()
	for _, c := range everyCommand(root) {
		if c.Short == "" || strings.ToUpper(c.Short[:1]) != c.Short[:1] || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: %q must begin with a capital and end without a full stop", c.CommandPath(), c.Short)
		}
		if c.Long != "" && !strings.HasSuffix(c.Long, ".") {
			t.Errorf("%s: the long text does not end with a full stop", c.CommandPath())
		}
		if c.Parent() == root && c.GroupID == "" && c.Name() != "version" && c.Name() != "help" {
			t.Errorf("%s is in no group of the help", c.CommandPath())
		}
	}
}

var (
	code    = regexp.MustCompile("(?s)```.*?```|`[^`\n]+`")
	command = regexp.MustCompile(`\bdreamcore((?: [^ \n#&;()<>` + "`" + `]+)+)`)
	// What follows the name of another program has its flags and words.
	foreign  = regexp.MustCompile(`\b(?:kubectl|helm|docker|scripts/[a-z]+\.sh)\b(?:\\\n|[^\n` + "`" + `])*`)
	flagName = regexp.MustCompile(`(?:^|[\s` + "`" + `])--([a-z][a-z-]*)`)
)

func TestTheCommandsOfThePagesExist(t *testing.T) {
	root := testRoot()
	known, named := map[string]bool{"help": true}, map[string]bool{}
	for _, c := range everyCommand(root) {
		for _, flags := range []*pflag.FlagSet{c.Flags(), c.PersistentFlags()} {
			flags.VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
		}
	}
	for _, page := range pages {
		for _, part := range code.FindAllString(readPage(t, page), -1) {
			part = foreign.ReplaceAllString(part, "")
			for _, m := range flagName.FindAllStringSubmatch(part, -1) {
				if !known[m[1]] {
					t.Errorf("%s: there is no flag --%s: %s", page, m[1], part)
				}
			}
			for _, m := range command.FindAllStringSubmatch(part, -1) {
				c, err := findCommand(root, strings.Fields(m[1]))
				if err != nil {
					t.Errorf("%s: dreamcore%s: %v", page, m[1], err)
				} else {
					named[c.CommandPath()] = true
				}
			}
		}
	}
	for _, c := range root.Commands() {
		if !slices.ContainsFunc(everyCommand(c), func(c *cobra.Command) bool { return named[c.CommandPath()] }) {
			t.Errorf("the documentation never shows %s", c.CommandPath())
		}
	}
}

// findCommand follows words to a command and checks the flags among them. Of
// alternatives, as in get|put, each must be there.
func findCommand(root *cobra.Command, words []string) (*cobra.Command, error) {
	c, value := root, false // value: the word is the value of the flag before it
	for i, w := range words {
		w = strings.TrimRight(w, ",'")
		switch name, isFlag := strings.CutPrefix(w, "-"); {
		case value:
			value = false
		case w == "--" || strings.HasPrefix(w, "\""):
			return c, nil
		case w == "COMMAND" || w == "--help":
		case isFlag && strings.HasPrefix(name, "-"):
			name, _, given := strings.Cut(name[1:], "=")
			if c.Flag(name) == nil {
				return nil, errors.New("it has no flag --" + name)
			}
			value = !given && c.Flag(name).NoOptDefVal == ""
		case isFlag && name != "":
			if c.Flags().ShorthandLookup(name[:1]) == nil {
				return nil, errors.New("it has no flag -" + name)
			}
		case c.HasSubCommands():
			for alternative := range strings.SplitSeq(w, "|") {
				if _, err := subcommand(c, alternative); err != nil {
					return nil, err
				}
			}
			first, _, _ := strings.Cut(w, "|")
			if c, _ = subcommand(c, first); first != w {
				return c, nil
			}
		case i == 0:
			return nil, errors.New("it is no command")
		}
	}
	return c, nil
}

func subcommand(c *cobra.Command, name string) (*cobra.Command, error) {
	for _, sub := range c.Commands() {
		if sub.Name() == name || sub.HasAlias(name) {
			return sub, nil
		}
	}
	return nil, errors.New(c.CommandPath() + " has no command " + name)
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noSlug  = regexp.MustCompile(`[^a-z0-9 -]`)
)

func TestTheLinksOfThePagesLeadSomewhere(t *testing.T) {
	for _, page := range pages {
		for _, m := range link.FindAllStringSubmatch(readPage(t, page), -1) {
			file, anchor, _ := strings.Cut(m[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s: %v", page, m[1], err)
				continue
			}
			if anchor == "" {
				continue
			}
			found := false
			for _, h := range heading.FindAllStringSubmatch(readPage(t, target), -1) {
				found = found || strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-") == anchor
			}
			if !found {
				t.Errorf("%s: %s: there is no such heading", page, m[1])
			}
		}
	}
}

func TestSecurityPageNamesExistingTests(t *testing.T) {
	var sources strings.Builder
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			raw, err := os.ReadFile(path)
			sources.Write(raw)
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(readPage(t, securityPage), -1)
	if len(names) < 30 {
		t.Errorf("it names %d tests", len(names))
	}
	for _, m := range names {
		if !strings.Contains(sources.String(), "\nfunc "+m[1]+"(") {
			t.Errorf("there is no %s", m[1])
		}
	}
}
