package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// browser is a checker that plays no game: fn says what it finds.
type browser struct {
	fn func(ctx context.Context, n int) (verdict.Report, error) // n from 1

	mu      sync.Mutex
	started int
	closed  int
	runs    int
	games   []Game
}

func (b *browser) Start(_ context.Context, g Game) Check {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.started++
	b.games = append(b.games, g)
	return &page{browser: b}
}

type page struct {
	browser *browser
	closed  bool
}

func (p *page) Run(ctx context.Context) (verdict.Report, error) {
	p.browser.mu.Lock()
	p.browser.runs++
	n := p.browser.runs
	p.browser.mu.Unlock()
	if p.closed {
		return verdict.Report{}, errors.New("the browser was closed before")
	}
	return p.browser.fn(ctx, n)
}

func (p *page) Close(context.Context) error {
	p.browser.mu.Lock()
	defer p.browser.mu.Unlock()
	if p.closed {
		return errors.New("closed twice")
	}
	p.closed = true
	p.browser.closed++
	return nil
}

func (b *browser) count() (started, closed, runs int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.started, b.closed, b.runs
}

// plays and fails are reports.
func plays() verdict.Report {
	return verdict.Report{Verdict: verdict.Passed, Browser: "Fake/1", Millis: 12, Checks: []verdict.Check{
		{Name: verdict.Loads, Screen: verdict.Phone, Status: verdict.Passed}, {Name: verdict.Keys, Screen: verdict.Desktop, Status: verdict.Unknown, Message: "no key is used"},
	}}
}

func fails(messages ...string) verdict.Report {
	r := verdict.Report{Verdict: verdict.Failed, Checks: []verdict.Check{{Name: verdict.Loads, Screen: verdict.Phone, Status: verdict.Passed}}}
	for i, m := range messages {
		for _, screen := range []verdict.Screen{verdict.Phone, verdict.Desktop} {
			r.Checks = append(r.Checks, verdict.Check{Name: verdict.Errors, Screen: screen, Status: verdict.Failed, Message: m, File: "game.js", Line: i + 3})
		}
	}
	return r
}

// inOrder returns what the checks find, one after another; the last one repeats.
func inOrder(all ...verdict.Report) func(context.Context, int) (verdict.Report, error) {
	return func(_ context.Context, n int) (verdict.Report, error) { return all[min(n, len(all))-1], nil }
}

// accepting returns options of a rig that checks its games.
func accepting(b *browser, mode Acceptance, play program) options {
	return options{
		play:  play,
		parts: func(p *Parts) { p.Checker = b },
		settings: func(s *Settings) {
			s.Acceptance, s.AcceptanceRepairs, s.AcceptanceLimit = mode, 2, time.Second
		},
	}
}

// mends is an agent that keeps a conversation and writes another game each time.
func mends(a *asked) program {
	n := 0
	return func(g guest) (int, error) {
		a.note(g)
		n++
		if err := g.converse(); err != nil {
			return 0, err
		}
		if err := errors.Join(g.write("index.html", "<canvas>"), g.write("game.js", fmt.Sprint("game ", n))); err != nil {
			return 0, err
		}
		g.say(fmt.Sprintf(`{"type":"assistant","message":{"id":"%d"}}`+"\n", n) + good)
		return 0, nil
	}
}

// allOf returns the events of a type with all their members.
func (r *rig) allOf(id, kind string) (all []map[string]any) {
	r.t.Helper()
	reader := must(r.parts.Journal.Reader(id, 0))(r.t)
	defer reader.Close()
	for entry, err := range reader.Follow(r.t.Context()) {
		if err != nil {
			r.t.Fatal(err)
		}
		if dreamcore.EventType(entry.Event) == kind {
			var m map[string]any
			if err := json.Unmarshal(entry.Event, &m); err != nil {
				r.t.Fatal(err)
			}
			all = append(all, m)
		}
		if entry.Terminal() {
			return all
		}
	}
	return all
}

func (r *rig) checked(b *browser, runs int) {
	r.t.Helper()
	if started, closed, ran := b.count(); started != closed || ran != runs {
		r.t.Errorf("%d browsers were started, %d closed, %d checks", started, closed, ran)
	}
}
