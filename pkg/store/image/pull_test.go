package image

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestPullUnpacksAnImageOfARegistry(t *testing.T) {
	reg := newRegistry(t)
	img := imageOf(t,
		layerOf(t, tarOf(t, dir("etc/"), file("etc/old", "1"), file("etc/passwd", "root"), special("dev/null", tar.TypeChar))),
		layerOf(t, tarOf(t, file("etc/.wh.old", ""), file("etc/new", "22")), tarball.WithCompression(compression.ZStd), tarball.WithMediaType(types.OCILayerZStd)),
		static.NewLayer(tarOf(t, file("etc/passwd", "none"), hardLink("passwd", "etc/passwd")), types.OCIUncompressedLayer),
	)
	tagged, _ := reg.push(t, "team/game", "v1", img)
	s := newStore(t, Limits{})
	got, unpacked, err := s.Pull(t.Context(), tagged, nil)
	if err != nil || !unpacked {
		t.Fatal(unpacked, err)
	}
	if got.Digest != digestOfImage(t, img) || got.Size != 6 || got.Skipped != 1 || got.Entries != 9 || len(got.References) != 1 || got.References[0] != tagged {
		t.Errorf("got %+v", got)
	}
	if time.Since(got.Created) > time.Minute || time.Since(got.LastUsed) > time.Minute {
		t.Errorf("times: %v, %v", got.Created, got.LastUsed)
	}
	wantTree(t, use(t, s, got), "dev/", "etc/", "etc/new=22", "etc/passwd=none", "passwd=none")
	wantTreeOf(t, filepath.Join(s.dir, dirName(got.Digest)), noteFile, lockFile, rootDir)
	wantClean(t, s, 1)
}

func TestPullOfAnExistingImageDownloadsNothing(t *testing.T) {
	reg := newRegistry(t)
	tagged, digested := reg.push(t, "game", "v1", simple(t, "1"))
	s := newStore(t, Limits{})
	first := pull(t, s, tagged)
	marker := filepath.Join(use(t, s, first), "unpacked-once")
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := reg.asked("/blobs/"); len(got) != 2 {
		t.Errorf("the first pull asked for %q", got)
	}
	age(t, s, first, time.Hour)
	again, unpacked, err := s.Pull(t.Context(), tagged, func(Progress) { t.Error("progress was reported without a download") })
	if err != nil || unpacked || again.Digest != first.Digest {
		t.Fatalf("%+v %v %v", again, unpacked, err)
	}
	if time.Since(again.LastUsed) > time.Minute {
		t.Errorf("the pull does not count as use: %v", again.LastUsed)
	}
	if got := reg.asked(""); len(got) != 1 || !strings.Contains(got[0], "/manifests/v1") {
		t.Errorf("the pull of a tag asked for %q", got)
	}
	// A reference with the digest needs no request, even if it was never pulled.
	reg.Close()
	again, unpacked, err = s.Pull(t.Context(), digested, nil)
	if err != nil || unpacked || len(again.References) != 2 {
		t.Fatalf("%+v %v %v", again, unpacked, err)
	}
	if _, _, err := s.Pull(t.Context(), first.Digest, nil); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(marker); err != nil {
		t.Error("the image was unpacked again")
	}
	wantClean(t, s, 1)
}

func TestTagIsResolvedAtEveryPull(t *testing.T) {
	reg := newRegistry(t)
	tagged, _ := reg.push(t, "game", "latest", simple(t, "1"))
	s := newStore(t, Limits{})
	first := pull(t, s, tagged)
	reg.push(t, "game", "latest", simple(t, "2"))
	second := pull(t, s, tagged)
	if second.Digest == first.Digest {
		t.Fatal("the tag moved and the pull did not notice")
	}
	wantTree(t, use(t, s, second), "bin/", "bin/sh=2")
	wantTree(t, use(t, s, first), "bin/", "bin/sh=1")
	// The reference stands for the new image, also without the tag.
	found, err := s.Lookup(strings.TrimSuffix(tagged, ":latest"))
	if err != nil || found.Digest != second.Digest {
		t.Errorf("%+v, %v", found, err)
	}
	old, err := s.Lookup(first.Digest)
	if err != nil || len(old.References) != 0 {
		t.Errorf("%+v, %v", old, err)
	}
}

func TestLookupAndUseNeedNoNetwork(t *testing.T) {
	reg := newRegistry(t)
	tagged, _ := reg.push(t, "game", "v1", simple(t, "1"))
	dir := filepath.Join(t.TempDir(), "images")
	img := pull(t, storeAt(t, dir, Limits{}), tagged)
	reg.Close()
	s := storeAt(t, dir, Limits{})
	found, err := s.Lookup(tagged)
	if err != nil || found.Digest != img.Digest {
		t.Fatalf("%+v, %v", found, err)
	}
	wantTree(t, use(t, s, found), "bin/", "bin/sh=1")
	_, _, err = s.Pull(t.Context(), tagged, nil)
	wantError(t, err, dreamcore.CodeUnreachable, "cannot pull "+tagged)
	_, err = s.Lookup(reg.host() + "/other:v1")
	wantError(t, err, dreamcore.CodeNotFound, "not on this machine")
	if !strings.Contains(dreamcore.HintOf(err), "dreamcore image pull "+reg.host()+"/other:v1") {
		t.Errorf("the hint is %q", dreamcore.HintOf(err))
	}
}

func TestPullChoosesTheArchitecture(t *testing.T) {
	reg := newRegistry(t)
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	mine, foreign := simple(t, "mine"), imageFor(t, other, layerOf(t, tarOf(t, file("a", "other"))))
	add := func(img v1.Image, p v1.Platform) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}}
	}
	push := func(repo string, index v1.ImageIndex) (tagged, digested string) {
		t.Helper()
		ref, err := name.ParseReference(reg.host() + "/" + repo + ":1")
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Transport{}
		defer client.CloseIdleConnections()
		if err := remote.WriteIndex(ref, index, remote.WithTransport(client)); err != nil {
			t.Fatal(err)
		}
		return ref.Name(), ref.Context().Digest(digestOfImage(t, index)).Name()
	}
	_, digested := push("many", mutate.AppendManifests(empty.Index,
		add(simple(t, "unknown"), v1.Platform{OS: "unknown", Architecture: "unknown"}),
		add(simple(t, "windows"), v1.Platform{OS: "windows", Architecture: runtime.GOARCH}),
		add(foreign, v1.Platform{OS: "linux", Architecture: other}),
		add(simple(t, "fast"), v1.Platform{OS: "linux", Architecture: runtime.GOARCH, Variant: "v9"}),
		add(mine, v1.Platform{OS: "linux", Architecture: runtime.GOARCH}),
	))
	s := newStore(t, Limits{})
	img := pull(t, s, digested)
	if img.Digest != digestOfImage(t, mine) {
		t.Errorf("got %s", img.Digest)
	}
	wantTree(t, use(t, s, img), "bin/", "bin/sh=mine")
	// The digest of the index stands for the same image forever.
	reg.asked("")
	if again := pull(t, s, digested); again.Digest != img.Digest || len(reg.asked("")) != 0 {
		t.Error("the digest of an index was looked up again")
	}

	only, _ := push("other", mutate.AppendManifests(empty.Index, add(foreign, v1.Platform{OS: "linux", Architecture: other})))
	_, _, err := s.Pull(t.Context(), only, nil)
	wantError(t, err, dreamcore.CodeSetup, "nothing for linux/"+runtime.GOARCH+"; it is for: linux/"+other)
	alone, _ := reg.push(t, "alone", "1", foreign)
	_, _, err = s.Pull(t.Context(), alone, nil)
	wantError(t, err, dreamcore.CodeSetup, "it is for linux/"+other)
	deep := mutate.AppendManifests(empty.Index, add(mine, v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
	for range maxNesting {
		deep = mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: deep, Descriptor: v1.Descriptor{MediaType: types.OCIImageIndex}})
	}
	nested, _ := push("nested", deep)
	_, _, err = s.Pull(t.Context(), nested, nil)
	wantError(t, err, dreamcore.CodeSetup, "nested too deeply")
	wantClean(t, s, 1)
}

func TestPullUsesDockerCredentials(t *testing.T) {
	const user, password = "reader", "s3cret"
	reg := newRegistry(t)
	tagged, _ := reg.push(t, "private/game", "v1", simple(t, "1"))
	reg.hook(func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, ok := r.BasicAuth(); ok && u == user && p == password {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", home)
	for _, v := range []string{"XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE"} {
		t.Setenv(v, "")
	}
	s := newStore(t, Limits{})
	s.opts.Credentials = authn.DefaultKeychain
	configure := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(home, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	with := func(password string) string {
		return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, reg.host(), base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	}
	for name, text := range map[string]string{"none": `{}`, "wrong": with("guess")} {
		configure(text)
		_, _, err := s.Pull(t.Context(), tagged, nil)
		wantError(t, err, dreamcore.CodeUnauthorized, "cannot pull")
		if !strings.Contains(dreamcore.HintOf(err), "docker login "+reg.host()) {
			t.Errorf("%s: the hint is %q", name, dreamcore.HintOf(err))
		}
	}
	configure(`{"auths":`)
	_, _, err := s.Pull(t.Context(), tagged, nil)
	wantError(t, err, dreamcore.CodeSetup, "the credentials for "+reg.host()+" cannot be read")
	configure(with(password))
	wantTree(t, use(t, s, pull(t, s, tagged)), "bin/", "bin/sh=1")
}

func TestConcurrentPullsUnpackOnce(t *testing.T) {
	reg := newRegistry(t)
	tagged, _ := reg.push(t, "game", "v1", simple(t, "1"))
	dir := filepath.Join(t.TempDir(), "images")
	var made sync.Map
	var wg sync.WaitGroup
	for i := range 6 {
		s := storeAt(t, dir, Limits{}) // like a process of its own
		wg.Go(func() {
			_, unpacked, err := s.Pull(t.Context(), tagged, nil)
			if err != nil {
				t.Error(err)
			}
			if unpacked {
				made.Store(i, true)
			}
		})
	}
	wg.Wait()
	n := 0
	made.Range(func(any, any) bool { n++; return true })
	if blobs := reg.asked("/blobs/"); n != 1 || len(blobs) != 2 {
		t.Errorf("%d pulls unpacked, blobs asked for: %q", n, blobs)
	}
	wantClean(t, storeAt(t, dir, Limits{}), 1)
}

func TestInterruptedPullLeavesNoFiles(t *testing.T) {
	reg := newRegistry(t)
	tagged, _ := reg.push(t, "game", "v1", imageOf(t, layerOf(t, tarOf(t, file("a", "1"))), layerOf(t, tarOf(t, file("b", "2")))))
	s := newStore(t, Limits{})
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	enough := errors.New("the operator cancelled it")
	// The second layer begins and never ends.
	reg.hook(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		reg.mu.Lock()
		n := len(reg.requests)
		reg.mu.Unlock()
		if n < 4 { // manifest, configuration, a layer
			return false
		}
		w.Header().Set("Content-Length", "1000000")
		w.WriteHeader(http.StatusOK)
		w.Write([]byte("some"))
		w.(http.Flusher).Flush()
		cancel(enough)
		<-r.Context().Done()
		return true
	})
	_, _, err := s.Pull(ctx, tagged, nil)
	if !errors.Is(err, enough) {
		t.Fatalf("got %v", err)
	}
	wantClean(t, s, 0)
	reg.hook(nil)
	wantTree(t, use(t, s, pull(t, s, tagged)), "a=1", "b=2")
}

func TestResidueOfAKilledPullIsIgnoredAndRemoved(t *testing.T) {
	reg := newRegistry(t)
	tagged, _ := reg.push(t, "game", "v1", simple(t, "1"))
	s := newStore(t, Limits{})
	leave := func() {
		t.Helper()
		for _, name := range []string{pullStart + "ABC/rootfs/bin", goneStart + "DEF/rootfs"} {
			if err := s.root.MkdirAll(name, 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	leave()
	if images, err := s.List(); err != nil || len(images) != 0 {
		t.Errorf("%v, %v", images, err)
	}
	storeAt(t, s.dir, Limits{})
	wantClean(t, s, 0)
	leave()
	pull(t, s, tagged)
	wantClean(t, s, 1)

	// While another process pulls, its files are not touched.
	unlock, err := s.tryLockPulls()
	if err != nil {
		t.Fatal(err)
	}
	leave()
	storeAt(t, s.dir, Limits{})
	if _, err := s.root.Stat(pullStart + "ABC"); err != nil {
		t.Errorf("the files of a running pull are gone: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	reg.push(t, "game", "v1", simple(t, "2"))
	if _, _, err := s.Pull(ctx, tagged, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the pull did not wait for the other: %v", err)
	}
	unlock()
	pull(t, s, tagged)
	wantClean(t, s, 2)
}

func TestPullReportsProgress(t *testing.T) {
	reg := newRegistry(t)
	l := static.NewLayer(tarOf(t, file("a", strings.Repeat("x", 5<<20))), types.OCIUncompressedLayer)
	tagged, _ := reg.push(t, "game", "v1", imageOf(t, layerOf(t, tarOf(t, file("b", "1"))), l))
	size, err := l.Size()
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]Progress{}
	steps := map[string]int{}
	if _, _, err := newStore(t, Limits{}).Pull(t.Context(), tagged, func(p Progress) {
		key := fmt.Sprint(p.Step, p.Layer)
		if p.Done < last[key].Done || p.Done > p.Total || p.Layers != 2 || !strings.HasPrefix(p.Digest, "sha256:") {
			t.Errorf("after %+v came %+v", last[key], p)
		}
		last[key] = p
		steps[key]++
	}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"downloading1", "downloading2", "unpacking1", "unpacking2"} {
		if last[key].Total == 0 || last[key].Done != last[key].Total {
			t.Errorf("%s ended with %+v", key, last[key])
		}
	}
	if last["unpacking2"].Total != size || steps["downloading2"] < 3 {
		t.Errorf("%+v in %d steps", last["unpacking2"], steps["downloading2"])
	}
}
