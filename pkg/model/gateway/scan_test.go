package gateway

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestPeekBody(t *testing.T) {
	for in, want := range map[string]struct {
		peek
		err error
	}{
		`{}`: {}, ` { } `: {},
		`{"model":"m","stream":true}`:                         {peek{"m", true, 0}, nil},
		"\n{ \"stream\" : true ,\t\"model\" : \"m\" }\n":      {peek{"m", true, 0}, nil},
		`{"a":{"model":"x","stream":true},"model":"m"}`:       {peek{"m", false, 0}, nil},
		`{"a":[{"model":"x"},"}\"]",{}],"b":-1.5e3,"c":null}`: {},
		`{"a":"\"model\":\"x\"","model":"m\\"}`:               {peek{"m\\", false, 0}, nil},
		`{"\u006dodel":"m","\u0073\u0074ream":true}`:          {peek{"m", true, 0}, nil},
		`{"stream":"true"}`:                                   {},
		`{"max_tokens":9,"x":{"max_tokens":7}}`:               {peek{"", false, 9}, nil},
		`{"max_tokens":-9}`:                                   {},
		`{"max_tokens":1e5}`:                                  {},
		`{"max_tokens":99999999999999999}`:                    {peek{"", false, maxTokens}, nil},
		`{"max_tokens":1,"max_\u0074okens":2}`:                {peek{"", false, 1}, errDuplicate},
		`{"stream":1}`:                                        {},
		`{"Model":"x","STREAM":true}`:                         {},
		`{"model":"a","m\u006fdel":"b"}`:                      {peek{"a", false, 0}, errDuplicate},
		`{"stream":false,"stream":true}`:                      {peek{"", false, 0}, errDuplicate},
		`{"model":null}`:                                      {peek{}, errModelType},
		`{"model":{"x":1}}`:                                   {peek{}, errModelType},
		`{"model":"` + strings.Repeat("m", maxModel) + `"}`:   {peek{strings.Repeat("m", maxModel), false, 0}, nil},
		`{"model":"` + strings.Repeat("m", maxModel+1) + `"}`: {peek{}, errModelLong},
		`{"model":"` + strings.Repeat("m", 1<<20) + `"}`:      {peek{}, errModelLong},
		`[]`:        {peek{}, errNotObject},
		`"x"`:       {peek{}, errNotObject},
		`1`:         {peek{}, errNotObject},
		``:          {peek{}, errNotObject},
		`{"a":1} x`: {peek{}, errNotObject},
		`{"a":1,}`:  {peek{}, errNotObject},
		strings.Repeat("[", 20000) + strings.Repeat("]", 20000): {peek{}, errNotObject},
		`{"` + strings.Repeat("x", 1000) + `":1,"model":"m"}`:   {peek{"m", false, 0}, nil},
	} {
		got, err := peekBody([]byte(in))
		if got != want.peek || err != want.err {
			t.Errorf("peekBody(%s) = %+v, %v; want %+v, %v", truncate(in, 80), got, err, want.peek, want.err)
		}
	}
}

// FuzzPeekBody compares with encoding/json, which uses the last of several
// members of one name: peekBody rejects those.
func FuzzPeekBody(f *testing.F) {
	for _, s := range []string{testBody, `{}`, `[1]`, `{"model":"a","model":"b"}`, `{"\u006dodel":"m","x":["\\","{"]}`, `{"stream":true , "n":1e5}`, "{\"\xff\":1}", `{"model":"\ud800"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := peekBody(b)
		var want map[string]json.RawMessage
		valid := json.Unmarshal(b, &want) == nil && want != nil
		if (err == errNotObject) == valid {
			t.Fatalf("%q: %v, but a valid object: %v", b, err, valid)
		}
		if err != nil {
			return
		}
		var model string
		if raw, ok := want["model"]; ok {
			if json.Unmarshal(raw, &model) != nil || model != got.model {
				t.Fatalf("%q: model %q, want %q", b, got.model, raw)
			}
		} else if got.model != "" {
			t.Fatalf("%q: model %q from nowhere", b, got.model)
		}
		if got.stream != (string(want["stream"]) == "true") {
			t.Fatalf("%q: stream %v", b, got.stream)
		}
	})
}

func TestMeterReadsUsageOfStreams(t *testing.T) {
	crlf := strings.ReplaceAll(wholeStream, "\n", "\r\n")
	for name, tc := range map[string]struct {
		in       string
		tokens   tokens
		complete bool
		kind     string
		boundary bool
	}{
		"nothing":            {"", tokens{}, false, "", true},
		"whole":              {wholeStream, tokens{Input: 11, Output: 42, CacheCreation: 3, CacheRead: 5}, true, "", true},
		"whole with CRLF":    {crlf, tokens{Input: 11, Output: 42, CacheCreation: 3, CacheRead: 5}, true, "", true},
		"without the end":    {eventStart + eventText, tokens{Input: 11, Output: 1, CacheCreation: 3, CacheRead: 5}, false, "", true},
		"within an event":    {eventStart + "event: x\n", tokens{Input: 11, Output: 1, CacheCreation: 3, CacheRead: 5}, false, "", false},
		"within a line":      {eventStart + "event: x", tokens{Input: 11, Output: 1, CacheCreation: 3, CacheRead: 5}, false, "", false},
		"no event names":     {`data:{"type":"message_stop"}` + "\n\n", tokens{}, true, "", true},
		"spaces in the JSON": {`data:  { "type" : "message_stop" }` + "\n\n", tokens{}, true, "", true},
		"unfinished line":    {`data: {"type":"message_stop"}`, tokens{}, false, "", false},
		"error":              {"data: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n", tokens{}, false, "overloaded_error", true},
		"garbage":            {"\x00\xff\ndata: {]\n\ndata:\n\n:\n\n", tokens{}, false, "", true},
		"negative and huge":  {`data: {"type":"message_delta","usage":{"input_tokens":-5,"output_tokens":9000000000000000000}}` + "\n\n", tokens{Output: maxTokens}, false, "", true},
		"a line too long":    {"data: {\"type\":\"message_stop\",\"x\":\"" + strings.Repeat("x", maxMeterLine) + "\"}\n\n" + eventStart, tokens{Input: 11, Output: 1, CacheCreation: 3, CacheRead: 5}, false, "", true},
		"end in a text":      {eventText, tokens{}, false, "", true},
	} {
		for _, step := range []int{1, 7, 1 << 30} {
			m := &meter{boundary: true}
			for rest := []byte(tc.in); len(rest) > 0; rest = rest[min(step, len(rest)):] {
				m.feed(rest[:min(step, len(rest))])
			}
			if m.tokens != tc.tokens || m.complete != tc.complete || m.failure.kind != tc.kind || m.boundary != tc.boundary {
				t.Errorf("%s in steps of %d: %+v %v %q %v", name, step, m.tokens, m.complete, m.failure.kind, m.boundary)
			}
		}
	}
}

func TestUnreportedUsageIsEstimated(t *testing.T) {
	text := strings.Repeat("x", 400)
	for name, tc := range map[string]struct {
		in        string
		least     int64
		most      int64
		estimated bool
	}{
		"reported":          {eventStart + eventText + eventDelta, 42, 42, false},
		"hung up on":        {eventStart + `data: {"type":"content_block_delta","delta":{"text":"` + text + "\"}}\n\n", 60, 120, true},
		"another encoder":   {eventStart + `data: {"type": "content_block_delta", "delta": {"text": "` + text + "\"}}\n\n", 60, 120, true},
		"another order":     {eventStart + `data: {"index":0,"type":"content_block_delta","delta":{"text":"` + text + "\"}}\n\n", 60, 120, true},
		"reported as 0":     {eventStart + `data: {"type":"content_block_delta","delta":{"text":"` + text + "\"}}\n\n" + `data: {"type":"message_delta","usage":{"output_tokens":0}}` + "\n\n", 60, 120, true},
		"one line too long": {eventStart + `data: {"type":"content_block_delta","delta":{"text":"` + strings.Repeat("x", 2*maxMeterLine) + "\"}}\n\n", maxMeterLine / 2, maxMeterLine, true},
	} {
		m := &meter{boundary: true}
		m.feed([]byte(tc.in))
		if got, estimated := m.estimate(); got.Output < tc.least || got.Output > tc.most || estimated != tc.estimated {
			t.Errorf("%s: %d tokens (estimated: %v), want %d to %d (%v)", name, got.Output, estimated, tc.least, tc.most, tc.estimated)
		}
	}
	for in, known := range map[string]bool{`{"usage":{"input_tokens":1}}`: true, `{"type":"message"}`: false, `{"usage":{}}`: false, `{"usa`: false} {
		var m bodyMeter
		m.feed([]byte(in))
		if _, got := m.tokens(); got != known {
			t.Errorf("%s: known is %v", in, got)
		}
	}
}

// FuzzMeter feeds a stream in one and in two parts: the split must not matter,
// and the memory is bounded.
func FuzzMeter(f *testing.F) {
	f.Add([]byte(wholeStream), 10)
	f.Add([]byte(strings.ReplaceAll(wholeStream, "\n", "\r\n")), 100)
	f.Add([]byte("data: {\"type\":\"error\",\"error\":{}}\n\n"), 3)
	f.Add([]byte("a: b\r\nc"), 5) // the LF is a byte of the unfinished event
	f.Add([]byte("data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":1e9}}}\n"), 1)
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		if at < 0 || at > len(b) {
			at = len(b) / 2
		}
		before := bytes.Clone(b)
		defer func() {
			if !bytes.Equal(b, before) {
				t.Fatal("the bytes were changed")
			}
		}()
		whole, parts := &meter{}, &meter{}
		whole.feed(b)
		parts.feed(b[:at])
		parts.feed(b[at:])
		if whole.tokens != parts.tokens || whole.complete != parts.complete || whole.failure != parts.failure || whole.stopped != parts.stopped || whole.text != parts.text || whole.events != parts.events || whole.open != parts.open || len(b) > 0 && at < len(b) && whole.boundary != parts.boundary {
			t.Fatalf("%q split at %d: %+v, %+v", b, at, whole, parts)
		}
		byByte := &meter{}
		for i := range b {
			byByte.feed(b[i : i+1])
		}
		for _, m := range []*meter{whole, parts, byByte} {
			m.finish()
		}
		if whole.tokens != byByte.tokens || whole.complete != byByte.complete || whole.failure != byByte.failure || whole.text != byByte.text || whole.events != parts.events || whole.tokens != parts.tokens {
			t.Fatalf("%q byte by byte: %+v, %+v", b, whole, byByte)
		}
		for _, n := range []int64{whole.tokens.Input, whole.tokens.Output, whole.tokens.CacheCreation, whole.tokens.CacheRead} {
			if n < 0 || n > maxTokens {
				t.Fatalf("%+v", whole.tokens)
			}
		}
		if cap(whole.line) > 2*maxMeterLine {
			t.Fatalf("keeps %d bytes", cap(whole.line))
		}
		var m bodyMeter
		m.feed(b)
		m.tokens()
		parseUpstreamError(b)
	})
}
