package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Result is the CLI's own account of a run, its last line.
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

// output turns what the CLI writes into events and remembers its result. It
// implements io.Writer.
type output struct {
	emit    func(dreamcore.Event) error
	line    []byte // the beginning of a line that has not ended
	dropped int    // bytes left out of the line that is being read
	lines   int
	result  *Result
	talked  bool      // the model has answered something
	turns   chan bool // gets whether the CLI works on a turn: false after a result; holds the newest
}

func newOutput(emit func(dreamcore.Event) error) *output {
	return &output{emit: emit, turns: make(chan bool, 1)}
}

// turn reports whether the CLI works on a turn. There is one writer, so after
// it has taken out a report that is not read yet, there is room.
func (o *output) turn(works bool) {
	select {
	case <-o.turns:
	default:
	}
	o.turns <- works
}

// Write takes bytes as they come; lines may be of any length, but of one over
// MaxEventBytes only the length is told.
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

// end takes the line as ended.
func (o *output) end() error {
	line, dropped := o.line, o.dropped
	o.line, o.dropped = o.line[:0], 0
	if cap(o.line) > 1<<20 {
		o.line = nil // one long line must not be paid for during the whole run
	}
	if dropped > 0 {
		return o.leaveOut(len(line) + dropped)
	}
	event, ok := dreamcore.LineEvent(line)
	if !ok {
		return nil
	}
	if len(event) > dreamcore.MaxEventBytes {
		return o.leaveOut(len(line)) // what is no JSON grows when it is quoted
	}
	o.lines++
	o.look(event)
	// The event is kept by others; the line's buffer is used again.
	return o.emit(bytes.Clone(event))
}

// leaveOut tells of a line that is too long to be an event.
func (o *output) leaveOut(size int) error {
	o.lines++
	return o.emit(dreamcore.LogEvent(fmt.Sprintf("a line of %d bytes was left out", size), "warning"))
}

// syntheticModel is the model of messages that the CLI makes itself, such as
// the one that tells of an error of the API.
const syntheticModel = "<synthetic>"

// look remembers what the verdict needs. What the lines say is hostile, but a
// forged result can only spoil the run that forged it.
func (o *output) look(e dreamcore.Event) {
	switch dreamcore.EventType(e) {
	case "system":
		// A turn begins so, also one that the end of a background task brings
		// about after a result; lines about tasks begin none.
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
		// A result that does not say it is no error, or that cannot be read,
		// is one.
		r := Result{IsError: true}
		if json.Unmarshal(e, &r) != nil {
			r.IsError = true
		}
		o.result = &r
		o.turn(false)
	}
}

// flush takes what is left without a newline as a last line.
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
