package job

import (
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestVersionName(t *testing.T) {
	const prompt = "<system>You write games.</system>\na snake\ngame"
	for _, tt := range []struct{ name, request, setting, want string }{
		{"the player's words", "", "", "a snake game"},
		{"the setting", "", "AI: {{.Prompt}}", "AI: a snake game"},
		{"the request", "Save\nthe game", "AI: {{.Prompt}}", "Save the game"},
		{"a blank request", " \n\x00", "AI", "AI"},
		{"a long request", strings.Repeat("x", 100), "", strings.Repeat("x", 71) + "…"},
		{"a setting that cannot be executed", "", "{{slice .Prompt 0 100}}", "a snake game"},
	} {
		j := &job{id: "j", request: dreamcore.GenerateRequest{Prompt: prompt, CommitMessage: tt.request}, settings: Settings{CommitMessage: tt.setting}}
		if got := j.versionName(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
