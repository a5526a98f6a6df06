package gateway

import (
	"bytes"
	"cmp"
	"encoding/json"
	"strings"
)

// maxMeterLine bounds a line that the meter keeps, and the data of one event.
// Relevant events have less than 2 KB; longer ones are skipped.
const maxMeterLine = 64 << 10

// meter reads a stream of server-sent events alongside: how many tokens were
// used, and whether the message is complete. It never delays or changes a byte
// of the stream. It accepts what the standard allows: lines that end with LF, CR
// or both, data in several lines, comments, a byte order mark.
type meter struct {
	tokens   tokens
	stopped  bool          // a stop_reason was seen: the content is complete
	complete bool          // message_stop was seen
	failure  upstreamError // of the error event
	failed   bool          // there was an error event before the end
	// failedFirst is set if the error event was the first one.
	failedFirst bool
	boundary    bool  // the bytes so far end with a complete event
	outputKnown bool  // the final number of output tokens was seen
	text        int64 // bytes of the answer's content so far
	events      int   // so far, without pings
	open        int   // bytes of the unfinished event
	trailing    int   // bytes after message_stop in the piece that ended it

	line    []byte // the unfinished line
	tooLong bool   // the unfinished line is over the bound
	afterCR bool   // the last byte was CR: an LF that follows belongs to it
	begun   bool   // the first line is over

	name []byte // of the unfinished event
	data []byte // of the unfinished event
	skip bool   // its data is not kept: it is content, or too long

	// onContent receives each event of the answer's content; optional. Without
	// it these events are not decoded.
	onContent func(kind string, event map[string]json.RawMessage)
	stop      string // the stop_reason
	lineLimit int    // replaces maxMeterLine if set
	exceeded  bool   // a line or an event was over the bound
}

// limit bounds a line and the data of one event.
func (m *meter) limit() int { return cmp.Or(m.lineLimit, maxMeterLine) }

// feed reads the next bytes of the stream.
func (m *meter) feed(p []byte) {
	if m.afterCR && len(p) > 0 {
		m.afterCR = false
		if p[0] == '\n' {
			if p = p[1:]; !m.boundary {
				m.open++
			}
		}
	}
	m.open += len(p)
	done, lf := m.complete, -1
	for i := 0; i < len(p); {
		if lf < i {
			if lf = bytes.IndexByte(p[i:], '\n'); lf < 0 {
				lf = len(p)
			} else {
				lf += i
			}
		}
		end, next := lf, lf+1
		if cr := bytes.IndexByte(p[i:lf], '\r'); cr >= 0 {
			end, next = i+cr, i+cr+1
			if m.afterCR = next == len(p); next == lf && lf < len(p) {
				next++
			}
		}
		if end == len(p) {
			m.keep(p[i:])
			m.boundary = false
			return
		}
		m.endLine(p[i:end])
		if i = next; m.boundary {
			m.open = len(p) - i
		}
		if m.complete && !done {
			done, m.trailing = true, len(p)-i
		}
	}
}

func (m *meter) keep(p []byte) {
	if m.tooLong || len(m.line)+len(p) > m.limit() {
		m.text += int64(len(m.line) + len(p)) // only content is that long
		m.line, m.tooLong, m.exceeded = m.line[:0], true, true
		return
	}
	m.line = append(m.line, p...)
}

// endLine processes the unfinished line, of which p is the end.
func (m *meter) endLine(p []byte) {
	line := p
	if len(m.line) > 0 || m.tooLong || len(p) > m.limit() {
		m.keep(p)
		line = m.line
	}
	tooLong := m.tooLong
	m.line, m.tooLong = m.line[:0], false
	if !m.begun {
		m.begun = true
		line = bytes.TrimPrefix(line, []byte(byteOrderMark))
	}
	switch {
	case tooLong:
		m.boundary, m.skip = false, true
	case len(line) == 0:
		m.endEvent()
	default:
		m.boundary = false
		m.field(line)
	}
}

const byteOrderMark = "\xef\xbb\xbf"

// field processes one line of an event. Nearly all are data of
// content_block_delta: these are recognized without decoding, by their type,
// which comes first.
func (m *meter) field(line []byte) {
	name, value := line, []byte(nil)
	if i := bytes.IndexByte(line, ':'); i >= 0 {
		name, value = line[:i], line[i+1:]
	}
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	switch string(name) {
	case "event":
		m.name = append(m.name[:0], value[:min(len(value), maxErrorKind)]...)
	case "data":
		switch {
		case m.skip:
			m.text += int64(len(value))
		case m.onContent == nil && len(m.data) == 0 && isContent(value):
			m.skip = true
			m.content(value)
		case len(m.data)+len(value) >= m.limit():
			m.text += int64(len(m.data) + len(value))
			m.skip, m.exceeded, m.data = true, true, m.data[:0]
		default:
			m.data = append(append(m.data, value...), '\n')
		}
	}
}

// isContent reports whether data starts like an event of the answer's content.
func isContent(data []byte) bool {
	if bytes.HasPrefix(data, []byte(`{"type":"content_block_`)) {
		return true
	}
	for _, part := range []string{"{", `"type"`, ":"} {
		if data = bytes.TrimLeft(data, " "); !bytes.HasPrefix(data, []byte(part)) {
			return false
		}
		data = data[len(part):]
	}
	return bytes.HasPrefix(bytes.TrimLeft(data, " "), []byte(`"content_block_`))
}

// content counts an event of the answer's content.
func (m *meter) content(data []byte) { m.text += max(int64(len(data))-deltaFrame, bytesPerToken) }

// Estimates of the tokens in an answer by its bytes.
const (
	deltaFrame    = 90 // bytes of an event of content around the content
	bytesPerToken = 4
)

// endEvent processes the event that a blank line has ended.
func (m *meter) endEvent() {
	name, data, skipped := m.name, bytes.TrimSuffix(m.data, []byte("\n")), m.skip
	m.name, m.data, m.skip, m.boundary = m.name[:0], m.data[:0], false, true
	switch {
	case skipped:
		m.events++
	case len(data) > 0:
		m.event(string(name), data)
	}
}

// event decodes an event, each member on its own. Usage counts wherever it is
// reported.
func (m *meter) event(name string, data []byte) {
	v := members(data)
	kind := textOf(v["type"])
	if kind == "" && (v != nil || name == "error") {
		kind = name
	}
	if kind != "ping" {
		m.events++
	}
	if strings.HasPrefix(kind, "content_block_") { // also if another encoder wrote it
		m.content(data)
		if m.onContent != nil {
			m.onContent(kind, v)
		}
		return
	}
	delta := members(v["delta"])
	for _, raw := range [][]byte{v["usage"], members(v["message"])["usage"], delta["usage"]} {
		u := usageOf(raw)
		m.tokens.merge(u)
		// At the start it is not a total; proxies may send 0 if they do not know it.
		m.outputKnown = m.outputKnown || kind != "message_start" && u.Output > 0
	}
	switch kind {
	case "message_delta":
		m.stop = cmp.Or(textOf(delta["stop_reason"]), m.stop)
		m.stopped = m.stop != ""
	case "message_stop":
		metrics := metricsOf(v["amazon-bedrock-invocationMetrics"])
		m.tokens.fill(metrics)
		m.outputKnown = m.outputKnown || metrics.Output > 0
		m.complete = !m.failed
	case "error":
		if !m.complete && !m.failed {
			m.failed, m.failure = true, parseUpstreamError(data)
			m.failedFirst = m.events == 1 && m.tokens == tokens{}
		}
	}
}

// finish processes the end of the stream: the last event may lack its blank
// line.
func (m *meter) finish() {
	if len(m.line) > 0 || m.tooLong {
		m.endLine(nil)
	}
	m.endEvent()
}

// estimate returns the usage of the answer, with an estimate of the output if
// the model has not reported it: it does so only at the end, and a sandbox that
// disconnects earlier must still be charged.
func (m *meter) estimate() (t tokens, estimated bool) {
	t = m.tokens
	if g := (m.text + int64(len(m.data))) / bytesPerToken; !m.outputKnown && g > t.Output {
		t.Output, estimated = g, true
	}
	return t, estimated
}
