package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestAbsoluteAndPinnedReferences(t *testing.T) {
	digest, other := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"debian:12": "debian:12", digest: digest, "./x/": filepath.Join(wd, "x"), "..": filepath.Dir(wd), "/x": "/x",
		"oci-layout:x@" + digest: "oci-layout:" + filepath.Join(wd, "x") + "@" + digest, "docker-archive:/x/../y": "docker-archive:/y",
	} {
		got, err := Absolute(ref)
		if err != nil || got != want || !IsAbsolute(got) || IsAbsolute(ref) != (ref[0] != '.' && !strings.Contains(ref, ":x@")) {
			t.Errorf("%q is made %q, %v (absolute before: %v)", ref, got, err, IsAbsolute(ref))
		}
	}
	for _, ref := range []string{"", "UPPER", "./a\x00b", "/" + strings.Repeat("a", 6000)} {
		if got, err := Absolute(ref); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("%q is made %q, %v", ref, got, err)
		}
	}
	for ref, want := range map[string]string{
		"debian:12": "debian:12@" + digest, "debian@" + other: "debian@" + digest, digest: digest, other: digest,
		"oci-layout:/x@" + other: "oci-layout:/x@" + digest, "docker-archive:/x": "docker-archive:/x@" + digest,
	} {
		if got := Pinned(ref, Image{Digest: digest}); got != want {
			t.Errorf("%q is pinned as %q", ref, got)
		}
	}
}

func TestReferences(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"oci-layout":                          "library/oci-layout:latest",
		"debian":                              "debian:latest",
		"debian:12":                           "debian:12",
		"library/debian:12":                   "debian:12",
		"team/game":                           "team/game:latest",
		"debian:12@" + digest:                 "debian@" + digest,
		"registry.test:5000/a/b:c":            "registry.test:5000/a/b:c",
		"registry.test/a@" + digest:           "registry.test/a@" + digest,
		digest:                                digest,
		"oci-layout:some/dir/":                "oci-layout:" + filepath.Join(wd, "some/dir"),
		"oci-layout:/x@" + digest:             "oci-layout:/x@" + digest,
		"docker-archive:a.tar":                "docker-archive:" + filepath.Join(wd, "a.tar"),
		name.DefaultRegistry + "/foo.bar/x:1": name.DefaultRegistry + "/foo.bar/x:1",
		name.DefaultRegistry + "/a/b:tag":     "a/b:tag",
	} {
		r, err := parse(ref)
		if err != nil || r.String() != want {
			t.Errorf("%s is read as %q (%v), want %q", ref, r, err, want)
			continue
		}
		again, err := parse(r.String())
		if err != nil || again.text != r.text {
			t.Errorf("%q is read as %q, %v", r, again.text, err)
		}
	}
	for _, ref := range []string{
		"", "/", "./x", "../x", ".", "..", "UPPER", "a b", "a:b:c", "http://registry.test/a", "a@sha256:12", "a@md5:" + strings.Repeat("a", 32),
		"sha256:" + strings.Repeat("A", 64), "oci-layout:", "docker-archive:", "oci-layout:x@sha256:12", "a\x00b", "a/../b", "a//b", "registry.test/..", "sha256:12", strings.Repeat("a", 6000),
		"a@sha512:" + strings.Repeat("a", 128),
	} {
		if r, err := parse(ref); err == nil {
			t.Errorf("%q is read as %q", ref, r)
		} else {
			wantError(t, err, dreamcore.CodeInvalid, "not an image reference")
		}
	}
	for ref, want := range map[string]bool{"/x": true, "./x": true, "..": true, "x": false, "x/y": false, ".x": false, "": false, "docker-archive:/x": false} {
		if IsDirectory(ref) != want {
			t.Errorf("IsDirectory(%q) is not %v", ref, want)
		}
	}
	s := newStore(t, Limits{})
	if _, _, err := s.Pull(t.Context(), digest, nil); err == nil {
		t.Error("a digest without a name was pulled")
	} else {
		wantError(t, err, dreamcore.CodeNotFound, "not on this machine")
	}
}
