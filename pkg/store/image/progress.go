package image

import (
	"io"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Step is what a pull does with a layer.
type Step string

// The steps of a pull. Layers of local images are only unpacked.
const (
	Downloading Step = "downloading"
	Unpacking   Step = "unpacking"
)

// Progress says how far one layer is.
type Progress struct {
	Step   Step
	Layer  int    // from 1
	Layers int    // of the image
	Digest string // of the layer; "" where it is not known
	Done   int64  // bytes of the layer as it is packed
	Total  int64
}

// reportEvery is how many bytes pass between two calls for one layer.
const reportEvery = 256 << 10

// reporter calls the operator's function, one call at a time.
type reporter struct {
	layers int
	mu     sync.Mutex
	call   func(Progress) // guarded by mu; may be nil
}

func newReporter(call func(Progress), layers int) *reporter {
	return &reporter{call: call, layers: layers}
}

// reader reports what is read of a layer from r.
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
