package archive

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

// located opens a path of a volume in a new store.
type located struct {
	t     *testing.T
	store *volume.Store
}

func newLocated(t *testing.T) located {
	t.Helper()
	store, err := volume.Open(filepath.Join(t.TempDir(), "volumes"), volume.Options{UID: os.Geteuid(), GID: os.Getegid()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	for _, name := range []string{volume.Data, "assets"} {
		if _, err := store.Create(name); err != nil {
			t.Fatal(err)
		}
	}
	return located{t, store}
}

func (l located) at(name, path string) *volume.Location {
	l.t.Helper()
	p, err := l.store.Locate(l.t.Context(), name, path, true)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = p.Close() })
	return p
}

func newTransfer() *Transfer { return &Transfer{Owner: Owner{os.Geteuid(), os.Getegid()}} }

// writeTree writes files, and a link, into a new directory.
func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestADirectoryIsCopiedIntoAVolumeAndBack(t *testing.T) {
	l := newLocated(t)
	put := newTransfer()
	var files int
	put.Progress = func(p Progress) { files = p.Done }
	got, err := put.Put(t.Context(), l.at("assets", "game"), writeTree(t, map[string]string{"a.txt": "hello", "sub/b.txt": "b", "sub/HEAD": "ref: x"}))
	if err != nil {
		t.Fatal(err)
	}
	if got.Files != 3 || got.Bytes != 12 || files != 3 || len(got.LeftOut) != 1 || !strings.Contains(got.LeftOut[0], "links are not followed") {
		t.Errorf("%+v, progress %d", got, files)
	}
	dest := t.TempDir()
	got, err = newTransfer().Get(t.Context(), l.at("assets", "game"), "game", dest)
	if err != nil {
		t.Fatal(err)
	}
	if got.Files != 2 || len(got.LeftOut) != 1 || !strings.Contains(got.LeftOut[0], "sub/HEAD") {
		t.Errorf("%+v", got)
	}
	for name, want := range map[string]string{"a.txt": "hello", "sub/b.txt": "b"} {
		if raw, err := os.ReadFile(filepath.Join(dest, "game", name)); err != nil || string(raw) != want {
			t.Errorf("%s: %q, %v", name, raw, err)
		}
	}
	if _, err := newTransfer().Get(t.Context(), l.at("assets", "game"), "game", dest); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
		t.Errorf("existing files were replaced without force: %v", err)
	}
	if _, err := newTransfer().Put(t.Context(), l.at("assets", "game/a.txt"), filepath.Join(dest, "game", "a.txt")); dreamcore.ReasonOf(err) != ReasonExists {
		t.Errorf("an existing file was replaced without force: %v", err)
	}
}

func TestFilesOfAProjectAreChangedTogether(t *testing.T) {
	l := newLocated(t)
	const user, id = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
	var paths []string
	transfer := newTransfer()
	transfer.Apply = func(_ context.Context, u dreamcore.UserID, p dreamcore.ProjectID, changes []project.Change, message string) error {
		if string(u) != user || string(p) != id || message == "" {
			t.Errorf("%s %s %q", u, p, message)
		}
		for _, c := range changes {
			var b strings.Builder
			if err := c.Write(&b); err != nil {
				return err
			}
			paths = append(paths, c.Path+"="+b.String())
		}
		return nil
	}
	place := l.at(volume.Data, "users/"+user+"/projects/"+id+"/assets")
	got, err := transfer.Put(t.Context(), place, writeTree(t, map[string]string{"a": "1", "b/c": "2"}))
	if err != nil || got.Files != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	if diff := cmp.Diff([]string{"assets/a=1", "assets/b/c=2"}, paths); diff != "" {
		t.Error(diff)
	}
	if _, err := transfer.PutStream(t.Context(), place, strings.NewReader("stream")); err != nil || paths[2] != "assets=stream" {
		t.Errorf("%q, %v", paths, err)
	}
}

func TestTransfersThatCannotWork(t *testing.T) {
	l := newLocated(t)
	above, assets := l.at(volume.Data, "users"), l.at("assets", "/")
	put := func(p *volume.Location, local string) error {
		_, err := newTransfer().Put(t.Context(), p, local)
		return err
	}
	_, get := newTransfer().Get(t.Context(), above, "users", t.TempDir())
	_, stream := newTransfer().PutStream(t.Context(), above, strings.NewReader(""))
	for name, tt := range map[string]struct {
		err    error
		reason dreamcore.Reason
	}{
		"put above projects":        {put(above, t.TempDir()), ReasonAboveProjects},
		"put stream above projects": {stream, ReasonAboveProjects},
		"get above projects":        {get, ReasonAboveProjects},
		"a directory as a stream":   {newTransfer().GetStream(t.Context(), assets, &strings.Builder{}), ReasonDirectory},
		"a missing file":            {put(assets, filepath.Join(t.TempDir(), "none")), ReasonLocal},
		"a device":                  {put(assets, os.DevNull), ReasonLocal},
	} {
		if dreamcore.CodeOf(tt.err) != dreamcore.CodeInvalid || dreamcore.ReasonOf(tt.err) != tt.reason {
			t.Errorf("%s: %v", name, tt.err)
		}
	}
}

func TestTheNamesOfOmittedFilesAreBounded(t *testing.T) {
	transfer := newTransfer()
	for range maxLeftOut + 5 {
		transfer.skip("x", "why")
	}
	if got, _ := transfer.end(nil); len(got.LeftOut) != maxLeftOut+1 || got.LeftOut[maxLeftOut] != "5 more left out" {
		t.Errorf("%d, %q", len(got.LeftOut), got.LeftOut[len(got.LeftOut)-1])
	}
}
