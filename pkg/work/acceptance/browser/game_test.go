package browser

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// find returns a check of a report.
func find(r *verdict.Report, name verdict.Name, screen verdict.Screen) verdict.Check {
	for _, c := range r.Checks {
		if c.Name == name && c.Screen == screen {
			return c
		}
	}
	return verdict.Check{}
}

// game writes a page to a project.
func game(t *testing.T, body string) string {
	t.Helper()
	dir := t.TempDir()
	page := `<!doctype html><meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1"><body style="margin:0">` + body
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestWhatTheCorpusLeavesOut checks single rules with one browser.
func TestWhatTheCorpusLeavesOut(t *testing.T) {
	d := newDriver(t)
	for name, c := range map[string]struct {
		body   string
		name   verdict.Name
		screen verdict.Screen
		want   verdict.Status
	}{
		"a leak that never ends": {
			"<canvas></canvas><script>const kept = []; setInterval(() => { const a = []; for (let i = 0; i < 4e5; i++) a.push(i + .5); kept.push(a) }, 60)</script>",
			verdict.Memory, verdict.Desktop, verdict.Failed,
		},
		"a link to another site in the middle": {
			`<a href="https://example.com/" style="position:fixed;inset:0;background:#8cf">More games</a>`,
			verdict.Stays, verdict.Phone, verdict.Passed,
		},
		"a button that is far below, and no scrolling": {
			`<style>body{overflow:hidden;height:100vh}</style><div style="height:3000px;background:#8cf">Game</div><button onclick="document.body.style.background='red'">Start</button>`,
			verdict.Fits, verdict.Phone, verdict.Failed,
		},
		"a drawer that is outside on purpose": {
			`<div style="position:fixed;left:-300px;width:250px"><button onclick="0">Sound</button></div><button onclick="document.body.style.background='red'">Start</button>`,
			verdict.Fits, verdict.Phone, verdict.Passed,
		},
		"a name in the path that needs an escape": {
			`<script src="a%20b.js?v=1"></script><p>Game</p>`,
			verdict.Loads, verdict.Desktop, verdict.Failed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := d.check(t, game(t, c.body), 20*time.Second)
			if got := find(r, c.name, c.screen); got.Status != c.want {
				t.Errorf("%+v\n%s", got, describe(r))
			}
		})
	}
}

// TestAPictureOfEachScreenIsInTheReport: at most 390 and 640 pixels wide.
func TestAPictureOfEachScreenIsInTheReport(t *testing.T) {
	d := newDriver(t)
	r := d.check(t, game(t, `<h1 style="background:#8cf">Game</h1><button onclick="this.style.background='red'">Start</button>`), 20*time.Second)
	if len(r.Shots) != 2 {
		t.Fatalf("%d pictures", len(r.Shots))
	}
	for _, s := range r.Shots {
		f, ok := readFrame(s.PNG, time.Now())
		if !ok || !f.shown {
			t.Errorf("%s shows nothing", s.Screen)
		}
	}
	if r.Verdict == verdict.Failed {
		t.Error(describe(r))
	}
}
