package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Result is the CLI's own report on a run, its last line.
type Result struct {
	Subtype string `json:"subtype"`
	IsError bool   `json:"is_error"`
	Text    string `json:"result"`
}

// output turns the output of the CLI into events and remembers its result. It
// implements io.Writer.
type output struct {
	mu      sync.Mutex                  // guards emit, early, claimed and awaited
	emit    func(dreamcore.Event) error // nil before attach
	early   []dreamcore.Event           // from before attach
	claimed bool                        // what comes before attach is dropped
	awaited map[string]awaited          // by the id of the request
	line    []byte                      // the beginning of an unfinished line
	dropped int                         // bytes of the unfinished line that are not in it
	lines   int
	result  *Result
	talked  bool      // the model has answered something
	turns   chan bool // holds the newest report on whether the CLI works on a turn; false after a result
}

func newOutput() *output { return &output{turns: make(chan bool, 1)} }

// awaited is a request whose reply is awaited.
type awaited struct {
	reply chan reply
	claim bool
}

// reply is the reply to a claim. That to another request has other members.
type reply struct {
	Status    string `json:"status"`
	Directory string `json:"cwd"`
	Error     string `json:"-"`
}

// expect returns the channel of the reply to a request, which is not an event.
func (o *output) expect(request string, claim bool) <-chan reply {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.awaited == nil {
		o.awaited = map[string]awaited{}
	}
	c := make(chan reply, 1)
	o.awaited[request] = awaited{c, claim}
	return c
}

// reply takes an awaited reply, and reports whether the event is one. Nothing of what the
// CLI says before the prompt counts once it has been claimed: it is about that.
func (o *output) reply(e dreamcore.Event) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.awaited) == 0 || dreamcore.EventType(e) != "control_response" {
		return false
	}
	var r struct {
		Response struct {
			ID    string `json:"request_id"`
			Error string `json:"error"`
			Reply reply  `json:"response"`
		} `json:"response"`
	}
	if json.Unmarshal(e, &r) != nil {
		return false
	}
	a, ok := o.awaited[r.Response.ID]
	if !ok {
		return false
	}
	delete(o.awaited, r.Response.ID)
	if a.claim && o.emit == nil {
		o.claimed, o.early, o.lines, o.result, o.talked = true, nil, 0, nil, false
		select {
		case <-o.turns:
		default:
		}
	}
	r.Response.Reply.Error = r.Response.Error
	a.reply <- r.Response.Reply
	return true
}

// unheard reports whether the CLI talks about its claim.
func (o *output) unheard() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.claimed && o.emit == nil
}

// maxEarly is how many lines a CLI may print before its prompt; it usually prints
// none.
const (
	maxEarly   = 16
	earlyBytes = 16 << 10 // of one of them
)

var errEarly = errors.New("the CLI prints too much before its prompt")

// attach makes emit receive the events, first those that came before.
func (o *output) attach(emit func(dreamcore.Event) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.emit = emit
	for _, e := range o.early {
		if err := emit(e); err != nil {
			return err
		}
	}
	o.early = nil
	return nil
}

// pass emits an event, or keeps it until attach.
func (o *output) pass(e dreamcore.Event) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.emit != nil:
		return o.emit(e)
	case len(o.early) == maxEarly || len(e) > earlyBytes:
		return errEarly
	}
	o.early = append(o.early, e)
	return nil
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
	if o.reply(event) || o.unheard() {
		return nil
	}
	o.lines++
	o.look(event)
	// Emit may keep the event, and the buffer of the line is reused.
	return o.pass(bytes.Clone(event))
}

// leaveOut emits a warning in place of a line that is too long for an event.
func (o *output) leaveOut(size int) error {
	o.lines++
	return o.pass(dreamcore.LogEvent(fmt.Sprintf("a line of %d bytes was left out", size), "warning"))
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
			r.IsError = true // the fields before the fault were set
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
