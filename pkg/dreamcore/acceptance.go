package dreamcore

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// Verdicts of a check of a game.
const (
	AcceptancePassed  = "passed"
	AcceptanceFailed  = "failed"
	AcceptanceUnknown = "unknown" // the check could not decide, or was left out
)

// Acceptance is the result of a check of a game in a browser: the content of an
// acceptance event, and of a job's record.
type Acceptance struct {
	Verdict string            `json:"verdict"` // AcceptancePassed, AcceptanceFailed or AcceptanceUnknown
	Checks  []AcceptanceCheck `json:"checks,omitempty"`
	Attempt int               `json:"attempt,omitempty"` // from 1; one more than the repairs before it
	Browser string            `json:"browser,omitempty"` // product and version
	Millis  int64             `json:"duration_ms,omitempty"`
	Reason  string            `json:"reason,omitempty"` // why the verdict is AcceptanceUnknown: for clients a fixed sentence, in a record the cause
}

// AcceptanceCheck is the result of one check on one screen. One that passed has
// no more than its name, screen and status.
type AcceptanceCheck struct {
	Name    string `json:"name"`
	Screen  string `json:"screen,omitempty"`
	Status  string `json:"status"`
	Message string `json:"message,omitempty"` // one English sentence; comes from a hostile page
	File    string `json:"file,omitempty"`    // path in the project
	Line    int    `json:"line,omitempty"`    // from 1; 0 if unknown
}

// The bounds of an Acceptance. They are those of the report of a check; a record
// has less.
const (
	MaxAcceptanceChecks = 64
	MaxAcceptanceText   = 500 // bytes of a message, a path or a reason

	// MaxRecordAcceptance bounds the JSON form of the result of Brief, in bytes.
	MaxRecordAcceptance = 8 << 10
	maxRecordFindings   = 12
	maxRecordName       = 64 // bytes of the JSON form of a short text
)

// Failed returns the checks that failed.
func (a Acceptance) Failed() (failed []AcceptanceCheck) {
	for _, c := range a.Checks {
		if c.Status == AcceptanceFailed {
			failed = append(failed, c)
		}
	}
	return failed
}

// Bounded returns a with every text on one line and within the bounds.
func (a Acceptance) Bounded() Acceptance {
	a.Reason, a.Browser = OneLine(a.Reason, MaxAcceptanceText), OneLine(a.Browser, MaxAcceptanceText)
	checks := a.Checks[:min(len(a.Checks), MaxAcceptanceChecks)]
	a.Checks = nil
	for _, c := range checks {
		if c.Status == AcceptancePassed {
			c = AcceptanceCheck{Name: c.Name, Screen: c.Screen, Status: c.Status}
		}
		c.Name, c.Screen = OneLine(c.Name, MaxAcceptanceText), OneLine(c.Screen, MaxAcceptanceText)
		c.Message, c.File = OneLine(c.Message, MaxAcceptanceText), OneLine(c.File, MaxAcceptanceText)
		a.Checks = append(a.Checks, c)
	}
	return a
}

// Brief returns the part of a that a record keeps: the verdict and the first findings, as many
// as fit into MaxRecordAcceptance. The bound is one of the JSON form, in which each
// byte of a hostile text may take six: logs and webhooks have room for that form.
func (a Acceptance) Brief() Acceptance {
	found := a.Failed()
	a.Checks = nil
	a.Verdict, a.Browser = encodedLine(a.Verdict, maxRecordName), encodedLine(a.Browser, 2*maxRecordName)
	a.Reason = encodedLine(a.Reason, MaxAcceptanceText)
	size := encodedSize(a) + len(`,"checks":[]`)
	for _, c := range found[:min(len(found), maxRecordFindings)] {
		c.Name, c.Screen = encodedLine(c.Name, maxRecordName), encodedLine(c.Screen, maxRecordName)
		c.Message, c.File = encodedLine(c.Message, MaxAcceptanceText), encodedLine(c.File, MaxAcceptanceText/2)
		if size += encodedSize(c) + len(","); size > MaxRecordAcceptance {
			break
		}
		a.Checks = append(a.Checks, c)
	}
	return a
}

// Where returns the place of a finding: "game.js:12", "game.js", or "".
func (c AcceptanceCheck) Where() string {
	if c.File == "" || c.Line <= 0 {
		return c.File
	}
	return fmt.Sprintf("%s:%d", c.File, c.Line)
}

// AcceptanceEvent reports the result of a check of the game.
func AcceptanceEvent(a Acceptance) Event {
	return encode(struct {
		Type string `json:"type"`
		Acceptance
	}{"acceptance", a.Bounded()})
}

// OneLine returns text on one line of at most limit bytes: without control
// characters, and without those that change the direction or are not seen.
func OneLine(text string, limit int) string {
	text = strings.ToValidUTF8(text[:min(len(text), 4*limit)], "")
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r), unicode.IsControl(r):
			return ' '
		case unicode.Is(unicode.Cf, r):
			return -1
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= limit {
		return text
	}
	const mark = "…"
	return strings.ToValidUTF8(text[:limit-len(mark)], "") + mark
}

// encodedLine is OneLine with a bound for the JSON form of the text, without its
// quotation marks.
func encodedLine(text string, limit int) string {
	const mark = "…"
	text = OneLine(text, limit)
	size, fits := 0, 0 // fits is how much of the text leaves room for the mark
	for i, r := range text {
		if size+len(mark) <= limit {
			fits = i
		}
		if size += encodedSize(string(r)) - len(`""`); size > limit {
			return text[:fits] + mark
		}
	}
	return text
}

// encodedSize returns the length of the JSON form of v, where <, > and & are escaped,
// too. v consists of texts and numbers.
func encodedSize(v any) int {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("dreamcore: encode a result: " + err.Error())
	}
	return len(raw)
}

// AcceptanceNote is a message for the player about the check of the game.
type AcceptanceNote int

// The notes.
const (
	NoteChecking   AcceptanceNote = iota // the check begins
	NotePlays                            // the game plays
	NoteRepairing                        // problems were found, and the agent mends them
	NoteNoRepair                         // problems were found, and there is no time or budget left to mend them
	NoteSkipped                          // the check is left out or could not decide
	NoteNotBetter                        // a repair has made nothing better; the last state is kept
	NoteStillFails                       // the game may not play
	NoteUnchecked                        // the game was mended, and whether that has helped is unknown
)

var acceptanceNotes = [...][2]string{
	NoteChecking:   {"Playing the game to check it", "ゲームが遊べるか確認しています"},
	NotePlays:      {"The game plays", "ゲームは問題なく動きました"},
	NoteRepairing:  {"The game has a problem; it is being fixed", "ゲームに問題が見つかったため、修正しています"},
	NoteNoRepair:   {"The game has a problem, and there is no time or budget left to fix it", "ゲームに問題が見つかりましたが、修正する時間または予算が残っていません"},
	NoteSkipped:    {"It could not be checked whether the game plays", "ゲームが遊べるかどうかは確認できませんでした"},
	NoteNotBetter:  {"The fix did not help; the last state of the game is kept", "修正しても改善しなかったため、最後の状態を残します"},
	NoteStillFails: {"The game may not play well: problems were found that are not fixed", "ゲームがうまく動かない可能性があります。修正できていない問題があります"},
	NoteUnchecked:  {"The game had a problem; whether the fix has helped could not be checked", "ゲームに問題がありました。修正しましたが、直ったかどうかは確認できませんでした"},
}

// Text returns the note for the player.
func (n AcceptanceNote) Text(lang Language) string {
	if lang == Japanese {
		return acceptanceNotes[n][1]
	}
	return acceptanceNotes[n][0]
}
