package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/notef-neighbor/dreamcore/pkg/store/image"
)

// imagePrograms are the programs that the agent and the checks need in an image.
var imagePrograms = []string{"bash", "sh", "cat", "cp", "id", "date", "sleep"}

// imageOf makes an image of this machine's programs with their libraries and those
// of the agent, except paths that contain one of without. It has no users, and one
// file that this machine does not have: /mark/here.
func imageOf(t *testing.T, mark string, without ...string) v1.Image {
	t.Helper()
	sources := map[string]string{} // by the name in the image
	add := func(name, source string) {
		if !slices.ContainsFunc(without, func(s string) bool { return strings.Contains(name, s) }) {
			sources[name] = source
		}
	}
	needed := []string{claude(t)}
	for _, p := range imagePrograms {
		file, err := exec.LookPath(p)
		if err != nil {
			t.Fatal(err)
		}
		add("usr/bin/"+p, file)
		needed = append(needed, file)
	}
	for _, program := range needed {
		out, err := exec.Command("ldd", program).CombinedOutput()
		if err != nil {
			t.Fatalf("ldd %s: %v\n%s", program, err, out)
		}
		for _, lib := range regexp.MustCompile(`/lib\S+`).FindAllString(strings.ReplaceAll(string(out), program, ""), -1) {
			add("usr"+strings.TrimPrefix(lib, "/usr"), lib)
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	write := func(h tar.Header, body []byte) {
		h.Size = int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"bin", "lib", "lib64"} {
		write(tar.Header{Name: link, Typeflag: tar.TypeSymlink, Linkname: "usr/" + link}, nil)
	}
	write(tar.Header{Name: "usr/bin/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	write(tar.Header{Name: "mark/here", Typeflag: tar.TypeReg, Mode: 0o644}, []byte(mark))
	for name, source := range sources {
		body, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		write(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755}, body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return imageFrom(t, b.Bytes())
}

func imageFrom(t *testing.T, layer []byte) v1.Image {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

// imageRegistry starts a registry in this process.
func imageRegistry(t *testing.T) *httptest.Server {
	t.Helper()
	r := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(r.Close)
	return r
}

// push gives an image a name in a registry and returns its reference.
func push(t *testing.T, r *httptest.Server, as string, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(strings.TrimPrefix(r.URL, "http://") + "/" + as)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Transport{}
	defer client.CloseIdleConnections()
	if err := remote.Write(ref, img, remote.WithTransport(client)); err != nil {
		t.Fatal(err)
	}
	return ref.Name()
}

func digest(t *testing.T, img v1.Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func TestGenerateStartsFromAnImage(t *testing.T) {
	h := newHost(t)
	r := imageRegistry(t)
	first := imageOf(t, "the first")
	ref := push(t, r, "games/base:v1", first)
	// The agent's commands run in the image, as the user of sandboxes.
	script := writeScript(t, `{"conversations":[[
		{"tools":[{"name":"Write","input":{"file_path":"{{cwd}}/index.html","content":"<p>ok"}}]},
		{"tools":[{"name":"Bash","input":{"command":"cat /mark/here > mark; id -u > uid; cp uid /tmp/uid && cp /tmp/uid copied; echo x > /mark/here; exit 0","description":"look"}}]},
		{"text":"done"}]]}`)
	out := filepath.Join(t.TempDir(), "game")
	made := h.run("generate", "a game", "--image", ref, "--model-script", script, "-o", out)
	if made.code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", made.code, made.stdout, made.stderr)
	}
	pinned := ref + "@" + digest(t, first)
	if !strings.Contains(made.stdout, "The sandbox starts from the image "+pinned) {
		t.Errorf("it does not tell of %s:\n%s", pinned, made.stdout)
	}
	if !strings.Contains(made.stderr, "unpacking layer 1 of 1") || !strings.Contains(made.stderr, "pulled") || strings.ContainsAny(made.stderr, "\x1b\r") {
		t.Errorf("in a pipe, the pull does not print plain lines: %q", made.stderr)
	}
	game := readGame(t, out)
	if game["mark"] != "the first" || game["uid"] != "10000\n" || game["copied"] != "10000\n" || game["index.html"] != "<p>ok" {
		t.Errorf("the agent has made %q", game)
	}
	// The tag means another image now, and its registry is down: the local image is
	// used until a pull.
	push(t, r, "games/base:v1", imageOf(t, "the second"))
	again := h.run("generate", "a snake game", "--image", ref, "--model-script", "demo", "--json")
	if again.code != 0 || strings.Contains(again.stderr, "ulling") || !strings.Contains(again.stdout, `{"type":"done","exit_code":0}`) {
		t.Errorf("with the image here: %d %s\n%s", again.code, again.stdout, again.stderr)
	}
	h.must("image", "pull", ref)
	r.Close()
	out = filepath.Join(t.TempDir(), "game")
	h.must("generate", "a game", "--image", ref, "--model-script", script, "-o", out)
	if got := readGame(t, out)["mark"]; got != "the second" {
		t.Errorf("after the pull of another image, its mark is %q", got)
	}
	// No image is in use any more.
	if told := h.must("image", "prune", "--all", "--yes"); !strings.Contains(told, "2 removed") {
		t.Errorf("prune: %s", told)
	}
}

func TestTheImageOfAServiceIsNotPruned(t *testing.T) {
	h := newHost(t)
	r := imageRegistry(t)
	img := imageOf(t, "served")
	ref := push(t, r, "served:v1", img)
	h.env = append(h.env, "DREAMCORE_IMAGE="+ref) // the same setting
	s := h.serve("--model-script", "demo")
	if want := "gvisor, image " + ref + "@" + digest(t, img); !strings.Contains(s.log.String(), want) {
		t.Errorf("the log does not tell of %q:\n%s", want, s.log)
	}
	if told := h.must("image", "prune", "--all", "--yes"); !strings.Contains(told, "nothing to remove") {
		t.Errorf("prune under a service: %s", told)
	}
	if told := h.must("image", "list"); !strings.Contains(told, "in use") {
		t.Errorf("list under a service: %s", told)
	}
	// Commands with another root file system run alongside: each has its own skeleton.
	h.must("generate", "a game", "--image", "", "--model-script", "demo")
	if _, err := os.Stat(filepath.Join(h.state, "rootfs/mark")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the skeleton of the image is that of this machine's programs: %v", err)
	}
	if code, o := s.object("/test_sandbox_io", ""); code != 200 || o["match"] != true {
		t.Errorf("test_sandbox_io: %d %v", code, o)
	}
	events := s.events("/generate_game", generateBody(alice, project, "a snake game"))
	if last := events[len(events)-1]; last["type"] != "done" {
		t.Errorf("the last event: %v", last)
	}
	s.stop()
	if told := h.must("image", "prune", "--all", "--yes"); !strings.Contains(told, "1 removed") {
		t.Errorf("prune after the service: %s", told)
	}
}

func TestGatesOnEveryKindOfImage(t *testing.T) {
	h := newHost(t)
	img := imageOf(t, "kept")
	dir := t.TempDir()
	l, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("kept:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(filepath.Join(dir, "image.tar"), tag, img); err != nil {
		t.Fatal(err)
	}
	refs := []string{image.LayoutPrefix + filepath.Join(dir, "layout"), image.ArchivePrefix + filepath.Join(dir, "image.tar"), digest(t, img)}
	for _, ref := range refs {
		gates := h.run("gate", "sandbox-io", "isolation", "volume", "--image", ref)
		if gates.code != 0 || !regexp.MustCompile(`gvisor, image \S*sha256:[0-9a-f]{64}\n`).MatchString(gates.stderr) {
			t.Errorf("%s: %d\n%s\n%s", ref, gates.code, gates.stdout, gates.stderr)
		}
	}
	trees, err := filepath.Glob(filepath.Join(h.state, "images/sha256-*/rootfs"))
	if err != nil || len(trees) == 0 {
		t.Fatalf("%v, %v", trees, err)
	}
	if gates := h.run("gate", "sandbox-io", "--image", trees[0]); gates.code != 0 || !strings.Contains(gates.stderr, "gvisor, directory "+trees[0]) {
		t.Errorf("a directory: %d\n%s\n%s", gates.code, gates.stdout, gates.stderr)
	}
}

func TestImagesThatSandboxesCannotStartFrom(t *testing.T) {
	h := newHost(t)
	r := imageRegistry(t)
	host := strings.TrimPrefix(r.URL, "http://")
	bashless := push(t, r, "bashless:v1", imageOf(t, "", "bin/bash"))
	broken := push(t, r, "broken:v1", imageOf(t, "", "libm.so"))
	catless := push(t, r, "catless:v1", imageOf(t, "", "bin/cat"))
	rootless := push(t, r, "rootless:v1", imageFrom(t, make([]byte, 1024)))
	generate := []string{"generate", "a game", "--model-script", "demo", "--image"}
	for name, c := range map[string]struct {
		args []string
		code int
		want []string
	}{
		"no reference":         {append(generate, "UPPER"), 2, []string{"not an image reference: UPPER", "→ give an image of a registry"}},
		"two roots":            {append(generate, "debian:12", "--rootfs", "/srv/root"), 2, []string{"image and rootfs", "→"}},
		"not in the registry":  {append(generate, host+"/nothing:v1"), 1, []string{"cannot pull " + host + "/nothing:v1", "→ check the name and the tag"}},
		"no registry":          {append(generate, "127.0.0.1:1/nothing:v1"), 3, []string{"cannot pull 127.0.0.1:1/nothing:v1", "→ check the network"}},
		"a digest not here":    {append(generate, "sha256:"+strings.Repeat("0", 64)), 1, []string{"is not on this machine", "→ list the images that are here: dreamcore image list"}},
		"no layout":            {append(generate, "oci-layout:/nothing"), 1, []string{"/nothing", "→"}},
		"no directory":         {append(generate, "/nothing"), 1, []string{"/nothing", "→", "--image"}},
		"without bash":         {append(generate, bashless), 1, []string{"the agent cannot run in the image " + bashless + "@sha256:", "bash does not run", "→ use an image with glibc and bash"}},
		"without a library":    {append(generate, broken), 1, []string{"the agent cannot run in the image " + broken + "@sha256:", "the agent's program does not run", "libm.so", "→ use an image with glibc and bash"}},
		"without anything":     {append(generate, rootless), 1, []string{"the agent cannot run in the image " + rootless + "@sha256:", "no /bin", "→ use an image with glibc and bash"}},
		"serve without bash":   {[]string{"serve", "--listen", "127.0.0.1:0", "--model-script", "demo", "--image", bashless}, 1, []string{"bash does not run", "→"}},
		"serve without cat":    {[]string{"serve", "--listen", "127.0.0.1:0", "--model-script", "demo", "--image", catless}, 1, []string{"checks cannot run in the image " + catless, "→ use one with /bin/cat"}},
		"gate without bash":    {[]string{"gate", "sandbox-io", "--image", bashless}, 1, []string{"bash does not run", "→"}},
		"doctor pulls nothing": {[]string{"doctor", "--listen", "127.0.0.1:0", "--image", host + "/other:v1"}, 1, []string{"the image " + host + "/other:v1 is not on this machine", "→ run: dreamcore image pull " + host + "/other:v1"}},
	} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			got := h.run(c.args...)
			told := got.stdout + got.stderr
			if got.code != c.code {
				t.Errorf("exit code %d, want %d\n%s", got.code, c.code, told)
			}
			flat := strings.Join(strings.Fields(told), " ")
			for _, s := range c.want {
				if !strings.Contains(flat, s) {
					t.Errorf("it does not say %q:\n%s", s, told)
				}
			}
		})
	}
}
