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

// layoutVersion is the only version of the format.
const layoutVersion = "1.0.0"

// layout is a directory in the OCI image layout: oci-layout, index.json, and
// blobs/sha256/<hex>. It is hostile: links out of it, and anything but regular
// files, are refused.
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
		Code: dreamcore.CodeSetup, Message: r.path + " is not a readable OCI layout", Err: err,
		Hint: "give the directory that contains oci-layout and index.json; give an unpacked root file system without " + LayoutPrefix,
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
		return manifest{}, flawf("its index.json is not a valid index: %v", err)
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

// pick returns the image that the reference names, else the only one for this
// machine. A guess among several could pick another one at every pull.
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

func (l *layout) get(_ context.Context, d v1.Descriptor) ([]byte, error) {
	if err := asManifest(d); err != nil {
		return nil, err
	}
	f, err := l.blob(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(verify(f, d))
	if err != nil {
		return nil, part("manifest "+d.Digest.String(), err)
	}
	return raw, nil
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

// file opens a regular file. Without O_NONBLOCK, a FIFO would block forever.
func (l *layout) file(name string) (*os.File, error) {
	f, err := l.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a part of the layout: %w", err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = flaw(name + " is not a regular file")
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

// readDocument reads all of r, at most maxDocument bytes.
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
