package pull

import (
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/store/image"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

func TestProgressIsOneTextForAllLayers(t *testing.T) {
	const want = "Pulling x, downloading 3.1 kB of 6.1 kB, unpacking layer 1 of 2"
	for _, terminal := range []bool{true, false} {
		io, _, _ := term.Buffers("")
		io.OutTerminal = terminal
		out := io.Stdout()
		v := &view{out: out, ref: "x", loaded: map[int]image.Progress{}, line: out.Transfer("")}
		v.update(image.Progress{Step: image.Downloading, Layer: 1, Layers: 2, Done: 2 << 10, Total: 2 << 10})
		v.update(image.Progress{Step: image.Downloading, Layer: 2, Layers: 2, Done: 1 << 10, Total: 4 << 10})
		v.update(image.Progress{Step: image.Unpacking, Layer: 1, Layers: 2})
		v.line.Stop()
		if got := v.text(2); got != want {
			t.Errorf("terminal %v: %q", terminal, got)
		}
	}
}
