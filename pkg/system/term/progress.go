package term

import (
	"io"
	"sync"
	"time"
)

const (
	// frameInterval is the time between two frames of the spinner.
	frameInterval = 100 * time.Millisecond
	// clockAfter is the time after which a step shows its elapsed time.
	clockAfter = 2 * time.Second
	// eraseLine moves to the first column and clears the line.
	eraseLine = "\r\x1b[2K"
)

// frame returns the n-th frame of the spinner.
func frame(n int) string {
	const dots = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
	const size = len("⠋")
	n = n % (len(dots) / size) * size
	return dots[n : n+size]
}

// Progress is a line that shows the current activity. On a terminal it is
// animated in place, below all other output; elsewhere each new text is a plain
// line.
type Progress struct {
	p       *Printer
	stop    chan struct{}
	stopped sync.Once
	done    chan struct{} // closed when the drawing goroutine has ended

	// Guarded by the screen's mutex.
	text    string
	started time.Time
	frame   int
}

// Progress shows text until Stop or End is called, which the caller must do.
// An IO has one progress line; a new one stops the previous one.
func (p *Printer) Progress(text string) *Progress {
	g := &Progress{p: p, stop: make(chan struct{}), done: make(chan struct{}), started: time.Now()}
	if !g.moves() {
		close(g.done)
		g.Update(text)
		return g
	}
	s := &p.io.screen
	s.mu.Lock()
	before := s.live
	s.mu.Unlock()
	if before != nil {
		before.Stop()
	}
	s.mu.Lock()
	g.text = Clean(text)
	s.live = g
	g.draw()
	s.mu.Unlock()
	go g.spin()
	return g
}

func (g *Progress) moves() bool { return g.p.terminal && g.p.io.Rewrite && !g.p.notes() }

// Update replaces the text.
func (g *Progress) Update(text string) {
	text = Clean(text)
	s := &g.p.io.screen
	s.mu.Lock()
	same := g.text == text
	g.text = text
	if !same && s.live == g {
		g.erase()
		g.draw()
	}
	s.mu.Unlock()
	if !same && !g.moves() && !g.p.notes() {
		g.p.Status(Working, text)
	}
}

// Stop erases the line and waits for the goroutine that draws it. It may be
// called more than once.
func (g *Progress) Stop() {
	g.stopped.Do(func() { close(g.stop) })
	<-g.done
}

// End stops the progress and writes a status line in its place.
func (g *Progress) End(m Mark, message string, details ...string) {
	g.Stop()
	g.p.Status(m, message, details...)
}

func (g *Progress) spin() {
	defer close(g.done)
	s := &g.p.io.screen
	tick := time.NewTicker(frameInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.mu.Lock()
			if s.live == g {
				g.frame++
				g.erase()
				g.draw()
			}
			s.mu.Unlock()
		case <-g.stop:
			s.mu.Lock()
			if s.live == g {
				g.erase()
				s.live = nil
			}
			s.mu.Unlock()
			return
		}
	}
}

// draw and erase must be called with the screen's mutex held. The line stays
// one column short of the width: a full line would wrap, and only its last row
// could be erased.
func (g *Progress) draw() {
	clock := ""
	if d := time.Since(g.started); d >= clockAfter {
		clock = "  " + Duration(d.Truncate(time.Second))
	}
	width := g.p.Columns() - 1 - len("x ") - len(clock)
	line := g.p.Style(Accent, frame(g.frame)) + " " + Truncate(g.text, width) + g.p.Style(Muted, clock)
	_, _ = io.WriteString(g.p.w, line)
}

func (g *Progress) erase() { _, _ = io.WriteString(g.p.w, eraseLine) }
