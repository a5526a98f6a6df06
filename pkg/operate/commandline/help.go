package commandline

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/docs"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Help shows the help of the command that args select, or the page of a topic.
func Help(io *term.IO, root *cobra.Command, args []string) error {
	if len(args) == 1 {
		if page, ok := docs.Page(args[0]); ok {
			return showPage(io, args[0], page)
		}
	}
	topics := strings.Join(docs.Topics(), ", ")
	c, rest, err := root.Find(args)
	if err != nil || len(rest) > 0 {
		known := []string{}
		if len(args) == 1 {
			known = docs.Topics()
			for _, sub := range root.Commands() {
				known = append(known, sub.Name())
			}
		}
		return Mistake(fmt.Sprintf("there is no command and no topic %q", strings.Join(args, " ")), "dreamcore help ", args[0], known, "run: dreamcore help; topics: "+topics)
	}
	c.InitDefaultHelpFlag()
	if err := c.Help(); err != nil || c != root {
		return err
	}
	io.Stdout().Print("\nTopics (dreamcore help TOPIC):\n  " + topics)
	return nil
}

func showPage(io *term.IO, topic, page string) error {
	if io.JSON {
		return io.WriteJSON(map[string]string{"topic": topic, "title": docs.Title(page), "markdown": page})
	}
	p := io.Stdout()
	if p.Terminal() {
		page = docs.Format(p, page)
	}
	p.Print(strings.TrimSuffix(page, "\n"))
	return nil
}

// HelpWords are the topics, and the commands at each level.
func HelpWords(c *cobra.Command, before []string) (found []cobra.Completion, err error) {
	at, rest, err := c.Root().Find(before)
	if err != nil || len(rest) > 0 {
		return nil, err
	}
	if len(before) == 0 {
		for _, topic := range docs.Topics() {
			page, _ := docs.Page(topic)
			found = append(found, cobra.CompletionWithDesc(topic, docs.Title(page)))
		}
	}
	for _, sub := range at.Commands() {
		if sub.IsAvailableCommand() {
			found = append(found, cobra.CompletionWithDesc(sub.Name(), sub.Short))
		}
	}
	return found, nil
}

// ShowHelp prints the help of a command.
func ShowHelp(io *term.IO, c *cobra.Command) {
	text := cmp.Or(c.Long, c.Short) + "\n\n" + c.UsageString()
	if io.JSON {
		_ = io.WriteJSON(map[string]string{"command": c.CommandPath(), "help": text}) // nothing else can be said
		return
	}
	io.Stdout().Print(text)
}
