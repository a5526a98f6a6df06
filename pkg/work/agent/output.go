package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Result is the CLI's own report on a run, its last line.
type Result struct {
	Subtype        string  `json:"subtype"`
	IsError        bool    `json:"is_error"`
	APIErrorStatus *int    `json:"api_error_status"`
	DurationMS     float64 `json:"duration_ms"`
	Turns          int     `json:"num_turns"`
	Text           string  `json:"result"`
	SessionID      string  `json:"session_id"`
	CostUSD        float64 `json:"total_cost_usd"`
}

// output turns the output of the CLI into events and remembers its result. It
// implements io.Writer.
type output struct {
	emit    func(dreamcore.Event) error
	line    []byte // the beginning of an unfinished line
	dropped int    // bytes of the unfinished line that are not in it
	lines   int
	result  *Result
	talked  bool      // the model has answered something
	turns   chan bool // holds the newest report on whether the CLI works on a turn; false after a result
}

func newOutput(emit func(dreamcore.Event) error) *output {
	return &output{emit: emit, turns: make(chan bool, 1)}
}

// turn sends whether the CLI works on a turn, in place of an unread report. There
// is one sender, so the send does not block.
func (o *output) turn(works bool) {
	select {
	case <-o.turns:
	default:
	}
	o.turns <- works
}

// Write implements io.Writer. Lines may have any length; for a line of more than
// MaxEventBytes, only its length is emitted.
func (o *output) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			o.keep(p)
			return n, nil
		}
		o.keep(p[:i])
		if err := o.end(); err != nil {
			return 0, err
		}
		p = p[i+1:]
	}
}

func (o *output) keep(p []byte) {
	room := dreamcore.MaxEventBytes - len(o.line)
	if len(p) > room {
		o.dropped += len(p) - room
		p = p[:room]
	}
	o.line = append(o.line, p...)
}

// end handles a finished line.
func (o *output) end() error {
	line, dropped := o.line, o.dropped
	o.line, o.dropped = o.line[:0], 0
	if cap(o.line) > 1<<20 {
		o.line = nil // one long line must not use memory during the whole run
	}
	if dropped > 0 {
		return o.leaveOut(len(line) + dropped)
	}
	event, ok := dreamcore.LineEvent(line)
	if !ok {
		return nil
	}
	if len(event) > dreamcore.MaxEventBytes {
		return o.leaveOut(len(line)) // text that is not JSON grows when it is quoted
	}
	o.lines++
	o.look(event)
	// Emit may keep the event, and the buffer of the line is reused.
	return o.emit(bytes.Clone(event))
}

// leaveOut emits a warning in place of a line that is too long for an event.
func (o *output) leaveOut(size int) error {
	o.lines++
	return o.emit(dreamcore.LogEvent(fmt.Sprintf("a line of %d bytes was left out", size), "warning"))
}

// syntheticModel is the model in messages that the CLI creates itself, for example
// about an error of the API.
const syntheticModel = "<synthetic>"

// look remembers what the outcome needs. The lines are hostile, but a forged
// result can only harm the run that forged it.
func (o *output) look(e dreamcore.Event) {
	switch dreamcore.EventType(e) {
	case "system":
		// A turn begins with this line, even one that the end of a background
		// task starts after a result. Lines about tasks do not begin a turn.
		var s struct {
			Subtype string `json:"subtype"`
		}
		if json.Unmarshal(e, &s) == nil && s.Subtype == "init" {
			o.turn(true)
		}
	case "user":
		o.turn(true)
	case "assistant":
		o.turn(true)
		var a struct {
			Message struct {
				Model string `json:"model"`
			} `json:"message"`
		}
		o.talked = o.talked || json.Unmarshal(e, &a) == nil && a.Message.Model != syntheticModel
	case "result":
		// A result without is_error, or one that cannot be parsed, is an error.
		r := Result{IsError: true}
		if json.Unmarshal(e, &r) != nil {
			r.IsError = true
		}
		o.result = &r
		o.turn(false)
	}
}

// flush handles a last line without a newline.
func (o *output) flush() error {
	if len(o.line) == 0 && o.dropped == 0 {
		return nil
	}
	return o.end()
}

// tail keeps the last bytes of the CLI's standard error, for the log.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if len(p) > tailBytes {
		p = p[len(p)-tailBytes:]
	}
	t.buf = append(t.buf, p...)
	if len(t.buf) > tailBytes {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-tailBytes:]...)
	}
	return n, nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}
