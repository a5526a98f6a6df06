package term

import (
	"strings"

	"github.com/charmbracelet/x/ansi"
)

const (
	gutter = "  "
	// minFlex is the minimum width of a wrapped column.
	minFlex = 20
	// minCut is the minimum width of a column that is cut.
	minCut = 8
)

// Column describes one column of a Table.
type Column struct {
	Title string
	Right bool // right-aligned, for numbers
	Flex  bool // wrapped if the table is too wide for the terminal; at most one column
	Cut   bool // cut on a terminal so that every row takes one line; at most one column, the last
}

// Cell is one field of a Table.
type Cell struct {
	Text string
	Tone Tone
}

// Table is aligned rows under a header, without lines. Rows may be shorter than
// the header.
type Table struct {
	Columns []Column
	Rows    [][]Cell
}

// Row returns cells of plain text.
func Row(texts ...string) []Cell {
	cells := make([]Cell, len(texts))
	for i, s := range texts {
		cells[i].Text = s
	}
	return cells
}

// Table writes t. In a pipe, nothing is wrapped or cut.
func (p *Printer) Table(t Table) {
	for _, line := range p.lines(t) {
		p.Println(line)
	}
}

// lines returns the lines of a table.
func (p *Printer) lines(t Table) (lines []string) {
	header := make([]Cell, len(t.Columns))
	for i, c := range t.Columns {
		header[i] = Cell{Text: strings.ToUpper(c.Title), Tone: Muted}
	}
	rows := append([][]Cell{header}, t.Rows...)
	for i, row := range rows {
		rows[i] = cleanRow(row, len(t.Columns))
	}
	widths := p.fit(t.Columns, rows)
	for _, row := range rows {
		lines = append(lines, p.row(t.Columns, widths, row)...)
	}
	return lines
}

func cleanRow(row []Cell, n int) []Cell {
	clean := make([]Cell, n)
	for i := range min(n, len(row)) {
		clean[i] = Cell{Text: Clean(row[i].Text), Tone: row[i].Tone}
	}
	return clean
}

// fit returns the widths of the columns. On a terminal the flexible column
// shrinks until the table fits.
func (p *Printer) fit(columns []Column, rows [][]Cell) []int {
	widths := make([]int, len(columns))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], ansi.StringWidth(cell.Text))
		}
	}
	if !p.terminal {
		return widths
	}
	total := len(gutter) * (len(columns) - 1)
	for _, w := range widths {
		total += w
	}
	over := total - p.Columns()
	for i, c := range columns {
		if c.Flex && over > 0 {
			widths[i] = min(widths[i], max(minFlex, widths[i]-over))
			break
		}
		if c.Cut && over > 0 {
			widths[i] = max(minCut, widths[i]-over)
			for _, row := range rows {
				row[i].Text = Truncate(row[i].Text, widths[i])
			}
		}
	}
	return widths
}

// row returns the lines of one row: several if a cell is wrapped.
func (p *Printer) row(columns []Column, widths []int, row []Cell) (printed []string) {
	lines := make([][]string, len(row))
	height := 1
	for i, cell := range row {
		lines[i] = []string{cell.Text}
		if ansi.StringWidth(cell.Text) > widths[i] {
			lines[i] = Wrap(cell.Text, widths[i])
		}
		height = max(height, len(lines[i]))
	}
	for n := range height {
		parts := make([]string, 0, 2*len(row))
		for i, cell := range row {
			text := ""
			if n < len(lines[i]) {
				text = lines[i][n]
			}
			if i > 0 {
				parts = append(parts, gutter)
			}
			fill := strings.Repeat(" ", max(0, widths[i]-ansi.StringWidth(text)))
			if columns[i].Right {
				parts = append(parts, fill, p.Style(cell.Tone, text))
			} else {
				parts = append(parts, p.Style(cell.Tone, text), fill)
			}
		}
		printed = append(printed, strings.Join(parts, ""))
	}
	return printed
}
