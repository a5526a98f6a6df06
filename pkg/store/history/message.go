package history

import (
	"bytes"
	"errors"
	"strings"
	"text/template"
	"unicode"

	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

// SubjectRunes limits the name of a version, the subject line of its commit.
const SubjectRunes = 72

// Subject returns text as the name of a version: one line of at most
// SubjectRunes characters, without control characters. It is "" if no character
// of text can be shown.
func Subject(text string) string {
	// The end of a long prompt is cut off anyway.
	const enough = 16 << 10
	text = text[:min(len(text), enough)]
	line := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	line = strings.Join(strings.Fields(line), " ")
	if runes := []rune(line); len(runes) > SubjectRunes {
		line = string(runes[:SubjectRunes-1]) + "…"
	}
	return line
}

// About holds the fields of a template for the names of versions.
type About struct {
	Prompt  string // the player's own words, as PlayerWords returns them
	User    string
	Project string
	Job     string
}

// maxName limits the output of a template, in bytes.
const maxName = 64 << 10

// ParseName parses a template for the names of versions. An unknown field is an
// error.
func ParseName(text string) (*template.Template, error) {
	t, err := template.New("commit_message").Option("missingkey=error").Parse(text)
	if err == nil {
		_, err = expand(t, About{Prompt: "a game", User: "user", Project: "project", Job: "job"})
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Name returns the name of the version of a job, according to the template text.
// It is the player's own words if the template is empty, fails for this job, or
// has no output.
func Name(text string, a About) string {
	prompt := a.Prompt
	a.Prompt = PlayerWords(prompt)
	if text != "" {
		if t, err := ParseName(text); err == nil {
			if name, err := expand(t, a); err == nil && Subject(name) != "" {
				return Subject(name)
			}
		}
	}
	if name := Subject(a.Prompt); name != "" {
		return name
	}
	return Subject(prompt) // the player's words cannot be shown
}

func expand(t *template.Template, a About) (string, error) {
	b := &bounded{left: maxName}
	err := t.Execute(b, a)
	if errors.Is(err, errLong) {
		err = nil // more than enough
	}
	return b.String(), err
}

var errLong = errors.New("the name is too long")

// bounded keeps the beginning of its input.
type bounded struct {
	bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(p) > b.left {
		b.Buffer.Write(p[:b.left])
		b.left = 0
		return 0, errLong
	}
	b.left -= len(p)
	return b.Buffer.Write(p)
}

// PlayerWords returns the player's own words from a prompt to which a front end
// has added text. Blocks at the beginning such as <system>…</system> or
// [CONTEXT]…[/CONTEXT] are left out; a block that names the player, such as
// <user_request>, contains the player's words. Of a block that is not closed, the
// last paragraph counts. The player's words also begin after a heading such as
// "User request:". If nothing would be left, the prompt is returned unchanged.
func PlayerWords(prompt string) string {
	rest := strings.TrimSpace(prompt)
	last := ""
	for {
		b, ok := openingTag(rest)
		if !ok {
			break
		}
		inside, after, closed := strings.Cut(rest[b.size:], b.closing(rest))
		switch {
		case !closed:
			return firstOf(lastParagraph(inside), last, prompt)
		case b.player:
			return firstOf(afterHeading(inside), prompt)
		}
		last, rest = inside, strings.TrimSpace(after)
	}
	return firstOf(afterHeading(rest), last, prompt)
}

// firstOf returns the first text that is not blank.
func firstOf(texts ...string) string {
	for _, t := range texts {
		if t = strings.TrimSpace(t); t != "" {
			return t
		}
	}
	return ""
}

func lastParagraph(text string) string {
	text = strings.TrimSpace(strings.ReplaceAll(text, "\r\n", "\n"))
	if i := strings.LastIndex(text, "\n\n"); i >= 0 {
		return text[i:]
	}
	return text
}

var heading = pattern.New(`(?im)^[#*\s【\[]*(?:user(?:'s)?[ _-](?:request|prompt|message|instructions?|wish)|ユーザー(?:の|から)?の?(?:要望|リクエスト|指示|依頼|メッセージ))[*\s】\]]*(?:[::][*\s]*|$)`)

// afterHeading returns the text after the last heading of the player's words, or
// all of text.
func afterHeading(text string) string {
	if at := heading().FindAllStringIndex(text, -1); at != nil {
		if words := strings.TrimSpace(text[at[len(at)-1][1]:]); words != "" {
			return words
		}
	}
	return text
}

// tag opens a block.
type tag struct {
	name   string // as it is written
	size   int    // bytes of the tag
	square bool   // [name], not <name>
	player bool   // the block holds the player's words
}

// closing returns the closing tag as it is written in text: the letter case of
// names does not matter.
func (t tag) closing(text string) string {
	want := "</" + t.name + ">"
	if t.square {
		want = "[/" + t.name + "]"
	}
	for rest := text; ; {
		i := strings.Index(rest, want[:2])
		if i < 0 || len(rest)-i < len(want) {
			return want
		}
		rest = rest[i:]
		if strings.EqualFold(rest[:len(want)], want) {
			return rest[:len(want)]
		}
		rest = rest[2:]
	}
}

var tagAtStart = pattern.New(`^(?:<([A-Za-z][\w:.-]{0,63})(?:\s[^<>]{0,500})?>|\[([A-Za-z][\w:. -]{0,63})\])`)

// The words in the names of blocks. HTML elements are not among them: a player's
// prompt may begin with one.
var (
	frontEndWords = wordSet("system sys context instruction instructions prompt rules guidelines skill skills spec specification reminder developer assistant history background role persona memory policy configuration settings notes examples tools environment documents files constraints knowledge state")
	playerWords   = wordSet("user player request wish query message task question")
)

func wordSet(words string) map[string]bool {
	set := map[string]bool{}
	for w := range strings.FieldsSeq(words) {
		set[w] = true
	}
	return set
}

// openingTag returns the tag at the beginning of text if it opens a block of a
// front end.
func openingTag(text string) (t tag, ok bool) {
	m := tagAtStart().FindStringSubmatch(text)
	if m == nil {
		return t, false
	}
	t = tag{name: m[1], size: len(m[0])}
	if t.name == "" {
		t.name, t.square = m[2], true
	}
	words := strings.FieldsFunc(strings.ToLower(t.name), func(r rune) bool { return strings.ContainsRune("_-:. ", r) })
	several := len(words) > 1 && !t.square // <game-rules> is not an element of HTML
	for _, w := range words {
		if frontEndWords[w] {
			t.player = false // <user_context>
			return t, true
		}
		t.player = t.player || playerWords[w]
	}
	return t, t.player || several
}
