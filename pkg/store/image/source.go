package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// source reads one image. It must not be used concurrently; Close must be called,
// also after errors.
type source interface {
	// resolve returns the manifest of the image for the store's architecture.
	resolve(ctx context.Context) (manifest, error)
	// prefetch may start to download layers of m into files in dir, for open.
	// The caller must call stop, which waits until the downloads have ended.
	prefetch(ctx context.Context, m manifest, dir *os.Root, report *reporter) (stop func())
	// open returns the bytes of a layer by its index, or of the configuration for
	// configLayer. They may not be checked yet. The caller must Close the reader.
	open(ctx context.Context, m manifest, layer int) (io.ReadCloser, error)
	Close() error
}

// configLayer is the index of the configuration.
const configLayer = -1

// manifest lists the parts of an image.
type manifest struct {
	digest string // of the image: "sha256:…"
	config v1.Descriptor
	layers []v1.Descriptor // the lowest first; a zero digest is unknown
}

// descriptor returns the descriptor of a layer, or of the configuration.
func (m manifest) descriptor(layer int) v1.Descriptor {
	if layer == configLayer {
		return m.config
	}
	return m.layers[layer]
}

// where returns the name of a layer in messages.
func (m manifest) where(layer int) string {
	d := m.descriptor(layer).Digest
	if layer == configLayer {
		return "configuration " + d.String()
	}
	s := fmt.Sprintf("layer %d of %d", layer+1, len(m.layers))
	if d.Hex != "" {
		s += " (" + d.Algorithm + ":" + d.Hex[:12] + ")"
	}
	return s
}

func (s *Store) source(ctx context.Context, r reference) (source, error) {
	switch r.kind {
	case kindLayout:
		return openLayout(r, s.opts)
	case kindArchive:
		return openArchive(ctx, r, s.opts)
	}
	return s.openRegistry(r)
}

// content is a manifest or an index of manifests. Its fields decide which one it
// is, never its media type.
type content struct {
	SchemaVersion int             `json:"schemaVersion"`
	Config        *v1.Descriptor  `json:"config"`
	Layers        []v1.Descriptor `json:"layers"`
	Manifests     []v1.Descriptor `json:"manifests"`
}

// maxNesting bounds indexes in indexes.
const maxNesting = 3

// follow goes from a document, a manifest or an index, down to the manifest for an
// architecture. get returns the document of a descriptor, at most maxDocument
// bytes, checked against its digest.
func follow(ctx context.Context, doc []byte, o Options, get func(context.Context, v1.Descriptor) ([]byte, error)) (manifest, error) {
	for range maxNesting {
		var c content
		if err := json.Unmarshal(doc, &c); err != nil {
			return manifest{}, flawf("its manifest is not valid: %v", err)
		}
		if c.SchemaVersion == 1 {
			return manifest{}, errSchema1
		}
		// A document that is both could be read as one here and as the other by
		// the program that inspected it.
		if c.Manifests != nil && (c.Layers != nil || c.Config != nil) {
			return manifest{}, flaw("its manifest is also an index")
		}
		if c.Manifests == nil {
			return readManifest(doc, c, o.Limits)
		}
		d, err := choose(c.Manifests, o.Architecture)
		if err != nil {
			return manifest{}, err
		}
		if doc, err = get(ctx, d); err != nil {
			return manifest{}, err
		}
	}
	return manifest{}, flaw("its indexes are nested too deeply")
}

// readManifest refuses images that cannot be unpacked, before any part of them is
// downloaded.
func readManifest(doc []byte, c content, limits Limits) (manifest, error) {
	if c.Config == nil || len(c.Layers) == 0 {
		return manifest{}, flaw("its manifest has no configuration or no layers")
	}
	if !c.Config.MediaType.IsConfig() {
		return manifest{}, flawf("it is not an image of a file system, but %q", shorten(string(c.Config.MediaType)))
	}
	if c.Config.Size < 0 || c.Config.Size > maxDocument {
		return manifest{}, excess(fmt.Sprintf("its configuration has %d bytes, %d are allowed", c.Config.Size, maxDocument))
	}
	if len(c.Layers) > limits.Layers {
		return manifest{}, excess(fmt.Sprintf("it has %d layers, %d are allowed", len(c.Layers), limits.Layers))
	}
	sum := sha256.Sum256(doc)
	m := manifest{digest: "sha256:" + hex.EncodeToString(sum[:]), config: *c.Config, layers: c.Layers}
	if m.config.Digest.Hex == "" {
		return manifest{}, flaw("its configuration has no digest")
	}
	left := limits.Bytes
	for i, l := range m.layers {
		if l.Digest.Hex == "" || l.Size < 0 {
			return manifest{}, flawf("layer %d has no digest or no size", i+1)
		}
		if err := checkLayerType(l); err != nil {
			return manifest{}, part(m.where(i), err)
		}
		if l.Size > left {
			return manifest{}, excess(fmt.Sprintf("its layers have more than %d bytes", limits.Bytes))
		}
		left -= l.Size
	}
	return m, nil
}

func checkLayerType(l v1.Descriptor) error {
	switch {
	case !l.MediaType.IsLayer():
		return flawf("its media type %q is not known", shorten(string(l.MediaType)))
	case !l.MediaType.IsDistributable(), len(l.URLs) > 0:
		return flaw("it is stored on another server (a foreign layer)")
	}
	return nil
}

// choose returns the manifest for Linux on an architecture, the first one if there
// are several, as other tools do.
func choose(manifests []v1.Descriptor, arch string) (v1.Descriptor, error) {
	var offered []string
	var plain []v1.Descriptor
	for _, d := range manifests {
		if !d.MediaType.IsImage() && !d.MediaType.IsIndex() {
			continue
		}
		if d.Platform == nil {
			plain = append(plain, d)
			continue
		}
		if runsOn(*d.Platform, arch) {
			return d, nil
		}
		if d.Platform.OS != "unknown" { // attestations of the build
			offered = append(offered, shorten(d.Platform.String()))
		}
	}
	if len(plain) == 1 {
		return plain[0], nil // its configuration has the platform
	}
	const most = 20
	if len(offered) > most {
		offered = append(offered[:most], "…")
	}
	return v1.Descriptor{}, flawf("it has nothing for linux/%s; it is for: %s", arch, strings.Join(offered, ", "))
}

// runsOn reports whether an image for p runs on every machine of an architecture.
// Variants that only newer machines support are not chosen.
func runsOn(p v1.Platform, arch string) bool {
	if p.OS != "linux" || p.Architecture != arch {
		return false
	}
	switch p.Variant {
	case "", "v1":
		return true
	case "v8":
		return arch == "arm64"
	}
	return false
}

// readConfig returns the digests of the uncompressed layers from the configuration.
func readConfig(ctx context.Context, src source, m manifest, arch string) ([]v1.Hash, error) {
	r, err := src.open(ctx, m, configLayer)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(verify(r, m.config))
	if err != nil {
		return nil, part(m.where(configLayer), err)
	}
	return parseConfig(raw, arch, len(m.layers))
}

func parseConfig(raw []byte, arch string, layers int) ([]v1.Hash, error) {
	var c struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		RootFS       struct {
			DiffIDs []v1.Hash `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, flawf("its configuration is not valid: %v", err)
	}
	if c.OS != "" && c.OS != "linux" || c.Architecture != "" && c.Architecture != arch {
		return nil, flawf("it is for %s/%s, this machine needs linux/%s", shorten(c.OS), shorten(c.Architecture), arch)
	}
	if len(c.RootFS.DiffIDs) != layers {
		return nil, flawf("its configuration lists %d layers, its manifest %d", len(c.RootFS.DiffIDs), layers)
	}
	for _, id := range c.RootFS.DiffIDs {
		if id.Hex == "" {
			return nil, flaw("its configuration has a layer without a digest")
		}
	}
	return c.RootFS.DiffIDs, nil
}

// errSchema1 refuses a format that has no digests to check.
const errSchema1 = flaw("it has the format of 2014 (schema 1), which cannot be verified")

// asManifest returns an error if d cannot be read as a manifest or an index.
func asManifest(d v1.Descriptor) error {
	if d.Size < 0 || d.Size > maxDocument {
		return excess(fmt.Sprintf("a manifest has %d bytes, %d are allowed", d.Size, maxDocument))
	}
	if d.MediaType == types.DockerManifestSchema1 || d.MediaType == types.DockerManifestSchema1Signed {
		return errSchema1
	}
	return nil
}
