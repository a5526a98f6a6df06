package browser

import (
	"bytes"
	"image"
	"image/png"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// The grid that frames are reduced to for comparisons. A cell keeps the sums of
// the pixels it covers, so that a change of a few pixels is seen.
const (
	gridColumns = 32
	gridRows    = 32
)

// frame is a picture of the page that is small enough to keep.
type frame struct {
	at    time.Time
	grid  [gridRows * gridColumns][3]int32 // sums of 8-bit channels
	sum   uint64                           // of all pixels, position included: differs if any pixel does
	shown bool                             // not blank
}

// maxPixels bounds a picture to decode: a frame is at most 640 pixels wide.
const maxPixels = 1 << 20

// minPicture is the number of pixels of other colours that are a picture: a ball of
// 8 × 8 on a desktop is 2 × 2 here.
const minPicture = 3

const maxColours = 4096 // of a frame, that are counted

// readFrame decodes a PNG of the browser.
func readFrame(raw []byte, at time.Time) (*frame, bool) {
	c, err := png.DecodeConfig(bytes.NewReader(raw))
	if err != nil || c.Width < 1 || c.Height < 1 || c.Width*c.Height > maxPixels {
		return nil, false
	}
	img, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		return nil, false
	}
	return reduce(img, at), true
}

// reduce computes the values that are compared.
func reduce(img image.Image, at time.Time) *frame {
	b := img.Bounds()
	w, h := b.Dx(), b.Dy()
	f := &frame{at: at, sum: 14695981039346656037}
	count := map[uint32]int{}
	pixel := pixels(img)
	last, run := uint32(0), 0
	flush := func() {
		if _, ok := count[last]; ok || len(count) < maxColours {
			count[last] += run
		}
		run = 0
	}
	for y := range h {
		row := (y * gridRows / h) * gridColumns
		for x := range w {
			r, g, bl := pixel(b.Min.X+x, b.Min.Y+y)
			cell := &f.grid[row+x*gridColumns/w]
			cell[0] += int32(r)
			cell[1] += int32(g)
			cell[2] += int32(bl)
			c := uint32(r)<<16 | uint32(g)<<8 | uint32(bl)
			f.sum = (f.sum ^ uint64(c)) * 1099511628211
			if c &^= 0x030303; c != last { // dithering is no picture
				flush()
				last = c
			}
			run++
		}
	}
	flush()
	most := 0
	for _, n := range count {
		most = max(most, n)
	}
	f.shown = w*h-most >= minPicture
	return f
}

// pixels returns a function that reads the pixels of an image fast.
func pixels(img image.Image) func(x, y int) (r, g, b uint8) {
	switch p := img.(type) {
	case *image.RGBA:
		return func(x, y int) (uint8, uint8, uint8) {
			i := p.PixOffset(x, y)
			return p.Pix[i], p.Pix[i+1], p.Pix[i+2]
		}
	case *image.NRGBA:
		return func(x, y int) (uint8, uint8, uint8) {
			i := p.PixOffset(x, y)
			return p.Pix[i], p.Pix[i+1], p.Pix[i+2]
		}
	}
	return func(x, y int) (uint8, uint8, uint8) {
		r, g, b, _ := img.At(x, y).RGBA()
		return uint8(r >> 8), uint8(g >> 8), uint8(b >> 8)
	}
}

// differs reports whether two frames show different pictures.
func (f *frame) differs(other *frame) bool {
	if f.sum == other.sum {
		return false
	}
	for i := range f.grid {
		for c := range 3 {
			d := f.grid[i][c] - other.grid[i][c]
			if d > changed || d < -changed {
				return true
			}
		}
	}
	return false
}

// changed is the change of a cell's sum that counts: a few pixels, or the faint
// change of many. Rounding while the browser scales a picture stays below.
const changed = 300

// film keeps the newest frames of a page.
type film struct {
	mu      sync.Mutex
	png     []byte // newest, for the report
	newest  *frame
	changes int       // frames that differ from the frame before
	last    time.Time // of the newest change
	frames  int
	began   time.Time // of the first frame that is not blank
	wake    chan struct{}
}

func newFilm() *film { return &film{wake: make(chan struct{}, 1)} }

// add appends a frame.
func (f *film) add(raw []byte, at time.Time) {
	next, ok := readFrame(raw, at)
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frames++
	if f.newest != nil && next.differs(f.newest) {
		f.changes++
		f.last = at
	}
	if next.shown && f.began.IsZero() {
		f.began = at
	}
	// The newest picture that shows something goes into the report.
	if next.shown || f.png == nil || f.newest != nil && !f.newest.shown {
		f.png = raw
	}
	f.newest = next
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// look is the state of a film.
type look struct {
	newest  *frame
	changes int
	frames  int
	last    time.Time
	began   time.Time
}

func (f *film) look() look {
	f.mu.Lock()
	defer f.mu.Unlock()
	return look{f.newest, f.changes, f.frames, f.last, f.began}
}

// portray replaces the picture of the report, if it is one.
func (f *film) portray(raw []byte) {
	if _, ok := readFrame(raw, time.Time{}); !ok || len(raw) > verdict.MaxShot {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.png = raw
}

func (f *film) picture() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.png
}
