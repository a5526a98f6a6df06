package e2e

import (
	"bytes"
	"encoding/json"
	"image"
	"image/png"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// demoRepair is the directory of the game that the demo makes at first.
const demoRepair = "../../../pkg/model/replay/demo-repair"

// playing turns the check of games on.
func (h *host) playing() *host {
	sandboxtest.Need(h.t, slices.ContainsFunc(verdict.Browsers(), exists), "a browser for sandboxes: chromium-headless-shell")
	h.env = append(h.env, "DREAMCORE_ACCEPTANCE=fail", "DREAMCORE_ACCEPTANCE_LIMIT=2m", "DREAMCORE_TIMEOUT=15m")
	return h
}

// ofType returns the events of a type.
func ofType(events []map[string]any, kind string) (all []map[string]any) {
	for _, e := range events {
		if e["type"] == kind {
			all = append(all, e)
		}
	}
	return all
}

func jsonLines(t *testing.T, out string) (all []map[string]any) {
	t.Helper()
	for line := range strings.Lines(out) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

// lineOf returns the number of the line of a file that contains text.
func lineOf(t *testing.T, file, text string) float64 {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(raw), "\n") {
		if strings.Contains(line, text) {
			return float64(i + 1)
		}
	}
	t.Fatalf("%s has no line with %q", file, text)
	return 0
}

func TestAGameWithAMistakeIsFoundAndMended(t *testing.T) {
	h := newHost(t).playing()
	shot := filepath.Join(t.TempDir(), "game.png")
	r := h.run("generate", "catch the stars", "--project", project, "--model-script", "demo-repair", "--screenshot", shot, "--json")
	if r.code != 0 {
		t.Fatalf("%d\n%s\n%s", r.code, r.stdout, r.stderr)
	}
	events := jsonLines(t, r.stdout)
	accepted := ofType(events, "acceptance")
	if len(accepted) != 2 || accepted[0]["verdict"] != "failed" || accepted[1]["verdict"] != "passed" {
		t.Fatalf("%v", accepted)
	}
	line, found := lineOf(t, demoRepair+"/game.js", "paintStars(drops)"), false
	for _, c := range accepted[0]["checks"].([]any) {
		c := c.(map[string]any)
		message, _ := c["message"].(string)
		found = found || c["status"] == "failed" && c["file"] == "game.js" && c["line"] == line && strings.Contains(message, "paintStars is not defined")
	}
	if !found {
		t.Errorf("the mistake in line %v is not found: %v", line, accepted[0])
	}
	if d := ofType(events, "debug"); len(d) != 1 || d[0]["acceptance"] != "passed" || d[0]["repairs"] != 1.0 {
		t.Errorf("%v", d)
	}
	raw, err := os.ReadFile(shot)
	if err != nil {
		t.Fatal(err)
	}
	wantGame(t, raw)

	var list struct {
		Versions []struct{ Message, Acceptance string }
	}
	if err := json.Unmarshal([]byte(h.must("projects", "versions", project, "--json")), &list); err != nil {
		t.Fatal(err)
	}
	if v := list.Versions; len(v) != 2 || v[0].Message != "catch the stars" || v[0].Acceptance != "passed" || v[1].Acceptance != "failed" {
		t.Errorf("%+v", v)
	}

	s := h.serve("--model-script", "demo")
	get := func(tag string) (int, []byte, string) {
		req, err := http.NewRequest(http.MethodGet, s.url+"/thumbnail?user_id=00000000-0000-4000-8000-000000000001&project_id="+project, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Modal-Secret", s.secret)
		req.Header.Set("If-None-Match", tag)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, body, resp.Header.Get("ETag")
	}
	code, body, tag := get("")
	if code != 200 || !bytes.Equal(body, raw) || tag == "" {
		t.Errorf("/thumbnail: %d, %d bytes, tag %q", code, len(body), tag)
	}
	if code, body, _ := get(tag); code != 304 || len(body) != 0 {
		t.Errorf("/thumbnail with its tag: %d, %d bytes", code, len(body))
	}
	code, played := s.object("/check_game", `{"user_id":"00000000-0000-4000-8000-000000000001","project_id":"`+project+`"}`)
	if code != 200 || played["verdict"] != "passed" {
		t.Errorf("/check_game: %d %v", code, played)
	}
}

// wantGame checks that a picture is one of the demo's game on a phone: its sky is dark
// blue at the top and red at the bottom.
func wantGame(t *testing.T, raw []byte) {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	size := img.Bounds().Size()
	if size != (image.Point{X: 390, Y: 844}) {
		t.Errorf("the picture has %v pixels", size)
	}
	sum := func(from, to int) (red, blue int) {
		for y := from; y < to; y++ {
			for x := 0; x < size.X; x += 7 {
				r, _, b, _ := img.At(x, y).RGBA()
				red, blue = red+int(r>>8), blue+int(b>>8)
			}
		}
		return red, blue
	}
	if r, b := sum(size.Y/8, size.Y/4); b < 2*r {
		t.Errorf("the sky is not blue at the top: red %d, blue %d", r, b)
	}
	if r, b := sum(size.Y*8/10, size.Y*9/10); r < b {
		t.Errorf("the sky is not red at the bottom: red %d, blue %d", r, b)
	}
}

func TestAGameInADirectoryIsPlayed(t *testing.T) {
	h := newHost(t).playing()
	dir, shot := t.TempDir(), filepath.Join(t.TempDir(), "game.png")
	for _, name := range []string{"index.html", "style.css", "game.js"} {
		raw, err := os.ReadFile(filepath.Join(demoRepair, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := h.run("check", dir)
	if r.code != 1 || !strings.Contains(r.stdout, "game.js:") || !strings.Contains(r.stdout, "paintStars is not defined") {
		t.Errorf("%d\n%s\n%s", r.code, r.stdout, r.stderr)
	}
	game := filepath.Join(dir, "game.js")
	raw, err := os.ReadFile(game)
	if err != nil {
		t.Fatal(err)
	}
	mended := strings.Replace(string(raw), "  paintStars(drops);\n", "  for (const d of drops) paintStar(d);\n", 1)
	if err := os.WriteFile(game, []byte(mended), 0o644); err != nil {
		t.Fatal(err)
	}
	r = h.run("check", dir, "--json", "--screenshot", shot)
	if r.code != 0 || !strings.Contains(r.stdout, `"verdict": "passed"`) && !strings.Contains(r.stdout, `"verdict":"passed"`) {
		t.Errorf("%d\n%s\n%s", r.code, r.stdout, r.stderr)
	}
	if raw, err = os.ReadFile(shot); err != nil {
		t.Fatal(err)
	}
	wantGame(t, raw)
	if r := h.run("check", filepath.Join(dir, "none")); r.code != 2 || !strings.Contains(r.stderr, "no directory") {
		t.Errorf("%d %s", r.code, r.stderr)
	}
}
