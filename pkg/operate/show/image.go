package show

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/store/image"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

type imageRow struct {
	Digest     string    `json:"digest"`
	References []string  `json:"references"`
	Size       int64     `json:"bytes"`
	Entries    int       `json:"entries"`
	Skipped    int       `json:"skipped"`
	Created    time.Time `json:"created"`
	LastUsed   time.Time `json:"last_used"`
	InUse      bool      `json:"in_use"`
}

func newImageRow(img image.Image) imageRow {
	img.References = orEmpty(img.References)
	return imageRow(img)
}

// Images shows the images that are stored.
func Images(io *term.IO, images []image.Image) error {
	return List[image.Image]{
		Key: "images", Row: func(img image.Image) any { return newImageRow(img) },
		Columns: Columns("~IMAGE", "DIGEST", ">SIZE", "CREATED", "LAST USED"),
		Cells: func(img image.Image) []string {
			used := term.Time(img.LastUsed)
			if img.InUse {
				used = "in use"
			}
			names := cmp.Or(strings.Join(img.References, ", "), "-")
			return []string{names, shortDigest(img.Digest), term.Size(img.Size), term.Time(img.Created), used}
		},
		Empty: "There are no images yet: sandboxes start from this machine's programs", Hint: "run: dreamcore image pull debian:12",
	}.Show(io, images, nil)
}

func shortDigest(digest string) string {
	const digits = 12
	return digest[:min(len(digest), len("sha256:")+digits)]
}

// Pulled shows the image of a reference, which may have been there before.
func Pulled(io *term.IO, ref string, img image.Image, unpacked bool) error {
	row := struct {
		imageRow
		Pulled bool `json:"pulled"`
	}{newImageRow(img), unpacked}
	return Value(io, row, func(p *term.Printer) {
		if !unpacked {
			p.Info("image "+ref+" exists already", img.Digest)
			return
		}
		p.Pairs(term.Pair{Key: "digest", Value: img.Digest})
		if img.Skipped > 0 {
			p.Info(fmt.Sprintf("%d device nodes and FIFOs were omitted: sandboxes have their own", img.Skipped))
		}
	})
}

type removedRow struct {
	Digest     string   `json:"digest"`
	References []string `json:"references"`
	Size       int64    `json:"bytes"`
}

// RemovedImages shows the images that were removed, and how much space that has freed.
func RemovedImages(io *term.IO, removed []image.Removed) error {
	total := int64(0)
	for i, r := range removed {
		total += r.Size
		removed[i].References = orEmpty(r.References)
	}
	err := List[image.Removed]{
		Key: "removed", Row: func(r image.Removed) any { return removedRow(r) },
		Columns: Columns("REMOVED", "~IMAGE", ">SIZE"), Empty: "There is nothing to remove",
		Cells: func(r image.Removed) []string {
			return []string{shortDigest(r.Digest), strings.Join(r.References, ", "), term.Size(r.Size)}
		},
	}.Show(io, removed, map[string]any{"bytes": total})
	if len(removed) > 0 && !io.JSON {
		io.Stdout().Success(fmt.Sprintf("%d removed, %s freed", len(removed), term.Size(total)))
	}
	return err
}
