// Package pull pulls an image and shows its progress: on a terminal in one line,
// otherwise in one line for each layer, and every ten seconds of a download.
package pull

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/store/image"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Image pulls an image into the store. unpacked is false if the store had it
// already.
func Image(ctx context.Context, out *term.Printer, images *image.Store, ref string) (img image.Image, unpacked bool, err error) {
	began := time.Now()
	v := &view{out: out, ref: ref, loaded: map[int]image.Progress{}, line: out.Transfer("Looking up " + ref)}
	defer v.line.Stop()
	img, unpacked, err = images.Pull(ctx, ref, v.update)
	v.line.Stop()
	if err == nil && unpacked {
		out.Success("image "+ref+" pulled", term.Size(img.Size), fmt.Sprintf("%d entries", img.Entries), term.Duration(time.Since(began)))
	}
	return img, unpacked, err
}

type view struct {
	out      *term.Printer
	ref      string
	line     *term.Transfer
	loaded   map[int]image.Progress
	unpacked int // number of layers of which the unpacking has begun
}

// update must not be called concurrently.
func (v *view) update(p image.Progress) {
	if p.Step == image.Downloading {
		v.loaded[p.Layer] = p
		v.line.Show(v.text(p.Layers))
		return
	}
	v.unpacked = p.Layer
	v.line.Update(v.text(p.Layers))
}

func (v *view) text(layers int) string {
	parts := []string{"Pulling " + v.ref}
	var done, total int64
	for _, p := range v.loaded {
		done, total = done+p.Done, total+p.Total
	}
	if done < total {
		parts = append(parts, "downloading "+term.Bytes(done, total))
	}
	if v.unpacked > 0 {
		parts = append(parts, fmt.Sprintf("unpacking layer %d of %d", v.unpacked, layers))
	}
	return strings.Join(parts, ", ")
}
