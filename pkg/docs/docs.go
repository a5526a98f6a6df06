// Package docs contains the documentation of dreamcore: Markdown pages that are
// read in the repository and shown by "dreamcore help TOPIC".
package docs

import (
	"embed"
	"strings"
)

//go:embed *.md
var pages embed.FS

// Topics returns the names of all pages, in the order in which they are read.
func Topics() []string {
	return []string{
		"overview", "install", "operate", "configure", "api", "model",
		"migrate", "cluster", "kubernetes", "security", "troubleshooting", "upgrade", "performance",
	}
}

// Page returns the Markdown of a topic; ok is false if there is no such topic.
func Page(topic string) (markdown string, ok bool) {
	raw, err := pages.ReadFile(topic + ".md")
	return string(raw), err == nil
}

// Title returns the first heading of a page.
func Title(markdown string) string {
	line, _, _ := strings.Cut(markdown, "\n")
	return strings.TrimPrefix(line, "# ")
}
