package docs

import (
	"regexp"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// maxColumns is the width at which text is still comfortable to read.
const maxColumns = 100

var markdownLink = regexp.MustCompile(`\[([^\]]+)\]\([^)\s]+\)`)

// Format prepares a page for a terminal: it wraps paragraphs, marks headings,
// shows the rows of tables as entries, and leaves out the addresses of links.
func Format(p *term.Printer, page string) string {
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
