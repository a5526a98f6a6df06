package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	fakeregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestMain(m *testing.M) {
	useForParent()
	goleak.VerifyTestMain(m)
}

// entry is one entry of a layer.
type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))}, body}
}

func dir(name string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}

func symlink(name, target string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}}
}

func hardLink(name, target string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target, Mode: 0o644}}
}

func special(name string, kind byte) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: kind, Mode: 0o666, Devmajor: 1, Devminor: 3}}
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func opener(raw []byte) tarball.Opener {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
}

func layerOf(t testing.TB, raw []byte, options ...tarball.LayerOption) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(opener(raw), options...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// imageOf creates an image for this machine.
func imageOf(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	return imageFor(t, runtime.GOARCH, layers...)
}

func imageFor(t testing.TB, arch string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", arch
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

// simple returns an image of one layer with one file.
func simple(t testing.TB, body string) v1.Image {
	return imageOf(t, layerOf(t, tarOf(t, dir("bin/"), file("bin/sh", body))))
}

// testRegistry is a registry in this process that records its requests.
type testRegistry struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string // guarded by mu
	// intercept may answer a request; it reports whether it did.
	intercept func(w http.ResponseWriter, r *http.Request) bool // guarded by mu
}

func newRegistry(t testing.TB) *testRegistry {
	t.Helper()
	r := &testRegistry{}
	h := fakeregistry.New(fakeregistry.Logger(log.New(io.Discard, "", 0)))
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		if req.Method == http.MethodGet && req.URL.Path != "/v2/" {
			r.requests = append(r.requests, req.URL.Path)
		}
		intercept := r.intercept
		r.mu.Unlock()
		if intercept != nil && intercept(w, req) {
			return
		}
		h.ServeHTTP(w, req)
	}))
	t.Cleanup(r.Close)
	r.Config.ErrorLog = log.New(io.Discard, "", 0)
	return r
}

func (r *testRegistry) host() string { return strings.TrimPrefix(r.URL, "http://") }

func (r *testRegistry) hook(f func(w http.ResponseWriter, r *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.intercept = f
}

// asked returns the requests since its last call that contain part.
func (r *testRegistry) asked(part string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []string
	for _, p := range r.requests {
		if strings.Contains(p, part) {
			found = append(found, p)
		}
	}
	r.requests = nil
	return found
}

// push stores an image and returns its reference with a tag, and with its
// digest.
func (r *testRegistry) push(t testing.TB, repo, tag string, img v1.Image) (tagged, digested string) {
	t.Helper()
	ref, err := name.ParseReference(r.host() + "/" + repo + ":" + tag)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Transport{}
	defer client.CloseIdleConnections()
	if err := remote.Write(ref, img, remote.WithTransport(client), remote.WithAuth(authn.Anonymous)); err != nil {
		t.Fatal(err)
	}
	r.asked("")
	return ref.Name(), ref.Context().Digest(digestOfImage(t, img)).Name()
}

func digestOfImage(t testing.TB, img interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func newStore(t testing.TB, limits Limits) *Store {
	t.Helper()
	return storeAt(t, filepath.Join(t.TempDir(), "images"), limits)
}

func storeAt(t testing.TB, dir string, limits Limits) *Store {
	t.Helper()
	s, err := Open(dir, Options{Limits: limits, Credentials: noCredentials{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.pause = time.Millisecond
	return s
}

type noCredentials struct{}

func (noCredentials) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.Anonymous, nil
}

func pull(t testing.TB, s *Store, ref string) Image {
	t.Helper()
	img, _, err := s.Pull(t.Context(), ref, nil)
	if err != nil {
		t.Fatalf("pull %s: %v", ref, err)
	}
	return img
}

// use returns the root of an image, which is in use until the test ends.
func use(t testing.TB, s *Store, img Image) string {
	t.Helper()
	path, release, err := s.Use(img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return path
}

// treeOf lists the files below root: "path/" for directories, "path -> target" for
// links, "path=text" for files.
func treeOf(t testing.TB, root string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		switch d.Type() {
		case fs.ModeDir:
			all = append(all, rel+"/")
		case fs.ModeSymlink:
			target, err := os.Readlink(p)
			all = append(all, rel+" -> "+target)
			return err
		case 0:
			b, err := os.ReadFile(p)
			all = append(all, rel+"="+string(b))
			return err
		default:
			all = append(all, rel+" "+d.Type().String())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func wantTree(t testing.TB, root string, want ...string) {
	t.Helper()
	got := treeOf(t, root)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("the tree is\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func wantError(t testing.TB, err error, code dreamcore.Code, message string) {
	t.Helper()
	if err == nil || dreamcore.CodeOf(err) != code || !strings.Contains(err.Error(), message) || dreamcore.HintOf(err) == "" {
		t.Fatalf("got %v (%s; hint %q), want %s %q with a hint", err, dreamcore.CodeOf(err), dreamcore.HintOf(err), code, message)
	}
}

// wantClean checks that the store contains only complete images.
func wantClean(t testing.TB, s *Store, images int) {
	t.Helper()
	names, err := s.dirs()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range names {
		switch {
		case digestOf(name) != "":
			n++
		case name != refsDir && name != lockFile:
			t.Errorf("%s was left in the store", name)
		}
	}
	if n != images {
		t.Errorf("there are %d images, want %d", n, images)
	}
	refs, err := fs.ReadDir(s.root.FS(), refsDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range refs {
		if strings.HasPrefix(r.Name(), ".") {
			t.Errorf("%s was left among the references", r.Name())
		}
	}
}

// unpackTo unpacks layers, as tars, to an empty tree and returns its path. The
// directory alongside it must not change.
func unpackTo(t testing.TB, limits Limits, layers ...[]byte) (root string, u *unpacker, err error) {
	t.Helper()
	return unpackIn(t, t.TempDir(), limits, layers...)
}

func unpackIn(t testing.TB, base string, limits Limits, layers ...[]byte) (root string, u *unpacker, err error) {
	t.Helper()
	root, outside := filepath.Join(base, "root"), filepath.Join(base, "outside")
	for _, d := range []string{root, outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	u = newUnpacker(r, limits.withDefaults(), os.Geteuid() == 0)
	defer u.close()
	for i, raw := range layers {
		if err = unpackRaw(t.Context(), u, raw, i == 0); err != nil {
			break
		}
	}
	wantTree(t, outside, "secret=secret")
	fi, statErr := os.Stat(filepath.Join(outside, "secret"))
	if statErr != nil || fi.Mode() != 0o600 {
		t.Errorf("the file outside is %v, %v", fi.Mode(), statErr)
	}
	wantTreeOf(t, base, "outside", "root")
	return root, u, err
}

func wantTreeOf(t testing.TB, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

// unpackRaw unpacks a layer of any compression, with its true digests.
func unpackRaw(ctx context.Context, u *unpacker, raw []byte, base bool) error {
	digest, size, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	diffID := digest
	stream, stop, err := unpackedStream(bytes.NewReader(raw))
	if err == nil {
		if id, _, e := v1.SHA256(io.LimitReader(stream, 4<<20)); e == nil {
			diffID = id
		}
	}
	stop()
	return u.unpack(ctx, bytes.NewReader(raw), v1.Descriptor{Digest: digest, Size: size}, diffID, base)
}

func isFlaw(err error) bool {
	_, ok := errors.AsType[flaw](err)
	return ok
}

func isExcess(err error) bool {
	_, ok := errors.AsType[excess](err)
	return ok
}
