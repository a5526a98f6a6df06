package job

import (
	"bytes"
	"context"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

func TestAGameThatPlaysIsAccepted(t *testing.T) {
	var prompts asked
	b := &browser{fn: inOrder(plays())}
	r := newRig(t, accepting(b, AcceptanceFail, mends(&prompts)))
	id := r.submit(request(alice, "a snake"))
	events := r.events(id)
	if last, _ := r.ends(events); last.Type != "done" {
		t.Fatalf("%+v\n%s", events, r.log)
	}
	r.checked(b, 1)
	accepted := r.allOf(id, "acceptance")
	if len(accepted) != 1 || accepted[0]["verdict"] != "passed" || accepted[0]["attempt"] != 1.0 || len(accepted[0]["checks"].([]any)) != 2 {
		t.Errorf("%v", accepted)
	}
	debug := r.allOf(id, "debug")[0]
	if debug["acceptance"] != "passed" || debug["repairs"] != nil {
		t.Errorf("%v", debug)
	}
	j := must(r.service.Get(id))(t)
	if j.Acceptance == nil || j.Acceptance.Verdict != "passed" || len(j.Acceptance.Checks) != 0 || j.Repairs != 0 {
		t.Errorf("%+v", j.Acceptance)
	}
	versions := must(r.parts.History.Log(t.Context(), alice, project, 0))(t)
	if len(versions) != 1 || versions[0].Message != "a snake" || versions[0].Acceptance != "passed" {
		t.Errorf("%+v", versions)
	}
	if g := b.games[0]; g.Limit != time.Second || !strings.HasSuffix(g.Dir, string(project)) {
		t.Errorf("%+v", g)
	}
	if len(prompts.list()) != 1 {
		t.Errorf("%q", prompts.list())
	}
}

func TestTheAgentMendsWhatTheCheckFinds(t *testing.T) {
	var prompts asked
	b := &browser{fn: inOrder(fails("hero is not defined"), plays())}
	r := newRig(t, accepting(b, AcceptanceFail, mends(&prompts)))
	id := must(r.service.Submit(t.Context(), request(alice, "a snake"), dreamcore.Japanese))(t)
	events := r.events(id)
	last, debug := r.ends(events)
	if last.Type != "done" || *debug.Files != 3 || debug.Lines != 6 {
		t.Fatalf("%+v\n%s", events, r.log)
	}
	r.checked(b, 2)
	accepted := r.allOf(id, "acceptance")
	if len(accepted) != 2 || accepted[0]["verdict"] != "failed" || accepted[1]["verdict"] != "passed" || accepted[1]["attempt"] != 2.0 {
		t.Errorf("%v", accepted)
	}
	for _, n := range []dreamcore.AcceptanceNote{dreamcore.NoteChecking, dreamcore.NoteRepairing, dreamcore.NotePlays} {
		if count(events, says(n.Text(dreamcore.Japanese))) == 0 {
			t.Errorf("the player is not told: %s", n.Text(dreamcore.Japanese))
		}
	}
	got := prompts.list()
	if len(got) != 2 || !strings.Contains(got[1], `{"check":"errors","screens":["phone","desktop"],"file":"game.js","line":3,"message":"hero is not defined"}`) {
		t.Errorf("%q", got)
	}
	versions := must(r.parts.History.Log(t.Context(), alice, project, 0))(t)
	if len(versions) != 2 || versions[0].Message != "a snake" || versions[0].Acceptance != "passed" ||
		versions[1].Message != "a snake" || versions[1].Acceptance != "failed" {
		t.Errorf("%+v", versions)
	}
	if j := must(r.service.Get(id))(t); j.Acceptance.Verdict != "passed" || j.Repairs != 1 || j.Commit != history.Short(versions[0].Hash) {
		t.Errorf("%+v", j)
	}
	if d := r.allOf(id, "debug")[0]; d["repairs"] != 1.0 || d["acceptance"] != "passed" {
		t.Errorf("%v", d)
	}
}

func TestAGameThatStaysBroken(t *testing.T) {
	for _, tt := range []struct {
		mode     Acceptance
		last     string
		warnings int
	}{{AcceptanceWarn, "done", 1}, {AcceptanceFail, "error", 0}} {
		t.Run(string(tt.mode), func(t *testing.T) {
			var prompts asked
			b := &browser{fn: inOrder(fails("a", "b"), fails("a"), fails("a", "c"))}
			r := newRig(t, accepting(b, tt.mode, mends(&prompts)))
			id := r.submit(request(alice, "a snake"))
			events := r.events(id)
			last, _ := r.ends(events)
			if last.Type != tt.last || count(events, isType("warning")) != tt.warnings {
				t.Fatalf("%+v\n%s", events, r.log)
			}
			if tt.last == "error" && (last.Code != string(dreamcore.FailGameBroken) || last.Exit != nil || last.User == "") {
				t.Errorf("%+v", last)
			}
			r.checked(b, 3)
			// The first repair has made something better, the second one worse.
			if n := count(events, says(dreamcore.NoteNotBetter.Text(dreamcore.English))); n != 1 {
				t.Errorf("%d times it says that a repair did not help", n)
			}
			if n := len(prompts.list()); n != 3 {
				t.Errorf("the agent ran %d times", n)
			}
			versions := must(r.parts.History.Log(t.Context(), alice, project, 0))(t)
			if len(versions) != 3 || versions[0].Acceptance != "failed" {
				t.Errorf("%+v", versions)
			}
			if raw, err := os.ReadFile(filepath.Join(must(r.parts.Volumes.Find(alice, project))(t).Path(), "game.js")); err != nil || string(raw) != "game 3" {
				t.Errorf("what the agent made last is not kept: %q, %v", raw, err)
			}
			j := must(r.service.Get(id))(t)
			if j.Acceptance.Verdict != "failed" || len(j.Acceptance.Checks) != 4 || j.Repairs != 2 {
				t.Errorf("%+v", j)
			}
		})
	}
}

func TestACheckWithoutAVerdictBlocksNothing(t *testing.T) {
	for name, fn := range map[string]func(context.Context, int) (verdict.Report, error){
		"no browser": func(context.Context, int) (verdict.Report, error) { return verdict.Report{}, errFake },
		"it hangs": func(ctx context.Context, _ int) (verdict.Report, error) {
			<-ctx.Done()
			return verdict.Report{}, context.Cause(ctx)
		},
		"it does not know":         inOrder(verdict.Report{Verdict: verdict.Unknown}),
		"it says failed, not what": inOrder(verdict.Report{Verdict: verdict.Failed}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &browser{fn: fn}
			var prompts asked
			o := accepting(b, AcceptanceFail, mends(&prompts))
			settings := o.settings
			o.settings = func(s *Settings) { settings(s); s.TimeLimit = 3 * time.Second }
			r := newRig(t, o)
			id := r.submit(request(alice, "x"))
			events := r.events(id)
			if last, _ := r.ends(events); last.Type != "done" || count(events, isType("warning")) != 0 || len(prompts.list()) != 1 {
				t.Errorf("%+v\n%s", events, r.log)
			}
			r.checked(b, 1)
			if a := r.allOf(id, "acceptance"); len(a) != 1 || a[0]["verdict"] != "unknown" {
				t.Errorf("%v", a)
			}
		})
	}
}

func TestAJobNearItsLimitsChecksOrMendsNoMore(t *testing.T) {
	broken := func(prompts *asked, settings func(*Settings)) (*browser, options) {
		b := &browser{fn: inOrder(fails("x"))}
		o := accepting(b, AcceptanceWarn, mends(prompts))
		base := o.settings
		o.settings = func(s *Settings) { base(s); settings(s) }
		return b, o
	}
	for _, tt := range []struct {
		name       string
		settings   func(*Settings)
		parts      func(*Parts)
		runs, made int
		verdict    string
	}{
		{"no time for a check", func(s *Settings) { s.TimeLimit = 5 * time.Second; s.AcceptanceLimit = 10 * time.Second }, nil, 0, 1, "unknown"},
		{"no time for a repair", func(s *Settings) { s.TimeLimit = 10 * time.Second; s.AcceptanceLimit = 9500 * time.Millisecond }, nil, 1, 1, "failed"},
		{"no turns", func(s *Settings) { s.Agent.Turns = 3 }, nil, 2, 2, "failed"},
		{"no repairs", func(s *Settings) { s.AcceptanceRepairs = 0 }, nil, 1, 1, "failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var prompts asked
			b, o := broken(&prompts, tt.settings)
			r := newRig(t, o)
			id := r.submit(request(alice, "x"))
			events := r.events(id)
			if last, _ := r.ends(events); last.Type != "done" || len(prompts.list()) != tt.made {
				t.Errorf("%+v\n%s", events, r.log)
			}
			r.checked(b, tt.runs)
			if j := must(r.service.Get(id))(t); j.Acceptance.Verdict != tt.verdict {
				t.Errorf("%+v", j.Acceptance)
			}
		})
	}
}

func TestARepairWithoutBudgetIsLeftOut(t *testing.T) {
	ledger := openLedger(t, t.TempDir(), usage.Limits{JobTokens: 1})
	b := &browser{fn: inOrder(fails("x"))}
	var prompts asked
	play := mends(&prompts)
	o := accepting(b, AcceptanceWarn, func(g guest) (int, error) {
		_, _, _ = g.ask(question)
		return play(g)
	})
	o.upstream = gateway.HandlerUpstream(&teller{})
	parts := o.parts
	o.parts = func(p *Parts) { parts(p); p.Ledger = ledger }
	r := newRig(t, o)
	events := r.run(request(alice, "x"))
	if last, _ := r.ends(events); last.Type != "done" || count(events, says(dreamcore.NoteNoRepair.Text(dreamcore.English))) != 1 {
		t.Errorf("%+v\n%s", events, r.log)
	}
}

func TestAnAgentThatFailsInARepairLeavesTheGame(t *testing.T) {
	var prompts asked
	play, runs := mends(&prompts), 0
	b := &browser{fn: inOrder(fails("x"), fails("y"))}
	r := newRig(t, accepting(b, AcceptanceWarn, func(g guest) (int, error) {
		if runs++; runs > 1 {
			g.say(answered)
			_, _, _ = g.ask(question)
			return 1, g.write("game.js", "half")
		}
		return play(g)
	}))
	id := r.submit(request(alice, "x"))
	events := r.events(id)
	if last, _ := r.ends(events); last.Type != "done" || count(events, isType("warning")) != 1 {
		t.Errorf("%+v\n%s", events, r.log)
	}
	r.checked(b, 2) // the state that the agent has left
	if runs != 2 {
		t.Errorf("the agent ran %d times", runs)
	}
}

func TestARepairThatChangesNothingIsTheLast(t *testing.T) {
	var prompts asked
	play, runs := mends(&prompts), 0
	b := &browser{fn: inOrder(fails("x"))}
	r := newRig(t, accepting(b, AcceptanceWarn, func(g guest) (int, error) {
		if runs++; runs > 1 {
			g.say(good)
			return 0, nil
		}
		return play(g)
	}))
	r.ends(r.run(request(alice, "x")))
	r.checked(b, 2)
	if runs != 2 {
		t.Errorf("the agent ran %d times", runs)
	}
}

func TestAcceptanceIsOffByDefault(t *testing.T) {
	b := &browser{fn: inOrder(fails("x"))}
	for _, settings := range []func(*Settings){
		func(*Settings) {},
		func(s *Settings) { s.Acceptance, s.AcceptanceLimit = AcceptanceOff, time.Second },
	} {
		r := newRig(t, options{parts: func(p *Parts) { p.Checker = b }, settings: settings})
		id := r.submit(request(alice, "x"))
		if last, _ := r.ends(r.events(id)); last.Type != "done" || len(r.allOf(id, "acceptance")) != 0 {
			t.Errorf("%+v", last)
		}
	}
	if started, _, _ := b.count(); started != 0 {
		t.Errorf("%d browsers were started", started)
	}
}

func TestAProjectWithoutAPageIsNotPlayed(t *testing.T) {
	b := &browser{fn: inOrder(fails("x"))}
	r := newRig(t, accepting(b, AcceptanceFail, func(g guest) (int, error) {
		g.say(good)
		return 0, g.write("notes.txt", "x")
	}))
	id := r.submit(request(alice, "x"))
	if last, _ := r.ends(r.events(id)); last.Type != "done" {
		t.Errorf("%+v\n%s", last, r.log)
	}
	r.checked(b, 0)
}

func TestAFailedAgentIsNotChecked(t *testing.T) {
	b := &browser{fn: inOrder(fails("x"))}
	r := newRig(t, accepting(b, AcceptanceFail, func(g guest) (int, error) {
		_, _, _ = g.ask(question)
		return 7, g.write("index.html", "half")
	}))
	if last, _ := r.ends(r.run(request(alice, "x"))); last.Code != string(dreamcore.FailCLIUnknown) {
		t.Errorf("%+v\n%s", last, r.log)
	}
	r.checked(b, 0)
}

func TestPicturesAreKeptBesideTheVersions(t *testing.T) {
	shot := func(c color.Color) []byte {
		img := image.NewRGBA(image.Rect(0, 0, 4, 4))
		img.Set(1, 1, c)
		var b bytes.Buffer
		if err := png.Encode(&b, img); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	with := func(r verdict.Report, c color.Color) verdict.Report {
		r.Shots = []verdict.Shot{{Screen: verdict.Phone, PNG: shot(c)}, {Screen: verdict.Desktop, PNG: []byte("<svg>")}}
		return r
	}
	var prompts asked
	b := &browser{fn: inOrder(with(fails("x"), color.White), with(plays(), color.Black))}
	r := newRig(t, accepting(b, AcceptanceWarn, mends(&prompts)))
	id := r.submit(request(alice, "x"))
	if last, _ := r.ends(r.events(id)); last.Type != "done" {
		t.Fatalf("%+v", last)
	}
	var seen []color.Color
	for _, v := range must(r.parts.History.Log(t.Context(), alice, project, 0))(t) {
		raw, _, err := r.parts.History.Shot(t.Context(), alice, project, v.Hash, "phone")
		if err != nil {
			t.Fatal(err)
		}
		img := must(png.Decode(bytes.NewReader(raw)))(t)
		seen = append(seen, color.RGBAModel.Convert(img.At(1, 1)))
		if _, _, err := r.parts.History.Shot(t.Context(), alice, project, v.Hash, "desktop"); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
			t.Errorf("what is no picture is kept: %v", err)
		}
	}
	if want := []color.Color{color.RGBA{0, 0, 0, 255}, color.RGBA{255, 255, 255, 255}}; !slices.Equal(seen, want) {
		t.Errorf("%v", seen)
	}
}
