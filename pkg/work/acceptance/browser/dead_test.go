package browser

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/runtime"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// TestABrowserThatDoesNotAnswerSaysNothingAboutTheGame: it has ended, or it reads
// no commands.
func TestABrowserThatDoesNotAnswerSaysNothingAboutTheGame(t *testing.T) {
	for name, prepare := range map[string]func(p *pipe, s *session, end func()){
		"ended": func(p *pipe, _ *session, end func()) {
			end()
			<-p.done
		},
		"busy": func(_ *pipe, s *session, _ func()) {
			for range maxUnsent + 2 {
				cast(s, runtime.Enable, cdp.Empty{})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			unread, w := io.Pipe()
			r, toDriver := io.Pipe()
			defer unread.Close()
			defer toDriver.Close()
			p := newPipe(r, w)
			ev := newEvidence(verdict.Phone, "http://127.0.0.1:1", nil)
			tab := &tab{screen: verdict.Phone, size: sizes[verdict.Phone], page: p.session("x"), film: newFilm(), ev: ev}
			prepare(p, tab.page, func() { toDriver.Close() })
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			played := &round{}
			tab.play(ctx, ev.origin+"/", played)
			if ctx.Err() != nil {
				t.Error("the play waits for its end")
			}
			if !ev.silent {
				t.Error("the browser would be used again")
			}
			checks := judge(ev, played, nil)
			for _, c := range checks {
				if c.Status == verdict.Failed {
					t.Errorf("%+v", c)
				}
			}
			if got := conclude(checks); got != verdict.Unknown {
				t.Error(got)
			}
		})
	}
}

// TestABrowserThatDiesBetweenTwoChecksIsReplaced kills it where nothing waits for
// its answer.
func TestABrowserThatDiesBetweenTwoChecksIsReplaced(t *testing.T) {
	d := newDriver(t)
	dead := d.ready.process
	dead.kill()
	<-dead.pipe.done
	r := d.check(t, game(t, `<h1 style="background:#8cf">Game</h1><button onclick="this.style.background='red'">Start</button>`), 20*time.Second)
	if c := find(r, verdict.Loads, verdict.Phone); r.Verdict == verdict.Failed || c.Status != verdict.Passed {
		t.Error(describe(r))
	}
}

// TestABrowserThatCannotBeReplacedIsAnError: there is no report, and no fault of
// the game.
func TestABrowserThatCannotBeReplacedIsAnError(t *testing.T) {
	d := newDriver(t)
	dead := d.ready.process
	dead.kill()
	<-dead.pipe.done
	d.path = filepath.Join(t.TempDir(), "no-browser")
	if err := os.WriteFile(d.path, []byte("#!/bin/false\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	l := d.answer(t.Context(), []byte(`{"port":1}`))
	if l.Report != nil || !strings.Contains(l.Error, "browser") {
		t.Errorf("%+v", l)
	}
	if err := d.renew(t.Context()); err == nil {
		t.Error("no error")
	}
}
