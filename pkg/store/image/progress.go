package image

import (
	"io"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Step is the current operation on a layer.
type Step string

// The steps of a pull. Layers of local images are not downloaded.
const (
	Downloading Step = "downloading"
	Unpacking   Step = "unpacking"
)

// Progress is the progress of one layer.
type Progress struct {
	Step   Step
	Layer  int    // from 1
	Layers int    // of the image
	Digest string // of the layer; "" if unknown
	Done   int64  // bytes of the compressed layer
	Total  int64
}

// reportEvery is the number of bytes between two calls for one layer.
const reportEvery = 256 << 10

// reporter calls the caller's function, one call at a time.
type reporter struct {
	layers int
	mu     sync.Mutex
	call   func(Progress) // guarded by mu; may be nil
}

// reader returns a reader of a layer that reports its progress.
func (r *reporter) reader(in io.Reader, step Step, layer int, d v1.Descriptor) io.Reader {
	if r.call == nil {
		return in
	}
	p := Progress{Step: step, Layer: layer + 1, Layers: r.layers, Total: d.Size}
	if d.Digest.Hex != "" {
		p.Digest = d.Digest.String()
	}
	return &reportingReader{in: in, to: r, now: p}
}

type reportingReader struct {
	in   io.Reader
	to   *reporter
	now  Progress
	last int64
	done bool
}

func (r *reportingReader) Read(p []byte) (int, error) {
	n, err := r.in.Read(p)
	r.now.Done += int64(n)
	if r.now.Done-r.last >= reportEvery || err == io.EOF && !r.done {
		r.last, r.done = r.now.Done, err == io.EOF
		r.to.mu.Lock()
		r.to.call(r.now)
		r.to.mu.Unlock()
	}
	return n, err
}
