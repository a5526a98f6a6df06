package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
