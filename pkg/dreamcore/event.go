package dreamcore

import (
	"bytes"
	"encoding/json"
	"math"
	"time"
)

// An Event of a stream is one JSON object on one line. The constructors below
// are the only events that we make; lines of the CLI pass through unchanged.
type Event = json.RawMessage

// StatusEvent tells a person what is being done.
func StatusEvent(message string) Event {
	return encode(struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}{"status", message})
}

// WarningEvent tells that something is left out, such as output over a limit.
func WarningEvent(message string) Event {
	return encode(struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}{"warning", message})
}

// LogEvent carries a line that is no event of its own; level may be "".
func LogEvent(content, level string) Event {
	return encode(struct {
		Type    string `json:"type"`
		Content string `json:"content"`
		Level   string `json:"level,omitempty"`
	}{"log", content, level})
}

// Summary is what the debug event at the end of a generation says.
type Summary struct {
	ExitCode       int
	Elapsed        time.Duration
	OutputLines    int
	SandboxReused  bool
	GitCommit      string
	TimeoutReached bool
	FilesChanged   int // created, changed and removed

	Metered bool // what follows is known
	Tokens  Tokens
	Cost    Nano
}

// DebugEvent carries a Summary.
func DebugEvent(s Summary) Event {
	var cost json.Number
	var input, output *int64
	if s.Metered {
		in, out := s.Tokens.Prompt(), s.Tokens.Output
		cost, input, output = json.Number(s.Cost.String()), &in, &out
	}
	return encode(struct {
		Type     string  `json:"type"`
		ExitCode int     `json:"exit_code"`
		Elapsed  float64 `json:"elapsed_seconds"`
		Lines    int     `json:"output_line_count"`
		Reused   bool    `json:"sandbox_reused"`
		Commit   string  `json:"git_commit,omitempty"`
		Timeout  bool    `json:"timeout_reached,omitempty"`
		Files    int     `json:"files_changed"`

		Cost   json.Number `json:"cost_usd,omitempty"`
		Input  *int64      `json:"input_tokens,omitempty"` // from and to the cache too
		Output *int64      `json:"output_tokens,omitempty"`
	}{"debug", s.ExitCode, math.Round(s.Elapsed.Seconds()*100) / 100, s.OutputLines, s.SandboxReused, s.GitCommit, s.TimeoutReached, s.FilesChanged, cost, input, output})
}

// DoneEvent is the last event of a generation that made its game.
func DoneEvent() Event {
	return encode(struct {
		Type     string `json:"type"`
		ExitCode int    `json:"exit_code"`
	}{"done", 0})
}

// ErrorEvent is the last event of a generation that failed. Its key order is
// the contract's: exitCode first, and only where the CLI ended badly.
func ErrorEvent(f Failure, lang Language) Event {
	var exit *int
	if f.HasExit {
		exit = &f.ExitCode
	}
	return encode(struct {
		Type        string      `json:"type"`
		ExitCode    *int        `json:"exitCode,omitempty"`
		Code        FailureCode `json:"code"`
		UserMessage string      `json:"userMessage"`
		Recoverable bool        `json:"recoverable"`
	}{"error", exit, f.Code, f.UserMessage(lang), f.Recoverable()})
}

// MaxEventBytes bounds one event; a longer line of the CLI becomes a log event
// that says so.
const MaxEventBytes = 16 << 20

// LineEvent turns one line of the CLI's output, without its newline, into an
// event: a JSON object as it is but for what is no valid Unicode, anything else
// as a log event, and so an object that poses as one of our own last events. It
// reports false for a blank line, which is no event.
func LineEvent(line []byte) (Event, bool) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 {
		return nil, false
	}
	if line[0] == '{' && json.Valid(line) && !bytes.ContainsAny(line, "\r\n") && !reserved[EventType(line)] {
		return Event(cleanUnicode(line)), true
	}
	return LogEvent(string(line), ""), true
}

// EventType returns the "type" member of an event, or "". It reads the member
// as clients do: by its exact name, which decoding into a struct does not, and
// the last one where there are several.
func EventType(e Event) string {
	var members map[string]json.RawMessage
	if json.Unmarshal(e, &members) != nil {
		return ""
	}
	var t string
	if json.Unmarshal(members["type"], &t) != nil {
		return ""
	}
	return t
}

// reserved are the types of events that only we may make: they end a stream or
// sum it up. What runs in a sandbox can write lines of its own into the CLI's
// output, and must not be able to end a job for those who watch it.
var reserved = map[string]bool{"done": true, "error": true, "debug": true}

// encode marshals v on one line and leaves <, > and & as they are, as the old
// backend did. The values are made of strings, numbers and booleans only.
func encode(v any) Event {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("dreamcore: encode event: " + err.Error())
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}
