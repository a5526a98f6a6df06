package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Bounds of the contents of an archive.
const (
	maxArchiveEntries = 10_000
	maxArchiveLinks   = 8 // one after another
)

// archive is a tar file in the format of docker save: manifest.json names the
// files of the configuration and of the layers. It is read in place.
type archive struct {
	ref    reference
	file   *os.File
	opts   Options
	parts  map[string]span   // regular files by name
	links  map[string]string // targets by name: older versions of docker link equal layers
	config []byte
	layers []string // file names
}

// span is the location of a file in the archive.
type span struct{ offset, size int64 }

func openArchive(ctx context.Context, r reference, o Options) (source, error) {
	f, err := os.OpenFile(r.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, noArchive(r, err)
	}
	a := &archive{ref: r, file: f, opts: o, parts: map[string]span{}, links: map[string]string{}}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = flaw("it is not a regular file")
	}
	if err == nil {
		err = a.index(ctx)
	}
	if err != nil {
		if ctx.Err() == nil {
			err = noArchive(r, err)
		}
		return nil, errors.Join(err, f.Close())
	}
	return a, nil
}

func noArchive(r reference, err error) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Message: r.path + " is not a readable docker archive", Err: err,
		Hint: "create one with: docker save IMAGE > FILE.tar",
	}
}

// index notes the locations of the files in the archive.
func (a *archive) index(ctx context.Context) error {
	head := make([]byte, 2)
	if _, err := a.file.ReadAt(head, 0); err == nil && bytes.Equal(head, []byte{0x1f, 0x8b}) {
		return flaw("it is compressed: run gunzip on it first")
	}
	tr := tar.NewReader(a.file)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return flaw("it cannot be read: " + err.Error())
		}
		if n >= maxArchiveEntries {
			return excess(fmt.Sprintf("it has more than %d files", maxArchiveEntries))
		}
		name := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg:
			// The reader reads headers block by block, so the offset is now at
			// the first byte of the file.
			offset, err := a.file.Seek(0, io.SeekCurrent)
			if err != nil {
				return fmt.Errorf("read the archive: %w", err)
			}
			a.parts[name] = span{offset, h.Size}
		case tar.TypeSymlink:
			a.links[name] = path.Clean("/" + path.Join(path.Dir(name), h.Linkname))[1:]
		case tar.TypeLink:
			a.links[name] = path.Clean("/" + h.Linkname)[1:]
		}
	}
}

// find returns a file of the archive by its name in manifest.json.
func (a *archive) find(name string) (*io.SectionReader, error) {
	clean := path.Clean("/" + name)[1:]
	for range maxArchiveLinks {
		if p, ok := a.parts[clean]; ok {
			return io.NewSectionReader(a.file, p.offset, p.size), nil
		}
		next, ok := a.links[clean]
		if !ok {
			break
		}
		clean = next
	}
	return nil, flawf("it has no file %q", shorten(name))
}

func (a *archive) document(name string) ([]byte, error) {
	r, err := a.find(name)
	if err != nil {
		return nil, err
	}
	return readDocument(r, name)
}

func (a *archive) resolve(context.Context) (manifest, error) {
	raw, err := a.document("manifest.json")
	if err != nil {
		return manifest{}, err
	}
	var images tarball.Manifest
	if err := json.Unmarshal(raw, &images); err != nil {
		return manifest{}, flawf("its manifest.json is not valid: %v", err)
	}
	if len(images) != 1 {
		var tags []string
		for _, i := range images {
			tags = append(tags, i.RepoTags...)
		}
		return manifest{}, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("the archive %s holds %d images: %s", a.ref.path, len(images), shorten(strings.Join(tags, ", "))),
			Hint: "save one image alone: docker save IMAGE > FILE.tar",
		}
	}
	if a.config, err = a.document(images[0].Config); err != nil {
		return manifest{}, err
	}
	a.layers = images[0].Layers
	return a.manifest()
}

// manifest creates the manifest, which an archive does not have. The digests of
// its layers are unknown; the configuration has those of the uncompressed layers.
func (a *archive) manifest() (manifest, error) {
	if len(a.layers) == 0 {
		return manifest{}, flaw("it has no layers")
	}
	if len(a.layers) > a.opts.Limits.Layers {
		return manifest{}, excess(fmt.Sprintf("it has %d layers, %d are allowed", len(a.layers), a.opts.Limits.Layers))
	}
	sum := sha256.Sum256(a.config)
	id := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
	m := manifest{digest: id.String(), config: v1.Descriptor{MediaType: types.DockerConfigJSON, Digest: id, Size: int64(len(a.config))}}
	left := a.opts.Limits.Bytes
	for _, name := range a.layers {
		r, err := a.find(name)
		if err != nil {
			return manifest{}, err
		}
		if left -= r.Size(); left < 0 {
			return manifest{}, excess(fmt.Sprintf("its layers have more than %d bytes", a.opts.Limits.Bytes))
		}
		m.layers = append(m.layers, v1.Descriptor{MediaType: types.DockerUncompressedLayer, Size: r.Size()})
	}
	return m, nil
}

func (a *archive) prefetch(context.Context, manifest, *os.Root, *reporter) func() { return func() {} }

func (a *archive) open(_ context.Context, _ manifest, layer int) (io.ReadCloser, error) {
	if layer == configLayer {
		return io.NopCloser(bytes.NewReader(a.config)), nil
	}
	r, err := a.find(a.layers[layer])
	if err != nil {
		return nil, err
	}
	return io.NopCloser(r), nil
}

func (a *archive) Close() error { return a.file.Close() }
