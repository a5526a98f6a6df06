package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// raw is an image with a given manifest.
type raw struct {
	v1.Image
	manifest []byte
	media    types.MediaType
}

func (r raw) RawManifest() ([]byte, error)        { return r.manifest, nil }
func (r raw) MediaType() (types.MediaType, error) { return r.media, nil }
func (r raw) Digest() (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(r.manifest))
	return h, err
}
func (r raw) Size() (int64, error) { return int64(len(r.manifest)), nil }

// edited changes the manifest of an image.
func edited(t *testing.T, img v1.Image, edit func(m map[string]any)) raw {
	t.Helper()
	b, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	edit(m)
	if b, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	return raw{img, b, types.DockerManifestSchema2}
}

func layerField(m map[string]any, layer int, key string, value any) {
	m["layers"].([]any)[layer].(map[string]any)[key] = value
}

func TestManifestsThatAreRefusedBeforeADownload(t *testing.T) {
	good := simple(t, "1")
	for name, c := range map[string]struct {
		edit func(m map[string]any)
		want string
	}{
		"a foreign layer":      {func(m map[string]any) { layerField(m, 0, "mediaType", types.DockerForeignLayer) }, "foreign layer"},
		"a layer elsewhere":    {func(m map[string]any) { layerField(m, 0, "urls", []string{"https://other.test/x"}) }, "foreign layer"},
		"a restricted layer":   {func(m map[string]any) { layerField(m, 0, "mediaType", types.OCIRestrictedLayer) }, "foreign layer"},
		"an encrypted layer":   {func(m map[string]any) { layerField(m, 0, "mediaType", string(types.OCILayer)+"+encrypted") }, "is not known"},
		"a layer of all bytes": {func(m map[string]any) { layerField(m, 0, "size", int64(1)<<62) }, "more than"},
		"a layer of no bytes":  {func(m map[string]any) { layerField(m, 0, "size", -1) }, "no size"},
		"many layers": {func(m map[string]any) {
			l := m["layers"].([]any)
			for range 300 {
				l = append(l, l[0])
			}
			m["layers"] = l
		}, "layers, 200 are allowed"},
		"layers that sum up": {func(m map[string]any) {
			l := m["layers"].([]any)
			layerField(m, 0, "size", int64(5)<<30)
			m["layers"] = append(l, l[0])
		}, "more than"},
		"no layers":             {func(m map[string]any) { m["layers"] = []any{} }, "no layers"},
		"a chart":               {func(m map[string]any) { m["config"].(map[string]any)["mediaType"] = "application/vnd.test.chart+json" }, "not an image of a file system"},
		"a large configuration": {func(m map[string]any) { m["config"].(map[string]any)["size"] = 5 << 20 }, "its configuration has"},
		"an index as well":      {func(m map[string]any) { m["manifests"] = []any{} }, "also an index"},
		"an old format":         {func(m map[string]any) { m["schemaVersion"] = 1 }, "schema 1"},
		"a bad digest":          {func(m map[string]any) { layerField(m, 0, "digest", "sha256:../../x") }, "manifest is not valid"},
		"no digest":             {func(m map[string]any) { delete(m["layers"].([]any)[0].(map[string]any), "digest") }, "no digest"},
		"a manifest too large":  {func(m map[string]any) { m["annotations"] = map[string]string{"x": strings.Repeat("x", 5<<20)} }, "too long"},
		"nothing of a manifest": {func(m map[string]any) { clear(m) }, "no configuration or no layers"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := newRegistry(t)
			bad := edited(t, good, c.edit)
			reg.hook(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/manifests/") {
					return false
				}
				w.Header().Set("Content-Type", string(bad.media))
				w.Write(bad.manifest)
				return true
			})
			s := newStore(t, Limits{})
			_, _, err := s.Pull(t.Context(), reg.host()+"/game:v1", nil)
			wantError(t, err, dreamcore.CodeSetup, c.want)
			if blobs := reg.asked("/blobs/"); len(blobs) != 0 {
				t.Errorf("it asked for %q", blobs)
			}
			wantClean(t, s, 0)
		})
	}
}

func TestHostileLayerIsNamedAndLeavesNoFiles(t *testing.T) {
	reg := newRegistry(t)
	bad := layerOf(t, tarOf(t, file("good", "1"), file("../evil", "1")))
	digest, err := bad.Digest()
	if err != nil {
		t.Fatal(err)
	}
	tagged, _ := reg.push(t, "evil", "v1", imageOf(t, layerOf(t, tarOf(t, file("a", "1"))), bad))
	s := newStore(t, Limits{})
	_, _, err = s.Pull(t.Context(), tagged, nil)
	wantError(t, err, dreamcore.CodeSetup, fmt.Sprintf(`layer 2 of 2 (sha256:%s): entry "../evil": its name leaves the image`, digest.Hex[:12]))
	wantClean(t, s, 0)
	if entries, err := os.ReadDir(filepath.Dir(s.dir)); err != nil || len(entries) != 1 {
		t.Errorf("alongside the store there is %v, %v", entries, err)
	}
}

func TestMismatchedConfigurationIsRefused(t *testing.T) {
	l := layerOf(t, tarOf(t, file("a", "1")))
	img := imageOf(t, l)
	for name, c := range map[string]struct {
		edit func(*v1.ConfigFile)
		want string
	}{
		"another layer within": {func(c *v1.ConfigFile) { c.RootFS.DiffIDs[0].Hex = strings.Repeat("0", 64) }, "its configuration says"},
		"more layers":          {func(c *v1.ConfigFile) { c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, c.RootFS.DiffIDs[0]) }, "lists 2 layers"},
		"another system":       {func(c *v1.ConfigFile) { c.OS = "windows" }, "it is for windows/"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			cfg = cfg.DeepCopy()
			c.edit(cfg)
			bad, err := mutate.ConfigFile(img, cfg)
			if err != nil {
				t.Fatal(err)
			}
			reg := newRegistry(t)
			tagged, _ := reg.push(t, "game", "v1", bad)
			s := newStore(t, Limits{})
			_, _, err = s.Pull(t.Context(), tagged, nil)
			wantError(t, err, dreamcore.CodeSetup, c.want)
			wantClean(t, s, 0)
		})
	}
}
