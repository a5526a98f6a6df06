package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/image"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// runImage runs "dreamcore image" on a state directory, without a terminal.
func runImage(t *testing.T, state string, args ...string) (out, errOut string, err error) {
	t.Helper()
	io, o, e := term.Buffers("")
	a := &app{io: io, env: config.ReadEnvironment(nil), redactor: &secret.Redactor{}, flags: map[string]any{}}
	root := newRootCmd(a)
	root.SetArgs(append([]string{"--state", state, "image"}, args...))
	err = root.ExecuteContext(t.Context())
	return o.String(), e.String(), err
}

// archiveOf writes a docker archive with one file in one layer.
func archiveOf(t *testing.T, name, body string) string {
	t.Helper()
	layer := tarFiles(t, name, body)
	config := fmt.Sprintf(`{"os":"linux","architecture":%q,"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, runtime.GOARCH, sha256.Sum256(layer))
	path := filepath.Join(t.TempDir(), "image.tar")
	raw := tarFiles(t, "manifest.json", `[{"Config":"c","RepoTags":["game:v1"],"Layers":["l"]}]`, "c", config, "l", string(layer))
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func tarFiles(t *testing.T, namesAndBodies ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(namesAndBodies); i += 2 {
		h := &tar.Header{Name: namesAndBodies[i], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(namesAndBodies[i+1]))}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(namesAndBodies[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestImagesArePulledListedAndPruned(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	ref := image.ArchivePrefix + archiveOf(t, "bin/sh", "hello")
	cli{t: t, state: state}.must("volume", "create", "assets")
	out, _, err := runImage(t, state, "list")
	if err != nil || !strings.Contains(out, "no images yet") || !strings.Contains(out, "dreamcore image pull") {
		t.Fatalf("%v\n%s", err, out)
	}
	out, _, err = runImage(t, state, "pull", ref)
	if err != nil || !strings.Contains(out, "pulled") || !strings.Contains(out, "unpacking layer 1 of 1") {
		t.Fatalf("%v\n%s", err, out)
	}
	var pulled struct {
		Digest string
		Bytes  int64
		Pulled bool
	}
	out, _, err = runImage(t, state, "pull", ref, "--json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &pulled); err != nil || pulled.Pulled || pulled.Bytes != 5 {
		t.Errorf("%v: %s", err, out)
	}
	if out, _, err = runImage(t, state, "pull", ref); err != nil || !strings.Contains(out, "exists already") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, _, err = runImage(t, state, "ls"); err != nil || !strings.Contains(out, ref) || !strings.Contains(out, pulled.Digest[:19]) || !strings.Contains(out, "5 B") {
		t.Errorf("%v\n%s", err, out)
	}

	store, err := image.Open(filepath.Join(state, daemon.ImagesDir), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	_, release, err := store.Use(image.Image{Digest: pulled.Digest})
	if err != nil {
		t.Fatal(err)
	}
	if out, _, err = runImage(t, state, "prune", "--all", "--yes"); err != nil || !strings.Contains(out, "nothing to remove") {
		t.Errorf("an image in use: %v\n%s", err, out)
	}
	if out, _, err = runImage(t, state, "list"); err != nil || !strings.Contains(out, "in use") {
		t.Errorf("%v\n%s", err, out)
	}
	release()
	if out, _, err = runImage(t, state, "prune", "--unused-for", "1h"); err != nil || !strings.Contains(out, "nothing to remove") {
		t.Errorf("an image that was just used: %v\n%s", err, out)
	}
	var removed struct {
		Removed []struct{ Digest string }
		Bytes   int64
	}
	if out, _, err = runImage(t, state, "prune", "--all", "--yes", "--json"); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &removed); err != nil || len(removed.Removed) != 1 || removed.Removed[0].Digest != pulled.Digest || removed.Bytes != 5 {
		t.Errorf("%v: %s", err, out)
	}
	if out, _, err = runImage(t, state, "list", "--json"); err != nil || out != "{\"images\":[]}\n" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestImageCommandsRefuseInvalidArguments(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	cli{t: t, state: state}.must("volume", "create", "assets")
	for name, c := range map[string]struct {
		args []string
		code dreamcore.Code
		want string
	}{
		"no reference":               {[]string{"pull"}, dreamcore.CodeInvalid, "arg"},
		"a bad reference":            {[]string{"pull", "UPPER"}, dreamcore.CodeInvalid, "not an image reference"},
		"a directory":                {[]string{"pull", "./root"}, dreamcore.CodeInvalid, "used in place"},
		"a hostile archive":          {[]string{"pull", image.ArchivePrefix + archiveOf(t, "../evil", "")}, dreamcore.CodeSetup, `entry "../evil": its name leaves the image`},
		"a missing archive":          {[]string{"pull", image.ArchivePrefix + filepath.Join(state, "nothing")}, dreamcore.CodeSetup, "not a readable docker archive"},
		"prune nothing":              {[]string{"prune"}, dreamcore.CodeInvalid, "either --unused-for or --all"},
		"prune both":                 {[]string{"prune", "--all", "--unused-for", "1h"}, dreamcore.CodeInvalid, "either --unused-for or --all"},
		"prune the future":           {[]string{"prune", "--unused-for", "-1h"}, dreamcore.CodeInvalid, "more than 0"},
		"prune without confirmation": {[]string{"prune", "--all"}, dreamcore.CodeInvalid, "not a terminal"},
	} {
		if _, _, err := runImage(t, state, c.args...); dreamcore.CodeOf(err) != c.code || dreamcore.HintOf(err) == "" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, hint %q", name, err, dreamcore.HintOf(err))
		}
	}
}
