package mediatype

import "testing"

func TestTypes(t *testing.T) {
	for name, want := range map[string]string{
		"a.HTML": "text/html; charset=utf-8", "a.mjs": "text/javascript; charset=utf-8", "a.wasm": "application/wasm",
		"a.svg": "image/svg+xml", "a.glb": "model/gltf-binary", "a": "application/octet-stream", "a.nosuchtype": "application/octet-stream",
	} {
		if got := Of(name); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestPages(t *testing.T) {
	for name, want := range map[string]bool{
		"index.html": true, "a/b.c/d.html": true, "a.htm": false, "a.HTML": false, ".a.html": false, ".a/b.html": false, "a/.b/c.html": false, "html": false,
	} {
		if IsPage(name) != want {
			t.Error(name)
		}
	}
}
