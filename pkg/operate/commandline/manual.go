package commandline

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// WriteManual writes the manual pages of root and of the commands below it into dir,
// and returns their number. They show the version and, unless it is "", the date.
func WriteManual(root *cobra.Command, dir, version, date string) (n int, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	var write func(c *cobra.Command) error
	write = func(c *cobra.Command) error {
		if err := os.WriteFile(filepath.Join(dir, pageName(c)+".1"), manPage(c, version, date), 0o644); err != nil {
			return err
		}
		n++
		for _, sub := range documented(c) {
			if err := write(sub); err != nil {
				return err
			}
		}
		return nil
	}
	err = write(root)
	return n, err
}

// documented returns the commands below c that have a page.
func documented(c *cobra.Command) (all []*cobra.Command) {
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() || sub.Name() == "help" {
			all = append(all, sub)
		}
	}
	return all
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manPage returns the page of a command in the macros of man(7).
func manPage(c *cobra.Command, version, date string) []byte {
	c.InitDefaultHelpFlag()
	p := &manWriter{}
	p.macro("TH", strings.ToUpper(pageName(c)), "1", date, "dreamcore "+version, "dreamcore")
	p.macro("SH", "NAME")
	p.text(pageName(c) + " - " + c.Short)
	p.macro("SH", "SYNOPSIS")
	p.macro("B", c.UseLine())
	if c.Long != "" {
		p.macro("SH", "DESCRIPTION")
		p.block(c.Long)
	}
	if subs := documented(c); len(subs) > 0 {
		p.macro("SH", "COMMANDS")
		for _, sub := range subs {
			p.macro("TP")
			p.macro("B", sub.Name())
			p.text(sub.Short)
		}
	}
	p.flags("OPTIONS", c.NonInheritedFlags())
	p.flags("GLOBAL OPTIONS", c.InheritedFlags())
	if c.Example != "" {
		p.macro("SH", "EXAMPLES")
		p.block(c.Example)
	}
	if c.HasParent() {
		p.macro("SH", "SEE ALSO")
		p.macro("BR", pageName(c.Parent()), "(1)")
	}
	return p.Bytes()
}

// manWriter writes lines of man(7).
type manWriter struct{ bytes.Buffer }

// macro writes a macro with its arguments, which are quoted.
func (p *manWriter) macro(name string, args ...string) {
	p.WriteString("." + name)
	for _, arg := range args {
		p.WriteString(` "` + strings.ReplaceAll(roff(arg), `"`, `\(dq`) + `"`)
	}
	p.WriteByte('\n')
}

// text writes a line of text. The zero-width character keeps one that begins with a
// dot or a quote from being a macro.
func (p *manWriter) text(line string) {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		p.WriteString(`\&`)
	}
	p.WriteString(roff(line) + "\n")
}

// block writes lines as they are broken in the help, which has tables and commands.
func (p *manWriter) block(text string) {
	p.macro("nf")
	for line := range strings.Lines(strings.Trim(text, "\n") + "\n") {
		if line = strings.TrimRight(line, " \n"); line == "" {
			p.macro("sp")
			continue
		}
		p.text(line)
	}
	p.macro("fi")
}

func (p *manWriter) flags(title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	p.macro("SH", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		value, usage := pflag.UnquoteUsage(f)
		if value != "" {
			name += " " + value
		}
		p.macro("TP")
		p.macro("B", name)
		p.text(usage)
	})
}

// roff escapes text: backslashes, and dashes, which must stay dashes when a command
// is copied.
func roff(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "\t", "    ", "\n", " ").Replace(text)
}
