package gateway

import (
	"bytes"
	"encoding/json"
)

// Usage is what the requests of a grant have used so far.
type Usage struct {
	Requests            int64 // sent to the model, whatever became of them
	InputTokens         int64 // without those from and to the cache
	OutputTokens        int64
	CacheCreationTokens int64
	CacheReadTokens     int64
	BytesSent           int64 // request bodies
	BytesReceived       int64 // answer bodies
}

func (u *Usage) addTokens(t tokens) {
	u.InputTokens += t.Input
	u.OutputTokens += t.Output
	u.CacheCreationTokens += t.CacheCreation
	u.CacheReadTokens += t.CacheRead
}

// tokens is the usage member of a message. The numbers come from outside.
type tokens struct {
	Input         int64 `json:"input_tokens"`
	Output        int64 `json:"output_tokens"`
	CacheCreation int64 `json:"cache_creation_input_tokens"`
	CacheRead     int64 `json:"cache_read_input_tokens"`
}

// maxTokens bounds one number, so that sums cannot overflow.
const maxTokens = 1 << 40

func (t *tokens) clamp() {
	for _, n := range []*int64{&t.Input, &t.Output, &t.CacheCreation, &t.CacheRead} {
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
		m.line, m.tooLong = m.line[:0], true
		return
	}
	m.line = append(m.line, p...)
}

// see looks at one line. Nearly all are content_block_delta: those are told
// apart without decoding, by their type standing first.
func (m *meter) see(line []byte) {
	data, ok := bytes.CutPrefix(line, []byte("data:"))
	if !ok || bytes.HasPrefix(bytes.TrimLeft(data, " "), []byte(`{"type":"content_block_`)) {
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
	case "message_stop":
		m.complete = true
	case "error":
		m.errorKind = bounded(v.Error.Type, 64)
		if m.errorKind == "" {
			m.errorKind = "api_error"
		}
	}
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

func (m *bodyMeter) tokens() tokens {
	var v struct {
		Usage tokens `json:"usage"`
	}
	if json.Unmarshal(m.kept, &v) != nil {
		return tokens{}
	}
	v.Usage.clamp()
	return v.Usage
}
