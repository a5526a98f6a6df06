package control

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/preview"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

const (
	owner = dreamcore.UserID("a11ce000-0000-4000-8000-000000000001")
	game  = dreamcore.ProjectID("123e4567-e89b-42d3-a456-426614174000")
)

// aPreview returns a preview service with one game.
func aPreview(t *testing.T) *preview.Service {
	t.Helper()
	v, err := volume.Open(filepath.Join(t.TempDir(), "volumes"), volume.Options{UID: os.Geteuid(), GID: os.Getegid()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	if _, err := v.Create(volume.Data); err != nil {
		t.Fatal(err)
	}
	p, err := v.Project(owner, game)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := os.WriteFile(filepath.Join(p.Path(), "index.html"), []byte("a game"), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := preview.New(preview.Config{Place: preview.Place{Scheme: "http", Host: "games.test"}, Key: strings.Repeat("k", 32), Projects: v})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPreviewLink(t *testing.T) {
	c, _ := open(t, &fakeSandboxes{})
	address, expires, err := c.PreviewLink(t.Context(), owner, game, time.Hour)
	if left := time.Until(expires); err != nil || left > time.Hour || left < 50*time.Minute {
		t.Fatalf("%s, %v, %v", address, expires, err)
	}
	if u, err := url.Parse(address); err != nil || !strings.HasSuffix(u.Host, ".games.test") {
		t.Errorf("%s, %v", address, err)
	}
	if _, _, err := c.PreviewLink(t.Context(), owner, dreamcore.NewProjectID(), time.Hour); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("missing project: %v", err)
	}
	if _, _, err := c.PreviewLink(t.Context(), owner, game, time.Second); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" {
		t.Errorf("a lifetime of one second: %v", err)
	}
	if _, _, err := c.PreviewLink(t.Context(), "x/../y", game, time.Hour); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("missing user: %v", err)
	}
}

// The command line turns the reason of an error into a command.
func TestErrorsKeepTheirReason(t *testing.T) {
	v, err := volume.Open(filepath.Join(t.TempDir(), "volumes"), volume.Options{UID: os.Geteuid(), GID: os.Getegid()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	_, want := v.OpenVolume(volume.Data)
	if dreamcore.ReasonOf(want) == "" || dreamcore.HintOf(want) == "" {
		t.Fatal(want)
	}
	c, _ := open(t, &fakeSandboxes{err: want})
	got := c.Stop(t.Context(), "user-1")
	if dreamcore.ReasonOf(got) != dreamcore.ReasonOf(want) || dreamcore.HintOf(got) != dreamcore.HintOf(want) || dreamcore.CodeOf(got) != dreamcore.CodeOf(want) {
		t.Errorf("%#v became %#v", want, got)
	}
}

func TestServiceWithoutPreviewsReportsIt(t *testing.T) {
	w := httptest.NewRecorder()
	s := &Server{}
	answered(s, s.preview)(w, httptest.NewRequest(http.MethodPost, "/previews?user="+string(owner)+"&project="+string(game)+"&for=1h", nil))
	if raw, _ := io.ReadAll(w.Body); w.Code != http.StatusInternalServerError || !strings.Contains(string(raw), "preview_domain") {
		t.Errorf("%d %s", w.Code, raw)
	}
}
