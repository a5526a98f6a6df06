package history

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestSubject(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"as it is", "a snake game", "a snake game"},
		{"one line of many", "a snake game\n\n- fast\r\n\t- cold", "a snake game - fast - cold"},
		{"white space around it", "  \n a game \u2028\u00a0", "a game"},
		{"control characters", "a\x1b[31mred\x07game\x7f", "a [31mred game"},
		{"a slash command", "/clear", "/clear"},
		{"just long enough", strings.Repeat("x", 72), strings.Repeat("x", 72)},
		{"too long", strings.Repeat("x", 73), strings.Repeat("x", 71) + "…"},
		{"runes, not bytes", strings.Repeat("氷", 72), strings.Repeat("氷", 72)},
		{"long and of runes", strings.Repeat("氷", 50000), strings.Repeat("氷", 71) + "…"},
		{"emoji", "🐍❄️ game", "🐍❄️ game"},
		{"nothing to say", "\x00\x01", ""},
		{"no UTF-8", "a\xffb", "ab"},
	} {
		if got := Subject(tt.text); got != tt.want || !utf8.ValidString(got) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestPlayerWords(t *testing.T) {
	const snake = "make a snake game"
	for _, tt := range []struct{ name, prompt, want string }{
		{"no block", snake, snake},
		{"system", "<system>You write games.\nUse p5.js.</system>\n\n" + snake, snake},
		{"in one line", "<system>You write games.</system> " + snake, snake},
		{"upper case", "<SYSTEM>You write games.</system>" + snake, snake},
		{"other names", "<system-prompt>a</system-prompt><context>b</context>\n<instructions>c</instructions>" + snake, snake},
		{"a name of two words", "<game_rules>a</game_rules>" + snake, snake},
		{"attributes", `<system role="x" lang="en">a</system>` + snake, snake},
		{"square brackets", "[SYSTEM]a[/SYSTEM]\n" + snake, snake},
		{"square brackets of two words", "[SYSTEM PROMPT]\na\n[/SYSTEM PROMPT]\n" + snake, snake},
		{"the player's block", "<system>a</system><user_request>" + snake + "</user_request><reminder>b</reminder>", snake},
		{"a block about the user", "<user_context>level 3</user_context>" + snake, snake},
		{"nothing behind the block", "<context>" + snake + "</context>", snake},
		{"an empty block", "<system></system>" + snake, snake},
		{"nothing at all", "<system></system>", "<system></system>"},
		{"not closed, a paragraph behind it", "<system>You write games.\n\nUse p5.js.\n\n" + snake, snake},
		{"not closed, Windows", "<system>You write games.\r\n\r\n" + snake, snake},
		{"not closed, one paragraph", "<system> " + snake, snake},
		{"not closed after a closed one", "<context>a</context><system>b\n\n" + snake, snake},
		{"a block inside", snake + " <system>b</system>", snake + " <system>b</system>"},
		{"elements of HTML are the player's", "<button>Start</button> should be bigger", "<button>Start</button> should be bigger"},
		{"an arrow", "<- and -> move the snake", "<- and -> move the snake"},
		{"brackets of the player", "[urgent] the snake is too fast", "[urgent] the snake is too fast"},
		{"a heading", "You write games.\n\n## User Request\n" + snake, snake},
		{"a label", "You write games.\nUser request: " + snake, snake},
		{"a bold label", "You write games.\n**User request:** " + snake, snake},
		{"a Japanese label", "あなたはゲーム開発者です。\n\nユーザーの要望: ヘビゲームを作って", "ヘビゲームを作って"},
		{"a Japanese heading", "あなたはゲーム開発者です。\n【ユーザーからの依頼】\nヘビゲームを作って", "ヘビゲームを作って"},
		{"a label behind a block", "<system>a</system>\nUser message:\n" + snake, snake},
		{"a label in a sentence", "show the user request: hello", "show the user request: hello"},
		{"words of a game", "Player: a red ball\nEnemy: a blue one", "Player: a red ball\nEnemy: a blue one"},
		{"a label without words", "a game\nUser request:", "a game\nUser request:"},
		{"a text with special letters before the closing tag", "<system>İİİ ẞ</SYSTEM>" + snake, snake},
	} {
		if got := PlayerWords(tt.prompt); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestNameOfAVersion(t *testing.T) {
	about := About{Prompt: "<system>x</system>make a\nsnake game", User: "u", Project: "p", Job: "j"}
	for _, tt := range []struct{ template, want string }{
		{"", "make a snake game"},
		{"AI edit", "AI edit"},
		{"AI: {{.Prompt}}", "AI: make a snake game"},
		{"{{.User}}/{{.Project}}/{{.Job}}", "u/p/j"},
		{"  \n", "make a snake game"},
		{`{{slice .Prompt 0 100}}`, "make a snake game"}, // not for a prompt this short
		{`{{printf "%0100d" 1}}`, strings.Repeat("0", 71) + "…"},
		{`{{printf "%0100000d" 1}}{{.Prompt}}`, strings.Repeat("0", 71) + "…"},
	} {
		if got := Name(tt.template, about); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.template, got, tt.want)
		}
	}
}

func TestParseNameRejectsBadTemplates(t *testing.T) {
	for _, text := range []string{"{{.Prompt", "{{.Wish}}", "{{nothing}}", "{{.Prompt.More}}"} {
		if _, err := ParseName(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	for _, text := range []string{"", "an edit", "{{.Prompt}} ({{.Job}})"} {
		if _, err := ParseName(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestLongPromptsTakeLinearTime would take minutes if the whole prompt were
// searched for each block.
func TestLongPromptsTakeLinearTime(t *testing.T) {
	for _, prompt := range []string{
		strings.Repeat("<a_b></a_b>", 90_000) + "a game",
		strings.Repeat("<system>", 120_000) + "a game",
		"<system>" + strings.Repeat("</", 500_000) + "</system>a game",
		strings.Repeat("User request:\n", 70_000) + "a game",
	} {
		if got := Name("", About{Prompt: prompt}); !strings.HasSuffix(got, "a game") && !strings.HasSuffix(got, "…") {
			t.Errorf("%.40q: %q", prompt, got)
		}
	}
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"a game", "<system>a</system>b", "<system>a", "[SYSTEM]a[/SYSTEM]b", "User request: a", "ユーザーの要望:\nb", "<a_b></A_B>\xff", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, prompt string) {
		name := Name("", About{Prompt: prompt})
		if !utf8.ValidString(name) || utf8.RuneCountInString(name) > SubjectRunes || strings.ContainsFunc(name, unicode.IsControl) {
			t.Errorf("%q is called %q", prompt, name)
		}
		if strings.TrimSpace(name) == "" && Subject(prompt) != "" {
			t.Errorf("%q has no name", prompt)
		}
	})
}
