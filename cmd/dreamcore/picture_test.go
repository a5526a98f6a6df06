package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// The picture is an extra: it must not hide how a game has ended, and must be one of
// that game.
func TestAScreenshotHidesNoOutcome(t *testing.T) {
	const commit = "abcdef0"
	png := "\x89PNG\r\n\x1a\n picture"
	failed := dreamcore.ErrorEvent(dreamcore.Failure{Code: dreamcore.FailGameBroken}, dreamcore.English)
	for name, tt := range map[string]struct {
		commit  string
		end     dreamcore.Event
		file    string // below the directory
		status  int    // of thumbnail
		outcome string // of generate
		says    string
		written bool
	}{
		"all is well":           {commit, dreamcore.DoneEvent(), "game.png", 200, "The game is done", "Screenshot written", true},
		"a broken game":         {commit, failed, "game.png", 200, "GAME_BROKEN", "Screenshot written", true},
		"no such directory":     {commit, failed, "missing/game.png", 200, "GAME_BROKEN", "cannot be written to", false},
		"done, no directory":    {commit, dreamcore.DoneEvent(), "missing/game.png", 200, "The game is done", "cannot be written to", false},
		"no version":            {"", failed, "game.png", 200, "GAME_BROKEN", "there is no screenshot", false},
		"no version, done":      {"", dreamcore.DoneEvent(), "game.png", 200, "The game is done", "there is no screenshot", false},
		"no picture":            {commit, failed, "game.png", 404, "GAME_BROKEN", "there is no screenshot", false},
		"the service is broken": {commit, failed, "game.png", 500, "GAME_BROKEN", "there is no screenshot", false},
	} {
		t.Run(name, func(t *testing.T) {
			j := dreamcore.Job{
				ID: "aaaa1111-0000-4000-8000-000000000001", User: localUser, Project: "b0b00000-0000-4000-8000-000000000002",
				State: dreamcore.JobSucceeded, Commit: tt.commit,
			}
			raw, err := json.Marshal(j)
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			var asked []string
			mux := http.NewServeMux()
			mux.HandleFunc("GET /jobs/"+j.ID, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(raw) })
			mux.HandleFunc("GET /jobs/"+j.ID+"/events", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				fmt.Fprintf(w, "id: 1\ndata: {\"type\":\"debug\",\"git_commit\":%q}\n\nid: 2\ndata: %s\n\n", tt.commit, tt.end)
			})
			mux.HandleFunc("POST /check_game", func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"verdict":"passed","commit":%q}`, tt.commit)
			})
			mux.HandleFunc("GET /thumbnail", func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				asked = append(asked, r.URL.Query().Get("version"))
				w.WriteHeader(tt.status)
				if tt.status == 200 {
					_, _ = w.Write([]byte(png))
				}
			})
			s := httptest.NewServer(mux)
			defer s.Close()
			dir := t.TempDir()
			key, file := filepath.Join(dir, "secret"), filepath.Join(dir, tt.file)
			if err := os.WriteFile(key, []byte(strings.Repeat("s", 40)), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"generate", "--follow", j.ID}, {"jobs", "show", j.ID}, {"check", string(j.Project), "--user", localUser}} {
				c := newCLI(t)
				out, errOut, err := c.run(append(args, "--endpoint", s.URL, "--secret-file", key, "--screenshot", file)...)
				said, outcome := out+errOut, tt.outcome
				switch args[0] {
				case "jobs":
					outcome = j.ID
				case "check":
					outcome = "plays"
				}
				if !strings.Contains(said, tt.says) || !strings.Contains(said, outcome) || args[0] != "generate" && err != nil ||
					args[0] == "generate" && (err == nil) != (tt.outcome == "The game is done") {
					t.Errorf("%q: %v\n%s", args, err, said)
				}
				if got, err := os.ReadFile(file); (err == nil && string(got) == png) != tt.written {
					t.Errorf("%q: %v", args, err)
				}
				_ = os.Remove(file)
			}
			if slices.ContainsFunc(asked, func(v string) bool { return v != commit }) {
				t.Errorf("asked for %q", asked)
			}
		})
	}
}
