package client

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestCheckGame(t *testing.T) {
	finding := `{"name":"errors","screen":"phone","status":"failed","message":"hero is\u001b not defined","file":"game.js","line":3}`
	for _, tt := range []struct {
		status  int
		body    string
		verdict string
		code    dreamcore.Code // "" after a success
	}{
		{200, `{"verdict":"passed","commit":"` + strings.Repeat("a", 40) + `"}`, "passed", ""},
		{200, `{"verdict":"failed","checks":[` + finding + `]}`, "failed", ""},
		{200, `{"verdict":"great"}`, "", dreamcore.CodeInternal},
		{200, `{"verdict":"passed","commit":"../x"}`, "", dreamcore.CodeInternal},
		{200, `[]`, "", dreamcore.CodeInternal},
		{404, `{"error":"Project not found"}`, "", dreamcore.CodeNotFound},
	} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/check_game" || r.Method != http.MethodPost {
				t.Errorf("%s %s", r.Method, r.URL)
			}
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		})
		a, _, err := c.CheckGame(t.Context(), "u", "p")
		if tt.code != "" {
			if err == nil || dreamcore.CodeOf(err) != tt.code {
				t.Errorf("%s: %v", tt.body, err)
			}
			continue
		}
		if err != nil || a.Verdict != tt.verdict {
			t.Errorf("%s: %+v, %v", tt.body, a, err)
		}
		for _, f := range a.Failed() {
			if f.Message != "hero is not defined" || f.Where() != "game.js:3" {
				t.Errorf("%+v", f)
			}
		}
	}
}

func TestThumbnail(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		code   dreamcore.Code
	}{
		{200, "\x89PNG\r\n\x1a\nx", ""},
		{200, "<svg>", dreamcore.CodeInternal},
		{200, "\x89PNG\r\n\x1a\n" + strings.Repeat("x", maxPicture), dreamcore.CodeInternal},
		{404, `{"error":"There is no picture of this game yet"}`, dreamcore.CodeNotFound},
	} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if q := r.URL.Query(); q.Get("screen") != "phone" || q.Get("version") != "abcdef0" || q.Get("user_id") != "u" {
				t.Errorf("%s", r.URL)
			}
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		})
		raw, err := c.Thumbnail(t.Context(), "u", "p", "abcdef0", "phone")
		if tt.code == "" && (err != nil || string(raw) != tt.body) || tt.code != "" && (err == nil || dreamcore.CodeOf(err) != tt.code) {
			t.Errorf("%.20q: %v", tt.body, err)
		}
	}
}
