package gameview_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gameview"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

func TestTheVerdictIsShownInPlainLines(t *testing.T) {
	failed := dreamcore.Acceptance{Verdict: "failed", Checks: []dreamcore.AcceptanceCheck{
		{Name: "loads", Screen: "phone", Status: "passed"},
		{Name: "errors", Screen: "phone", Status: "failed", Message: "hero is not defined\x1b[2J\nsecond line", File: "game.js", Line: 3},
		{Name: "errors", Screen: "desktop", Status: "failed", Message: "hero is not defined\x1b[2J\nsecond line", File: "game.js", Line: 3},
		{Name: "touch", Screen: "phone", Status: "failed"},
	}}
	for _, tt := range []struct {
		a    dreamcore.Acceptance
		want []string
	}{
		{dreamcore.Acceptance{Verdict: "passed"}, []string{"The game plays on phone and desktop"}},
		{failed, []string{"The game does not play well", "game.js:3: hero is not defined [2J second line (phone, desktop)", "the check touch has failed (phone)"}},
		{dreamcore.Acceptance{Verdict: "unknown", Reason: "the project has no page"}, []string{"unknown whether the game plays", "the project has no page"}},
		{dreamcore.Acceptance{Verdict: "made up"}, []string{"unknown whether the game plays"}},
	} {
		var out bytes.Buffer
		gameview.ShowAcceptance((&term.IO{Out: &out}).Stdout(), tt.a)
		for _, want := range tt.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q is missing in:\n%s", want, out.String())
			}
		}
		if strings.Contains(out.String(), "\x1b[2J") {
			t.Errorf("the page controls the terminal: %q", out.String())
		}
	}
}
