package term

import (
	"cmp"
	"sync"
	"time"
)

// transferInterval is the time between two lines of a Transfer that is not on a
// terminal.
const transferInterval = 10 * time.Second

// Transfer shows how far a long copy or download is: on a terminal in one line that
// changes, elsewhere in a plain line every ten seconds, and nothing if a program
// reads. The caller must Stop it.
type Transfer struct {
	*Progress
	every time.Duration

	mu    sync.Mutex
	shown time.Time // when the last line was written
}

// Transfer shows text until the first Show.
func (p *Printer) Transfer(text string) *Transfer {
	t := &Transfer{Progress: p.Progress(text), every: cmp.Or(p.io.Interval, transferInterval), shown: time.Now()}
	if t.moves() {
		t.every = frameInterval
	}
	return t
}

// Show replaces the text, which says how much is done, if it is time to. It may be
// called for every few bytes.
func (t *Transfer) Show(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.shown) < t.every {
		return
	}
	t.shown = time.Now()
	t.Update(text)
}

// Bytes returns "3 MB of 10 MB", or the first part alone if the total is not known.
func Bytes(done, total int64) string {
	if total <= 0 {
		return Size(done)
	}
	return Size(done) + " of " + Size(total)
}
