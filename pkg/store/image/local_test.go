package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// writeLayout writes images into a layout.
func writeLayout(t *testing.T, images ...v1.Image) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	p, err := ocilayout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range images {
		if err := p.AppendImage(img); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPullFromALayout(t *testing.T) {
	img := imageOf(t, layerOf(t, tarOf(t, file("a", "1"))), layerOf(t, tarOf(t, file("b", "2"))))
	dir := writeLayout(t, img)
	s := newStore(t, Limits{})
	ref := LayoutPrefix + dir
	got := pull(t, s, ref)
	if got.Digest != digestOfImage(t, img) || len(got.References) != 1 || got.References[0] != ref {
		t.Errorf("got %+v", got)
	}
	wantTree(t, use(t, s, got), "a=1", "b=2")
	if _, unpacked, err := s.Pull(t.Context(), ref+"/.", nil); err != nil || unpacked {
		t.Errorf("it was unpacked again: %v, %v", unpacked, err)
	}
	if _, err := s.Lookup(ref); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Pull(t.Context(), ref+"@"+got.Digest, nil); err != nil {
		t.Error(err)
	}
	wantClean(t, s, 1)
}

func TestLayoutOfSeveralImagesNeedsADigest(t *testing.T) {
	one, two := simple(t, "1"), simple(t, "2")
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	dir := writeLayout(t, one, two)
	s := newStore(t, Limits{})
	_, _, err := s.Pull(t.Context(), LayoutPrefix+dir, nil)
	wantError(t, err, dreamcore.CodeInvalid, "holds 2 images")
	if hint := dreamcore.HintOf(err); !strings.Contains(hint, digestOfImage(t, one)) || !strings.Contains(hint, digestOfImage(t, two)) {
		t.Errorf("the hint is %q", hint)
	}
	got := pull(t, s, LayoutPrefix+dir+"@"+digestOfImage(t, two))
	wantTree(t, use(t, s, got), "bin/", "bin/sh=2")
	_, _, err = s.Pull(t.Context(), LayoutPrefix+dir+"@sha256:"+strings.Repeat("0", 64), nil)
	wantError(t, err, dreamcore.CodeSetup, "does not list that digest")

	// One image for each architecture is not ambiguous.
	p, err := ocilayout.FromPath(writeLayout(t))
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: imageFor(t, other, layerOf(t, tarOf(t, file("a", "1")))), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: other}}},
		mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
	if err := p.AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	if got := pull(t, s, LayoutPrefix+string(p)); got.Digest != digestOfImage(t, one) {
		t.Errorf("got %s", got.Digest)
	}
	_, _, err = s.Pull(t.Context(), LayoutPrefix+writeLayout(t), nil)
	wantError(t, err, dreamcore.CodeSetup, "nothing for linux/")
}

func TestLayoutsThatAreRefused(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	img := simple(t, "1")
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	blob := func(h v1.Hash) string { return filepath.Join("blobs", h.Algorithm, h.Hex) }
	manifest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	replace := func(t *testing.T, path string, make func(path string) error) {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := make(path); err != nil {
			t.Fatal(err)
		}
	}
	text := func(s string) func(string) error {
		return func(p string) error { return os.WriteFile(p, []byte(s), 0o600) }
	}
	fifo := func(p string) error { return syscall.Mkfifo(p, 0o600) }
	link := func(p string) error { return os.Symlink(secret, p) }
	gone := func(string) error { return nil }
	for name, c := range map[string]struct {
		file string
		make func(path string) error
		want string
	}{
		"no marker":              {"oci-layout", gone, "is not a readable OCI layout"},
		"another version":        {"oci-layout", text(`{"imageLayoutVersion":"2.0.0"}`), "is not a readable OCI layout"},
		"a marker that waits":    {"oci-layout", fifo, "not a regular file"},
		"an index that waits":    {"index.json", fifo, "not a regular file"},
		"an index elsewhere":     {"index.json", link, "escapes"},
		"no index":               {"index.json", gone, "no such file"},
		"an index of nothing":    {"index.json", text("[]"), "not a valid index"},
		"a huge index":           {"index.json", text(strings.Repeat(" ", maxDocument+1)), "more than"},
		"a layer elsewhere":      {blob(m.Layers[0].Digest), link, "escapes"},
		"a layer that waits":     {blob(m.Layers[0].Digest), fifo, "not a regular file"},
		"a layer of other bytes": {blob(m.Layers[0].Digest), text("other"), "layer 1 of 1"},
		"no layer":               {blob(m.Layers[0].Digest), gone, "no such file"},
		"another configuration":  {blob(m.Config.Digest), text("{}"), "configuration sha256:"},
		"another manifest":       {blob(manifest), text("{}"), "manifest sha256:"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := writeLayout(t, img)
			replace(t, filepath.Join(dir, c.file), c.make)
			s := newStore(t, Limits{})
			_, _, err := s.Pull(t.Context(), LayoutPrefix+dir, nil)
			wantError(t, err, dreamcore.CodeSetup, c.want)
			wantClean(t, s, 0)
		})
	}
	_, _, err = newStore(t, Limits{}).Pull(t.Context(), LayoutPrefix+secret, nil)
	wantError(t, err, dreamcore.CodeSetup, "is not a readable OCI layout")
}

func writeArchive(t *testing.T, img v1.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	ref, err := name.NewTag("game:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(path, ref, img); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPullFromAnArchive(t *testing.T) {
	layers := [][]byte{tarOf(t, file("a", "1"), file("b", "1")), tarOf(t, file(".wh.a", ""), file("c", "22"))}
	img := imageOf(t, layerOf(t, layers[0]), layerOf(t, layers[1]))
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	manifest := func(layers ...string) entry {
		b, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{"game:v1"}, "Layers": layers}})
		if err != nil {
			t.Fatal(err)
		}
		return file("manifest.json", string(b))
	}
	write := func(entries ...entry) string {
		path := filepath.Join(t.TempDir(), "image.tar")
		if err := os.WriteFile(path, tarOf(t, entries...), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// Versions of docker and other tools write archives in these ways: compressed
	// and uncompressed layers, and equal layers as links.
	for name, path := range map[string]string{
		"packed":   writeArchive(t, img),
		"unpacked": write(manifest("x/layer.tar", "y/layer.tar"), file("config.json", string(config)), dir("x"), file("x/layer.tar", string(layers[0])), file("./y/layer.tar", string(layers[1]))),
		"linked": write(file("blobs/1", string(layers[0])), symlink("x/layer.tar", "../blobs/1"), hardLink("y", "blobs/2"), file("blobs/2", string(layers[1])),
			file("config.json", string(config)), manifest("x/layer.tar", "y")),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Limits{})
			got := pull(t, s, ArchivePrefix+path)
			if got.Digest != id.String() || got.Size != 3 || got.References[0] != ArchivePrefix+path {
				t.Errorf("got %+v", got)
			}
			wantTree(t, use(t, s, got), "b=1", "c=22")
			if _, unpacked, err := s.Pull(t.Context(), ArchivePrefix+path, nil); err != nil || unpacked {
				t.Errorf("it was unpacked again: %v, %v", unpacked, err)
			}
			wantClean(t, s, 1)
		})
	}
}

func TestArchivesThatAreRefused(t *testing.T) {
	good := tarOf(t, file("a", "1"))
	img := imageOf(t, layerOf(t, good))
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg := file("c", string(config))
	list := func(text string) entry { return file("manifest.json", text) }
	one := list(`[{"Config":"c","Layers":["l"]}]`)
	var many []entry
	for range maxArchiveEntries + 1 {
		many = append(many, dir("d"))
	}
	cut := func(raw []byte) []byte { return raw[:len(raw)-1024-600] } // the end of the tar, and some of its last file
	noLayers := bytes.ReplaceAll(config, []byte("diff_ids"), []byte("diff_xxx"))
	for name, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"no tar":                 {[]byte(strings.Repeat("this is no tar. ", 200)), "is not a readable docker archive"},
		"empty":                  {nil, "no file \"manifest.json\""},
		"packed":                 {gzipped(t, tarOf(t, one)), "run gunzip"},
		"no list":                {tarOf(t, cfg), "no file \"manifest.json\""},
		"a list of nothing":      {tarOf(t, list("{}")), "manifest.json is not valid"},
		"an empty list":          {tarOf(t, list("[]")), "holds 0 images"},
		"two images":             {tarOf(t, list(`[{"RepoTags":["x:1"]},{"RepoTags":["y:2"]}]`)), "holds 2 images: x:1, y:2"},
		"a huge list":            {tarOf(t, list(strings.Repeat(" ", maxDocument+1))), "more than"},
		"no configuration":       {tarOf(t, one), "no file \"c\""},
		"a file outside":         {tarOf(t, list(`[{"Config":"../../../etc/passwd","Layers":["l"]}]`)), "no file \"../../../etc/passwd\""},
		"links in circles":       {tarOf(t, symlink("c", "d"), symlink("d", "c"), one), "no file \"c\""},
		"a link outside":         {tarOf(t, symlink("c", "../../../etc/passwd"), one), "no file \"c\""},
		"no layer":               {tarOf(t, cfg, one), "no file \"l\""},
		"no layers":              {tarOf(t, cfg, list(`[{"Config":"c"}]`)), "no layers"},
		"many layers":            {tarOf(t, cfg, list(`[{"Config":"c","Layers":[`+strings.Repeat(`"l",`, 300)+`"l"]}]`)), "301 layers, 200 are allowed"},
		"another layer":          {tarOf(t, cfg, one, file("l", string(tarOf(t, file("a", "2"))))), "its configuration says"},
		"a hostile layer":        {tarOf(t, cfg, one, file("l", string(tarOf(t, file("../a", "2"))))), `layer 1 of 1: entry "../a"`},
		"a configuration of old": {tarOf(t, file("c", string(noLayers)), one, file("l", string(good))), "lists 0 layers"},
		"many files":             {tarOf(t, many...), "more than 10000 files"},
		"cut":                    {cut(tarOf(t, cfg, one, file("l", string(good)))), "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image.tar")
			if err := os.WriteFile(path, c.raw, 0o600); err != nil {
				t.Fatal(err)
			}
			s := newStore(t, Limits{})
			_, _, err := s.Pull(t.Context(), ArchivePrefix+path, nil)
			code := dreamcore.CodeSetup
			if strings.Contains(c.want, "images") {
				code = dreamcore.CodeInvalid
			}
			wantError(t, err, code, c.want)
			wantClean(t, s, 0)
		})
	}
	small := newStore(t, Limits{Bytes: 1000})
	large := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(large, tarOf(t, cfg, one, file("l", string(good))), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = small.Pull(t.Context(), ArchivePrefix+large, nil)
	wantError(t, err, dreamcore.CodeSetup, "its layers have more than 1000 bytes")

	s := newStore(t, Limits{})
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, filepath.Dir(path), filepath.Join(filepath.Dir(path), "nothing")} {
		_, _, err := s.Pull(t.Context(), ArchivePrefix+p, nil)
		wantError(t, err, dreamcore.CodeSetup, "is not a readable docker archive")
	}
}

// The index of an archive must point exactly at the bytes of its files.
func TestArchiveIndexHasExactOffsets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.tar")
	long := strings.Repeat("l", 150) // has a header of its own
	raw := tarOf(t, file("one", "1"), entry{tar.Header{Name: long, Typeflag: tar.TypeReg, Size: 1000, Format: tar.FormatPAX}, strings.Repeat("2", 1000)}, file("three", "333"))
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := openArchive(t.Context(), reference{path: path}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	for name, want := range map[string]string{"one": "1", "/one": "1", "./three": "333", long: strings.Repeat("2", 1000)} {
		r, err := src.(*archive).find(name)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v", name, b, err)
		}
	}
}
