package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// layoutVersion is the one version of the format there is.
const layoutVersion = "1.0.0"

// layout is a directory in the format of OCI: oci-layout, index.json, and
// blobs/sha256/<hex>. It may come from anywhere: links in it that leave it,
// and files that are none, are refused.
type layout struct {
	ref  reference
	root *os.Root
	opts Options
}

func openLayout(r reference, o Options) (source, error) {
	root, err := os.OpenRoot(r.path)
	if err != nil {
		return nil, noLayout(r, err)
	}
	l := &layout{ref: r, root: root, opts: o}
	raw, err := l.document("oci-layout")
	var version struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err == nil {
		err = json.Unmarshal(raw, &version)
	}
	if err == nil && version.Version != layoutVersion {
		err = flawf("its version is %q, not %s", shorten(version.Version), layoutVersion)
	}
	if err != nil {
		return nil, errors.Join(noLayout(r, err), root.Close())
	}
	return l, nil
}

func noLayout(r reference, err error) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Message: r.path + " is no OCI layout that can be read", Err: err,
		Hint: "name the directory that holds oci-layout and index.json; a directory with an unpacked root is named without " + LayoutPrefix,
	}
}

func (l *layout) Close() error { return l.root.Close() }

func (l *layout) prefetch(context.Context, manifest, *os.Root, *reporter) func() { return func() {} }

func (l *layout) resolve(ctx context.Context) (manifest, error) {
	raw, err := l.document("index.json")
	if err != nil {
		return manifest{}, err
	}
	var index struct {
		Manifests []v1.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return manifest{}, flawf("its index.json is no JSON of that kind: %v", err)
	}
	d, err := l.pick(index.Manifests)
	if err != nil {
		return manifest{}, err
	}
	doc, err := l.get(ctx, d)
	if err != nil {
		return manifest{}, err
	}
	return follow(ctx, doc, l.opts, l.get)
}

// pick finds the image in the layout: the one that the reference names, else
// the only one there is for this machine. To guess among several could pick
// another one at every pull.
func (l *layout) pick(manifests []v1.Descriptor) (v1.Descriptor, error) {
	fits := map[v1.Hash]v1.Descriptor{}
	var names []string
	for _, d := range manifests {
		switch {
		case l.ref.digest != "":
			if d.Digest.String() == l.ref.digest {
				return d, nil
			}
			continue
		case !d.MediaType.IsImage() && !d.MediaType.IsIndex():
			continue
		case d.Platform != nil && d.Platform.OS != "" && !runsOn(*d.Platform, l.opts.Architecture):
			continue
		}
		if _, known := fits[d.Digest]; !known {
			fits[d.Digest] = d
			names = append(names, "@"+d.Digest.String())
		}
	}
	switch {
	case len(fits) == 1:
		for _, d := range fits {
			return d, nil
		}
	case len(fits) == 0 && l.ref.digest != "":
		return v1.Descriptor{}, flaw("its index.json does not list that digest")
	case len(fits) == 0:
		return v1.Descriptor{}, flaw("it has nothing for linux/" + l.opts.Architecture)
	}
	const most = 20
	if len(names) > most {
		names = append(names[:most], "…")
	}
	return v1.Descriptor{}, &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("the layout %s holds %d images", l.ref.path, len(fits)),
		Hint: "add the digest of one of them: " + strings.Join(names, " "),
	}
}

func (l *layout) get(_ context.Context, d v1.Descriptor) (document, error) {
	if err := asManifest(d); err != nil {
		return document{}, err
	}
	f, err := l.blob(d)
	if err != nil {
		return document{}, err
	}
	defer f.Close()
	raw, err := io.ReadAll(verify(f, d))
	if err != nil {
		return document{}, part("manifest "+d.Digest.String(), err)
	}
	return document{raw}, nil
}

func (l *layout) open(_ context.Context, m manifest, layer int) (io.ReadCloser, error) {
	return l.blob(m.descriptor(layer))
}

func (l *layout) blob(d v1.Descriptor) (io.ReadCloser, error) {
	if d.Digest.Hex == "" {
		return nil, flaw("a part of it has no digest")
	}
	return l.file(filepath.Join("blobs", d.Digest.Algorithm, d.Digest.Hex))
}

// file opens a regular file. A FIFO would otherwise hold us for ever.
func (l *layout) file(name string) (*os.File, error) {
	f, err := l.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a part of the layout: %w", err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = flaw(name + " is no regular file")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (l *layout) document(name string) ([]byte, error) {
	f, err := l.file(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readDocument(f, name)
}

// readDocument reads all of r, which must be within maxDocument.
func readDocument(r io.Reader, name string) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(raw) > maxDocument {
		return nil, excess(fmt.Sprintf("%s has more than %d bytes", name, maxDocument))
	}
	return raw, nil
}
