package dreamcore

import (
	"bytes"
	"encoding/json"
	"math"
	"time"
)

// Event is one JSON object of a stream, on one line. The constructors below
// create all events of the service itself; lines of the CLI pass through
// unchanged.
type Event = json.RawMessage

// StatusEvent describes the current step to a person.
func StatusEvent(message string) Event { return messageEvent("status", message) }

// WarningEvent reports that something is omitted, such as output over a limit.
func WarningEvent(message string) Event { return messageEvent("warning", message) }

func messageEvent(kind, message string) Event {
	return encode(struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}{kind, message})
}

// LogEvent carries a line that is not an event itself; level may be "".
func LogEvent(content, level string) Event {
	return encode(struct {
		Type    string `json:"type"`
		Content string `json:"content"`
		Level   string `json:"level,omitempty"`
	}{"log", content, level})
}

// Summary is the content of the debug event at the end of a generation.
type Summary struct {
	ExitCode       int
	Elapsed        time.Duration
	OutputLines    int
	SandboxReused  bool
	AgentWarm      bool // the agent had been started before the job
	GitCommit      string
	TimeoutReached bool
	FilesChanged   int // created, changed and removed

	Metered bool // Tokens and Cost are known
	Tokens  Tokens
	Cost    Nano

	Acceptance string // the last verdict; "" if the game was not to be checked
	Repairs    int    // of the agent, after a check
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
		Warm     bool    `json:"agent_warm"`
		Commit   string  `json:"git_commit,omitempty"`
		Timeout  bool    `json:"timeout_reached,omitempty"`
		Files    int     `json:"files_changed"`

		Cost   json.Number `json:"cost_usd,omitempty"`
		Input  *int64      `json:"input_tokens,omitempty"` // including cache reads and writes
		Output *int64      `json:"output_tokens,omitempty"`

		Acceptance string `json:"acceptance,omitempty"`
		Repairs    int    `json:"repairs,omitempty"`
	}{"debug", s.ExitCode, math.Round(s.Elapsed.Seconds()*100) / 100, s.OutputLines, s.SandboxReused, s.AgentWarm, s.GitCommit, s.TimeoutReached, s.FilesChanged, cost, input, output, s.Acceptance, s.Repairs})
}

// DoneEvent is the last event of a successful generation.
func DoneEvent() Event {
	return encode(struct {
		Type     string `json:"type"`
		ExitCode int    `json:"exit_code"`
	}{"done", 0})
}

// ErrorEvent is the last event of a failed generation. The HTTP contract fixes
// its key order: exitCode comes first, and only if the CLI exited with an
// error.
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

// MaxEventBytes bounds one event. A longer line of the CLI is replaced by a log
// event that reports its length.
const MaxEventBytes = 16 << 20

// LineEvent converts one line of the CLI's output, without its newline, to an
// event. A JSON object is passed through, with invalid Unicode replaced.
// Anything else becomes a log event, and so does an object whose type is
// reserved for the service. It reports false for a blank line, which is not an
// event.
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
// as clients do: by its exact name (decoding into a struct folds case), and the
// last one if there are several.
func EventType(e Event) string {
	var members map[string]json.RawMessage
	var t string
	if json.Unmarshal(e, &members) != nil || json.Unmarshal(members["type"], &t) != nil {
		return ""
	}
	return t
}

// reserved lists the event types that only the service may send: they end a
// stream, summarize it or judge the game. A process in a sandbox can write its own
// lines into the CLI's output, and must not be able to end the job for its
// listeners, or to say that its game plays.
var reserved = map[string]bool{"done": true, "error": true, "debug": true, "acceptance": true}

// encode marshals v on one line without escaping <, > and &, as the old backend
// did. The values consist of strings, numbers and booleans only.
func encode(v any) Event {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("dreamcore: encode event: " + err.Error())
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}
