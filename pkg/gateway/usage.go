package gateway

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Usage is what the requests of a grant have used so far.
type Usage struct {
	Requests      int64 // sent to the model, whatever became of them
	Tokens        dreamcore.Tokens
	Cost          dreamcore.Nano // 0 without a Meter
	BytesSent     int64          // request bodies
	BytesReceived int64          // answer bodies
}

// Meter keeps the books of one job, and says what it may yet spend.
type Meter interface {
	// Reserve is asked before a request goes out that has about so many tokens
	// in it and answers with so many at most. It refuses with a
	// *dreamcore.OverBudget; another error says that the books cannot be kept.
	// settle is told the whole of what was used, each time it has grown, and
	// with last once at the end; it returns what that costs.
	Reserve(model string, input, output int64) (settle func(s dreamcore.Spent, last bool) dreamcore.Nano, err error)
}

// tokens is the usage member of a message. The numbers come from outside.
type tokens struct {
	Input         int64 `json:"input_tokens"`
	Output        int64 `json:"output_tokens"`
	CacheCreation int64 `json:"cache_creation_input_tokens"` // for any time
	CacheRead     int64 `json:"cache_read_input_tokens"`
	ByTime        struct {
		Hour int64 `json:"ephemeral_1h_input_tokens"`
	} `json:"cache_creation"`
}

// maxTokens bounds one number, so that sums cannot overflow.
const maxTokens = 1 << 40

func (t *tokens) clamp() {
	for _, n := range []*int64{&t.Input, &t.Output, &t.CacheCreation, &t.CacheRead, &t.ByTime.Hour} {
		*n = min(max(*n, 0), maxTokens)
	}
}

// merge takes over the numbers of a later report of the same message: they are
// totals, and those that are left out have not changed.
func (t *tokens) merge(later tokens) {
	later.clamp()
	t.Input = max(t.Input, later.Input)
	t.Output = max(t.Output, later.Output)
	t.CacheCreation = max(t.CacheCreation, later.CacheCreation)
	t.CacheRead = max(t.CacheRead, later.CacheRead)
	t.ByTime.Hour = max(t.ByTime.Hour, later.ByTime.Hour)
}

// spent tells the tokens apart by their price.
func (t tokens) spent() dreamcore.Tokens {
	hour := min(t.ByTime.Hour, t.CacheCreation)
	return dreamcore.Tokens{Input: t.Input, Output: t.Output, CacheWrite: t.CacheCreation - hour, CacheWrite1h: hour, CacheRead: t.CacheRead}
}

// maxMeterLine bounds a line that the meter keeps. The lines it is after have
// less than 2 KB; longer ones pass without being looked at.
const maxMeterLine = 64 << 10

// meter reads along in a stream of events: how many tokens, whether the
// message is complete. It never holds or changes a byte of the stream.
type meter struct {
	tokens    tokens
	complete  bool   // message_stop was seen
	errorKind string // type of the error event, "" if there was none
	boundary  bool   // the bytes so far end with a whole event
	told      bool   // the final number of output tokens was seen
	text      int64  // bytes of the answer's content so far

	line    []byte // the unfinished line
	tooLong bool   // the unfinished line is over the bound
}

// feed reads the next bytes of the stream.
func (m *meter) feed(p []byte) {
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			m.keep(p)
			m.boundary = false
			return
		}
		m.keep(p[:end])
		m.boundary = !m.tooLong && len(bytes.TrimSuffix(m.line, []byte("\r"))) == 0
		if !m.tooLong {
			m.see(m.line)
		}
		m.line, m.tooLong = m.line[:0], false
		p = p[end+1:]
	}
}

func (m *meter) keep(p []byte) {
	if m.tooLong || len(m.line)+len(p) > maxMeterLine {
		m.text += int64(len(m.line) + len(p)) // so long is content only
		m.line, m.tooLong = m.line[:0], true
		return
	}
	m.line = append(m.line, p...)
}

// see looks at one line. Nearly all are content_block_delta: those are told
// apart without decoding, by their type standing first.
func (m *meter) see(line []byte) {
	data, ok := bytes.CutPrefix(line, []byte("data:"))
	if !ok {
		return
	}
	if bytes.HasPrefix(bytes.TrimLeft(data, " "), []byte(`{"type":"content_block_`)) {
		m.content(data)
		return
	}
	var v struct {
		Type    string `json:"type"`
		Message struct {
			Usage tokens `json:"usage"`
		} `json:"message"`
		Usage tokens `json:"usage"`
		Error struct {
			Type string `json:"type"`
		} `json:"error"`
	}
	if json.Unmarshal(data, &v) != nil {
		return
	}
	switch v.Type {
	case "message_start":
		m.tokens.merge(v.Message.Usage)
	case "message_delta":
		m.tokens.merge(v.Usage)
		m.told = m.told || v.Usage.Output > 0 // proxies may say 0 for what they do not know
	case "message_stop":
		m.complete = true
	case "error":
		m.errorKind = bounded(v.Error.Type, 64)
		if m.errorKind == "" {
			m.errorKind = "api_error"
		}
	default:
		if strings.HasPrefix(v.Type, "content_block_") { // as another encoder writes it
			m.content(data)
		}
	}
}

// content counts an event of the answer's content.
func (m *meter) content(data []byte) { m.text += max(int64(len(data))-deltaFrame, bytesPerToken) }

// How much of an answer its bytes are: of an event of content about so many are
// not content, and a token is about so many of the rest.
const (
	deltaFrame    = 90
	bytesPerToken = 4
)

// guess is what the answer has used where the model did not come to say it:
// output is told at its end only, and a sandbox that hangs up before it must
// not have it for nothing.
func (m *meter) guess() (t dreamcore.Tokens, estimated bool) {
	t = m.tokens.spent()
	if g := m.text / bytesPerToken; !m.told && g > t.Output {
		t.Output, estimated = g, true
	}
	return t, estimated
}

// maxMeterBody bounds the answer in one piece that is kept for its usage.
const maxMeterBody = 4 << 20

// bodyMeter reads the usage of an answer in one piece.
type bodyMeter struct {
	kept    []byte
	tooLong bool
}

func (m *bodyMeter) feed(p []byte) {
	if m.tooLong || len(m.kept)+len(p) > maxMeterBody {
		m.kept, m.tooLong = nil, true
		return
	}
	m.kept = append(m.kept, p...)
}

// tokens returns what the whole answer says. Half of one says nothing, and some
// servers do not tell: known is false.
func (m *bodyMeter) tokens() (t dreamcore.Tokens, known bool) {
	var v struct {
		Usage tokens `json:"usage"`
	}
	if json.Unmarshal(m.kept, &v) != nil {
		return t, false
	}
	v.Usage.clamp()
	t = v.Usage.spent()
	return t, t.Total() > 0
}
