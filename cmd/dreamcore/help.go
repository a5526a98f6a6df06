package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/docs"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// newHelpCmd returns the command that explains commands and topics.
func newHelpCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND | TOPIC]", Short: "Explain a command or a topic",
		Long:    "Explains a command, or shows a page of the documentation.\n\nTopics: " + strings.Join(docs.Topics(), ", ") + ".",
		Example: "  dreamcore help generate\n  dreamcore help troubleshooting | less",
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			words := docs.Topics()
			for _, sub := range c.Root().Commands() {
				words = append(words, sub.Name())
			}
			return words, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error { return runHelp(a, c.Root(), args) },
	}
}

func runHelp(a *app, root *cobra.Command, args []string) error {
	if len(args) == 1 {
		if page, ok := docs.Page(args[0]); ok {
			return showPage(a, args[0], page)
		}
	}
	c, rest, err := root.Find(args)
	if err != nil || len(rest) > 0 {
		return &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("there is no command and no topic %q", strings.Join(args, " ")),
			Hint: "run: dreamcore help; topics: " + strings.Join(docs.Topics(), ", "),
		}
	}
	c.InitDefaultHelpFlag()
	if err := c.Help(); err != nil || c != root {
		return err
	}
	a.io.Stdout().Print("\nTopics (dreamcore help TOPIC):\n  " + strings.Join(docs.Topics(), ", "))
	return nil
}

func showPage(a *app, topic, page string) error {
	if a.io.JSON {
		return a.io.WriteJSON(map[string]string{"topic": topic, "title": docs.Title(page), "markdown": page})
	}
	out := a.io.Stdout()
	if out.Terminal() {
		page = render(out, page)
	}
	out.Print(strings.TrimSuffix(page, "\n"))
	return nil
}

// maxColumns is the width at which text is still comfortable to read.
const maxColumns = 100

var markdownLink = regexp.MustCompile(`\[([^\]]+)\]\([^)\s]+\)`)

// render prepares a page for a terminal: it wraps paragraphs, marks headings,
// shows the rows of tables as entries, and leaves out the addresses of links.
func render(p *term.Printer, page string) string {
	width := maxColumns
	if c := p.Columns(); c > 0 {
		width = min(width, c)
	}
	var b strings.Builder
	code, row := false, 0 // row counts the lines of a table
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		cells, isRow := strings.CutPrefix(line, "| ")
		if row++; !isRow && !strings.HasPrefix(line, "|--") {
			row = 0
		}
		if !code {
			line = markdownLink.ReplaceAllString(strings.TrimSuffix(line, `\`), "$1")
			cells = markdownLink.ReplaceAllString(cells, "$1")
		}
		switch {
		case strings.HasPrefix(line, "```"):
			code = !code
			continue
		case code:
			line = "    " + line
		case strings.HasPrefix(line, "#"):
			line = p.Style(term.Strong, strings.TrimLeft(line, "# "))
		case strings.HasPrefix(line, "<!--"), row > 0 && row < 3: // a comment, or the head of a table
			continue
		case row > 0:
			line = entry(p, strings.Split(strings.TrimSuffix(cells, " |"), " | "), width)
		default:
			line = ansi.Wordwrap(line, width, "")
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// entry shows a row of a table: the first cell above the others.
func entry(p *term.Printer, cells []string, width int) string {
	const indent = "    "
	text := p.Style(term.Accent, ansi.Wordwrap(cells[0], width, ""))
	for _, cell := range cells[1:] {
		wrapped := ansi.Wordwrap(cell, width-len(indent), "")
		text += "\n" + indent + strings.ReplaceAll(wrapped, "\n", "\n"+indent)
	}
	return text
}
