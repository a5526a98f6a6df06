package image

import (
	"archive/tar"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// FuzzUnpack unpacks two layers of any bytes. Nothing outside changes (which
// unpackTo checks), and the tree contains only files, directories and links within
// the bounds.
func FuzzUnpack(f *testing.F) {
	seeds := [][]entry{
		nil,
		{file("a/b", "text"), dir("c/"), symlink("d", "a"), hardLink("e", "a/b")},
		{symlink("a", "../outside"), file("a/evil", "x"), hardLink("s", "a/secret")},
		{symlink("a", "/a/a"), file("a/x", "x"), symlink("a", "b"), symlink("b", ".."), file("b/b/x", "")},
		{file("../x", ""), file("a/.wh.b", ""), file("a/.wh..wh..opq", ""), file(".wh.a", ""), file(".wh...", "")},
		{special("n", tar.TypeChar), hardLink("m", "n"), special("p/f", tar.TypeFifo), file("n", "x")},
		{entry{Header: tar.Header{Name: "s", Typeflag: tar.TypeReg, Mode: 0o7777, Uid: 1, Gid: 2, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}}}},
		{file(strings.Repeat("d/", 40)+"x", ""), dir("."), file(strings.Repeat("n", 255), "")},
	}
	for i, a := range seeds {
		f.Add(tarOf(f, a...), tarOf(f, seeds[(i+1)%len(seeds)]...))
		f.Add(gzipped(f, tarOf(f, a...)), tarOf(f, seeds[(i+2)%len(seeds)]...))
	}
	limits := Limits{Bytes: 1 << 16, FileBytes: 1 << 15, Entries: 200, PathDepth: 20}
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		root, u, err := unpackTo(t, limits, lower, upper)
		if err != nil && !isFlaw(err) && !isExcess(err) {
			t.Errorf("the error is not a flaw of the image: %v", err)
		}
		if u.bytes > limits.Bytes && err == nil {
			t.Errorf("%d bytes were written", u.bytes)
		}
		wantHarmless(t, root, limits)
	})
}

func wantHarmless(t *testing.T, root string, limits Limits) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if p != root {
			n++
		}
		if m := fi.Mode(); !m.IsRegular() && !m.IsDir() && m.Type() != fs.ModeSymlink || m&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			t.Errorf("%s is %v", p, m)
		}
		if rel, _ := filepath.Rel(root, p); strings.Count(rel, "/")+1 > limits.PathDepth {
			t.Errorf("%s is too deep", rel)
		}
		return nil
	})
	if err != nil || n > limits.Entries {
		t.Errorf("%d entries, %v", n, err)
	}
}

// FuzzManifest reads any bytes as a manifest or an index: an accepted one is within
// the bounds.
func FuzzManifest(f *testing.F) {
	img := imageOf(f, layerOf(f, tarOf(f, file("a", "1"))))
	m, err := img.RawManifest()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m)
	for _, s := range []string{
		"", "null", "[]", "{}", `{"manifests":[]}`, `{"manifests":[{}]}`, `{"layers":[{"size":-1}],"config":{}}`, `{"schemaVersion":1}`,
		`{"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:` + strings.Repeat("0", 64) + `","size":1}]}`,
	} {
		f.Add([]byte(s))
	}
	o := Options{Architecture: "amd64", Limits: Limits{}.withDefaults()}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := follow(t.Context(), raw, o, func(_ context.Context, d v1.Descriptor) ([]byte, error) {
			return raw, asManifest(d)
		})
		if err != nil {
			if !isFlaw(err) && !isExcess(err) {
				t.Errorf("the error is not a flaw of the image: %v", err)
			}
			return
		}
		total := int64(0)
		for _, l := range got.layers {
			if total += l.Size; l.Size < 0 || total > o.Limits.Bytes || len(l.Digest.Hex) < 64 || len(l.URLs) > 0 {
				t.Errorf("accepted %+v", l)
			}
		}
		if len(got.layers) == 0 || len(got.layers) > o.Limits.Layers || got.config.Size > maxDocument || !digestForm().MatchString(got.digest) {
			t.Errorf("accepted %+v", got)
		}
	})
}

// FuzzArchive reads any bytes as a docker archive.
func FuzzArchive(f *testing.F) {
	good := tarOf(f, file("a", "1"))
	config, err := imageOf(f, layerOf(f, good)).RawConfigFile()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tarOf(f, file("c", string(config)), file("l", string(good)), file("manifest.json", `[{"Config":"c","Layers":["l"]}]`)))
	f.Add(tarOf(f, symlink("c", "d"), hardLink("d", "c"), file("manifest.json", `[{"Config":"c"}]`)))
	f.Add([]byte{})
	f.Add(gzipped(f, good))
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "a.tar")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		s := newStore(t, Limits{Bytes: 1 << 16, Entries: 100})
		_, _, err := s.Pull(t.Context(), ArchivePrefix+path, nil)
		if err != nil {
			wantClean(t, s, 0)
		} else {
			wantClean(t, s, 1)
		}
	})
}

// FuzzReference reads any text as a reference: the short form of an accepted one
// has the same meaning.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"debian:12", "registry.test:5000/a/b@sha256:" + strings.Repeat("a", 64), "oci-layout:x@sha256:" + strings.Repeat("b", 64), "docker-archive:a.tar", "/x", "a//b", "a/../b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parse(s)
		if err != nil {
			if !errors.As(err, new(flaw)) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		again, err := parse(r.String())
		if err != nil || again.text != r.text || again.digest != r.digest || again.kind != r.kind {
			t.Errorf("%q is read as %q, and that as %q, %v", s, r.text, again.text, err)
		}
	})
}
