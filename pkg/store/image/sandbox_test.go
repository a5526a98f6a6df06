package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/store/image"
)

// A small image of this machine's shell is pulled from a registry, and a real
// sandbox starts from it.
func TestSandboxStartsFromAPulledImage(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root")
	exe := sandboxtest.Binary(t)
	ref := pushShell(t)
	state := t.TempDir()
	images, err := image.Open(filepath.Join(state, "images"), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	img, _, err := images.Pull(t.Context(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	path, release, err := images.Use(img)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	root, err := rootfs.Directory(filepath.Join(state, "rootfs"), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	p, err := gvisor.New(ctx, gvisor.Config{Exe: exe, Dir: filepath.Join(state, "run")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	sb, err := p.Create(ctx, sandbox.Spec{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	defer sb.Close(context.WithoutCancel(ctx))

	const script = `read line < /etc/greeting; echo "$line from the image"
[ -e /etc/hidden ] && echo hidden is there
[ -e /etc/shadow ] && echo the host is there
(echo x > /etc/new) 2>/dev/null && echo /etc can be written
(echo x > /usr/bin/new) 2>/dev/null && echo /usr can be written
[ -u /usr/bin/suid ] && echo set-user-id is there
read secret < /etc/secret 2>/dev/null && echo the secret can be read
read own < /etc/own && echo "$own"
exec /bin/later -c 'echo later'`
	var out, errOut bytes.Buffer
	proc, err := sb.Start(ctx, sandbox.Command{
		Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}, UID: 10000, GID: 10000, Stdout: &out, Stderr: &errOut,
	})
	if err != nil {
		t.Fatal(err)
	}
	exit, err := proc.Wait()
	if err != nil || exit.Code != 0 {
		t.Fatalf("%+v, %v: %s", exit, err, errOut.String())
	}
	if want := "hello from the image\nmine\nlater\n"; out.String() != want {
		t.Errorf("it printed %q (%s), want %q", out.String(), errOut.String(), want)
	}
	removed, err := images.Prune(ctx, image.PruneOptions{All: true})
	if err != nil || len(removed) != 0 {
		t.Errorf("an image in use was pruned: %+v, %v", removed, err)
	}
}

// pushShell pushes an image of /bin/sh with its libraries, in two layers, to a
// registry in this process.
func pushShell(t *testing.T) string {
	t.Helper()
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	body := readFile(t, shell)
	lower := []tar.Header{
		{Name: "usr/bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "bin", Typeflag: tar.TypeSymlink, Linkname: "/usr/bin"},
		{Name: "etc/greeting", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "etc/hidden", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "etc/secret", Typeflag: tar.TypeReg, Mode: 0o600, Uid: 20000},
		{Name: "etc/own", Typeflag: tar.TypeReg, Mode: 0o600, Uid: 10000},
		{Name: "usr/bin/sh", Typeflag: tar.TypeReg, Mode: 0o755},
		{Name: "usr/bin/suid", Typeflag: tar.TypeReg, Mode: 0o4755},
		{Name: "dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
	}
	bodies := map[string][]byte{"etc/greeting": []byte("hello\n"), "etc/secret": []byte("secret\n"), "etc/own": []byte("mine\n"), "usr/bin/sh": body, "usr/bin/suid": body}
	for _, lib := range libraries(t, shell) {
		name := strings.TrimPrefix(lib, "/")
		lower = append(lower, tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755})
		bodies[name] = readFile(t, lib)
	}
	// The second layer goes through a link of the first one.
	upper := []tar.Header{
		{Name: "bin/later", Typeflag: tar.TypeReg, Mode: 0o755},
		{Name: "etc/.wh.hidden", Typeflag: tar.TypeReg},
	}
	bodies["bin/later"] = body

	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	ref, err := name.ParseReference(fmt.Sprintf("%s/shell:v1", strings.TrimPrefix(server.URL, "http://")))
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer(t, lower, bodies), layer(t, upper, bodies))
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.ConfigFile(img, platform(t, img)); err != nil {
		t.Fatal(err)
	}
	client := &http.Transport{}
	defer client.CloseIdleConnections()
	if err := remote.Write(ref, img, remote.WithTransport(client)); err != nil {
		t.Fatal(err)
	}
	return ref.Name()
}

func platform(t *testing.T, img v1.Image) *v1.ConfigFile {
	t.Helper()
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	return cfg
}

func layer(t *testing.T, headers []tar.Header, bodies map[string][]byte) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Size, h.ModTime = int64(len(bodies[h.Name])), time.Unix(1<<30, 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bodies[h.Name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// libraries returns the shared libraries of a program, with the dynamic loader.
func libraries(t *testing.T, program string) []string {
	t.Helper()
	out, err := exec.Command("ldd", program).CombinedOutput()
	if strings.Contains(string(out), "not a dynamic executable") {
		return nil
	}
	if err != nil {
		t.Fatalf("ldd: %v\n%s", err, out)
	}
	return regexp.MustCompile(`/\S+`).FindAllString(string(out), -1)
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
