package term

import (
	"fmt"
	"strings"
)

// Canvas is the end of a terminal's screen, on which a table is drawn again and
// again in place. Nothing else may be printed until Close.
type Canvas struct {
	p     *Printer
	lines int // that were drawn last
}

// Canvas returns a canvas of the terminal of p. The caller must Close it.
func (p *Printer) Canvas() *Canvas { return &Canvas{p: p} }

// Table replaces the table that was drawn before by t, as far as the screen has room for it.
func (c *Canvas) Table(t Table) {
	lines := c.p.lines(t)
	if room := c.p.io.rows(c.p.w) - 1; len(lines) > room {
		hidden := len(lines) - room + 1
		lines = append(lines[:max(room-1, 0):max(room-1, 0)], c.p.Style(Muted, fmt.Sprintf("… %d more", hidden)))
	}
	var b strings.Builder
	if c.p.io.Rewrite && c.lines > 0 {
		fmt.Fprintf(&b, "\r\x1b[%dA\x1b[J", c.lines)
	}
	for _, line := range lines {
		b.WriteString(Truncate(strings.TrimRight(line, " "), c.p.Columns()-1) + "\n")
	}
	_ = c.p.io.screen.write(c.p.w, []byte(b.String())) // see the package documentation
	c.lines = len(lines)
}

// Close leaves the last drawing on the screen.
func (c *Canvas) Close() { c.lines = 0 }
