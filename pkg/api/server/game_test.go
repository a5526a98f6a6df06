package server

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
)

// fakeGames plays no game and has a picture of each.
type fakeGames struct {
	mu      sync.Mutex
	err     error
	verdict string
	asked   []string
	playing func() // may be nil
}

func (g *fakeGames) CheckGame(_ context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (job.Played, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, fmt.Sprint(user, " ", project))
	if g.playing != nil {
		g.playing()
	}
	p := job.Played{Commit: strings.Repeat("a", 40), Acceptance: dreamcore.Acceptance{Verdict: g.verdict, Attempt: 1}}
	if p.Verdict == "" {
		p.Verdict = dreamcore.AcceptancePassed
	}
	if p.Verdict == dreamcore.AcceptanceFailed {
		p.Checks = []dreamcore.AcceptanceCheck{{Name: "errors", Screen: "phone", Status: "failed", Message: "hero is not defined", File: "game.js", Line: 3}}
	}
	return p, g.err
}

func (g *fakeGames) Shot(_ context.Context, user dreamcore.UserID, project dreamcore.ProjectID, hash, screen string) ([]byte, string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, fmt.Sprint(user, " ", project, " ", hash, " ", screen))
	var b bytes.Buffer
	_ = png.Encode(&b, image.NewGray(image.Rect(0, 0, 2, 2)))
	return b.Bytes(), strings.Repeat("a", 40), g.err
}

func (g *fakeGames) list() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked
}

func startGames(t *testing.T, g *fakeGames, config func(*Config)) *service {
	t.Helper()
	return start(t, options{config: func(c *Config) {
		c.Games = g
		if config != nil {
			config(c)
		}
	}})
}

func TestThumbnail(t *testing.T) {
	g := &fakeGames{}
	sv := startGames(t, g, nil)
	get := func(query string, headers ...string) (*http.Response, string) {
		req := sv.request(http.MethodGet, "/thumbnail?user_id="+user+"&project_id="+projectID+query, "")
		req.Body, req.ContentLength = nil, 0
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		res := sv.do(req)
		raw, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(raw)
	}
	res, body := get("")
	if _, err := png.Decode(strings.NewReader(body)); err != nil || res.StatusCode != 200 || res.Header.Get("Content-Type") != "image/png" ||
		res.Header.Get("X-Content-Type-Options") != "nosniff" || res.Header.Get(VersionHeader) == "" {
		t.Errorf("%s %v %v", res.Status, res.Header, err)
	}
	tag := res.Header.Get("ETag")
	if res, body := get("", "If-None-Match", tag); tag == "" || res.StatusCode != 304 || body != "" {
		t.Errorf("%s %q", res.Status, body)
	}
	get("&version=abcdef0&screen=desktop")
	if asked := g.list(); asked[0] != user+" "+projectID+"  phone" || asked[2] != user+" "+projectID+" abcdef0 desktop" {
		t.Errorf("%q", asked)
	}
	if res, body := get("&screen=phone&screen=desktop"); res.StatusCode != 400 || !strings.Contains(body, "screen is given more than once") {
		t.Errorf("%s %s", res.Status, body)
	}
	req := sv.request(http.MethodGet, "/thumbnail?user_id="+user+"&project_id="+projectID, "")
	req.Body, req.ContentLength = nil, 0
	req.Header.Set(SecretHeader, "wrong")
	if res := sv.do(req); res.StatusCode != 401 {
		t.Errorf("without the secret: %s", res.Status)
	}
	g.err = &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "There is no picture of this game yet"}
	if res, body := get(""); res.StatusCode != 404 || res.Header.Get("Content-Type") != "application/json" || !strings.Contains(body, `"error":"There is no picture`) {
		t.Errorf("%s %s", res.Status, body)
	}
}

func TestCheckGame(t *testing.T) {
	g := &fakeGames{verdict: dreamcore.AcceptanceFailed}
	sv := startGames(t, g, nil)
	body := `{"user_id":"` + user + `","project_id":"` + projectID + `"}`
	code, _, answer := sv.post("/check_game", body)
	checks, _ := answer["checks"].([]any)
	if code != 200 || answer["verdict"] != "failed" || len(checks) != 1 || answer["commit"] != strings.Repeat("a", 40) {
		t.Errorf("%d %v", code, answer)
	}
	for sent, want := range map[string]int{`{}`: 400, `{"user_id":"` + user + `"}`: 400, `[]`: 400, `{"user_id":"x","project_id":"y"}`: 400} {
		if code, _, answer := sv.post("/check_game", sent); code != want || answer["error"] == "" {
			t.Errorf("%s: %d %v", sent, code, answer)
		}
	}
	for code, want := range map[dreamcore.Code]int{dreamcore.CodeNotFound: 404, dreamcore.CodeBusy: 429, dreamcore.CodeConflict: 409, dreamcore.CodeInternal: 500} {
		g.err = &dreamcore.Error{Code: code, Message: "x"}
		if got, _, answer := sv.post("/check_game", body); got != want {
			t.Errorf("%s: %d %v", code, got, answer)
		}
	}
}

func TestApplyFilesPlaysTheGameIfItIsToldTo(t *testing.T) {
	for _, on := range []bool{false, true} {
		g := &fakeGames{verdict: dreamcore.AcceptanceFailed}
		sv := startGames(t, g, func(c *Config) { c.CheckApplied = func() bool { return on } })
		res := sv.do(sv.request(http.MethodPost, "/apply_files", applyBody(`"files":[{"path":"index.html","content":"x"}]`)))
		raw, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		stream := string(raw)
		at, done, result := strings.Index(stream, `{"type":"acceptance","verdict":"failed"`), strings.Index(stream, `"type":"done"`), strings.Index(stream, `"type":"result"`)
		if (at >= 0) != on || done < 0 || on && (at < result || at > done) {
			t.Errorf("on %v: %s", on, stream)
		}
		g.err = &dreamcore.Error{Code: dreamcore.CodeBusy, Message: "the machine is busy"}
		res = sv.do(sv.request(http.MethodPost, "/apply_files", applyBody(`"files":[{"path":"index.html","content":"y"}]`)))
		if raw, _ = io.ReadAll(res.Body); on && !strings.Contains(string(raw), `"verdict":"unknown"`) || !strings.Contains(string(raw), `"type":"done"`) {
			t.Errorf("a check that is not possible: %s", raw)
		}
	}
}

// The memory for bodies is for requests that are read, not for games that are played.
func TestACheckOfChangesKeepsNoOtherChangeWaiting(t *testing.T) {
	const most = 1 << 10
	var sv *service
	free := false
	g := &fakeGames{playing: func() {
		if free = sv.server.applied.TryAcquire(most); free {
			sv.server.applied.Release(most)
		}
	}}
	sv = startGames(t, g, func(c *Config) {
		c.CheckApplied = func() bool { return true }
		c.Limits.MaxApplyBody, c.Limits.MaxApplyBytes = most, most
	})
	res := sv.do(sv.request(http.MethodPost, "/apply_files", applyBody(`"files":[{"path":"index.html","content":"x"}]`)))
	if raw, err := io.ReadAll(res.Body); err != nil || !strings.Contains(string(raw), `"type":"done"`) || !strings.Contains(string(raw), `"verdict"`) {
		t.Fatalf("%s %v", raw, err)
	}
	if !free {
		t.Error("the memory of the request is reserved while the game is played")
	}
}
