package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/docs"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
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
		page = docs.Format(out, page)
	}
	out.Print(strings.TrimSuffix(page, "\n"))
	return nil
}
