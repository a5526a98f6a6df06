package gateway

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestUsageIsReadInAnyNotation(t *testing.T) {
	for usage, want := range map[string]tokens{
		`{"input_tokens":100000,"output_tokens":3}`:                                                                 {Input: 100000, Output: 3},
		`{"input_tokens":100000.0}`:                                                                                 {Input: 100000},
		`{"input_tokens":1e5}`:                                                                                      {Input: 100000},
		`{"input_tokens":"100000"}`:                                                                                 {Input: 100000},
		`{"input_tokens":" 100000.0 "}`:                                                                             {Input: 100000},
		`{"input_tokens":0.5}`:                                                                                      {Input: 1},
		`{"input_tokens":null,"output_tokens":7}`:                                                                   {Output: 7},
		`{"input_tokens":true,"output_tokens":[1],"x":{}}`:                                                          {},
		`{"input_tokens":-5,"output_tokens":"-1e9"}`:                                                                {},
		`{"input_tokens":9e99,"output_tokens":"1e999"}`:                                                             {Input: maxTokens, Output: maxTokens},
		`{"input_tokens":99999999999999999999,"output_tokens":-1e999}`:                                              {Input: maxTokens},
		`{"input_tokens":"NaN","output_tokens":"Infinity"}`:                                                         {},
		`{"input_tokens":"0x10","output_tokens":"1_000"}`:                                                           {},
		`{"input_tokens":5,"cache_creation":0}`:                                                                     {Input: 5},
		`{"input_tokens":5,"cache_creation":"x","server_tool_use":null}`:                                            {Input: 5},
		`{"cache_creation_input_tokens":9,"cache_creation":7}`:                                                      {CacheCreation: 9},
		`{"cache_creation":{"ephemeral_1h_input_tokens":4.0}}`:                                                      {CacheCreation: 4, CacheHour: 4},
		`{"cache_creation":{"ephemeral_5m_input_tokens":"6"}}`:                                                      {CacheCreation: 6, CacheShort: 6},
		`{"cache_read_input_tokens":"8","cache_creation_input_tokens":2}`:                                           {CacheRead: 8, CacheCreation: 2},
		`{"output_tokens":3,"output_tokens_details":{"thinking_tokens":2}}`:                                         {Output: 3},
		`{"output_tokens":3,"output_tokens_details":{"thinking_tokens":9}}`:                                         {Output: 9},
		`{"server_tool_use":{"web_search_requests":2,"web_fetch_requests":9,"code_execution_requests":"3"}}`:        {Searches: 2, Executions: 3},
		`{"speed":"standard","inference_geo":"global","service_tier":"priority"}`:                                   {},
		`{"speed":null,"inference_geo":"not_available"}`:                                                            {},
		`{"speed":"fast","inference_geo":"us"}`:                                                                     {Fast: true, Regional: true},
		`{"speed":"turbo","inference_geo":["eu"]}`:                                                                  {Fast: true, Regional: true},
		`{"input_tokens":9,"iterations":null}`:                                                                      {Input: 9},
		`{"input_tokens":9,"iterations":[]}`:                                                                        {Input: 9},
		`{"input_tokens":9,"iterations":{"input_tokens":99}}`:                                                       {Input: 9},
		`{"input_tokens":9,"output_tokens":4,"iterations":[{"type":"message","input_tokens":9,"output_tokens":4}]}`: {Input: 9, Output: 4},
		`{"input_tokens":9,"output_tokens":4,"iterations":[{"type":"compaction","input_tokens":70,"output_tokens":30},{"type":"message","input_tokens":9,"output_tokens":4}]}`: {Input: 79, Output: 34},
		`{"input_tokens":9,"output_tokens":40,"iterations":[{"input_tokens":"1e13"},{"input_tokens":1e13,"speed":"fast"},7,null,"x"]}`:                                         {Input: maxTokens, Output: 40, Fast: true},
		`{"iterations":[{"type":"message","model":"a","output_tokens":1},{"type":"fallback_message","model":"b\nc","output_tokens":2},{"model":"a"},{"model":7}]}`:             {Output: 3, Models: "a\nb c"},
		`10`: {}, `"x"`: {}, `null`: {}, `[]`: {}, ``: {},
	} {
		if got := usageOf(json.RawMessage(usage)); got != want {
			t.Errorf("%s: %+v, want %+v", usage, got, want)
		}
	}
}

func TestInvalidMemberDoesNotHideTheOthers(t *testing.T) {
	for name, tc := range map[string]struct {
		in       string
		want     tokens
		complete bool
		kind     string
	}{
		"message_stop with a usage":       {`{"type":"message_stop","usage":{"input_tokens":10.0,"output_tokens":5.0}}`, tokens{Input: 10, Output: 5}, true, ""},
		"message_stop with a text":        {`{"type":"message_stop","usage":"none","message":"bye","error":"no"}`, tokens{}, true, ""},
		"message_stop, type last":         {`{"usage":[],"error":1,"type":"message_stop"}`, tokens{}, true, ""},
		"message_start with a text":       {`{"type":"message_start","message":"x","usage":{"input_tokens":4}}`, tokens{Input: 4}, false, ""},
		"message_start with odd members":  {`{"type":"message_start","message":{"id":7,"content":"x","usage":{"input_tokens":"4"}},"error":"x","delta":3}`, tokens{Input: 4}, false, ""},
		"message_delta with all":          {`{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":4,"output_tokens":2.0},"message":[]}`, tokens{Input: 4, Output: 2}, false, ""},
		"message_delta, usage in delta":   {`{"type":"message_delta","delta":{"usage":{"output_tokens":2}}}`, tokens{Output: 2}, false, ""},
		"the metrics of Bedrock":          {`{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":3.0,"outputTokenCount":"4","cacheReadInputTokenCount":1,"firstByteLatency":{}}}`, tokens{Input: 3, Output: 4, CacheRead: 1}, true, ""},
		"an error as a text":              {`{"type":"error","error":"Overloaded"}`, tokens{}, false, ""},
		"an error with an odd message":    {`{"type":"error","error":{"type":"overloaded_error","message":{"x":1}},"usage":7}`, tokens{}, false, "overloaded_error"},
		"a type that is no text":          {`{"type":5,"usage":{"input_tokens":4}}`, tokens{Input: 4}, false, ""},
		"a ping with usage":               {`{"type":"ping","usage":{"input_tokens":4}}`, tokens{Input: 4}, false, ""},
		"names are compared exactly":      {`{"TYPE":"message_stop","type":"ping","Usage":{"input_tokens":4}}`, tokens{}, false, ""},
		"the name of the event is enough": {`{"usage":{"output_tokens":2}}`, tokens{Output: 2}, true, ""},
	} {
		in := "data: " + tc.in + "\n\n"
		if name == "the name of the event is enough" {
			in = "event: message_stop\n" + in
		}
		m := &meter{}
		m.feed([]byte(in))
		if m.tokens != tc.want || m.complete != tc.complete || m.failure.kind != tc.kind || m.failed != strings.Contains(tc.in, `"type":"error"`) {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

func TestStreamsInEveryFormOfTheStandard(t *testing.T) {
	whole := tokens{Input: 11, Output: 42, CacheCreation: 3, CacheRead: 5}
	for name, in := range map[string]string{
		"CR":                   strings.ReplaceAll(wholeStream, "\n", "\r"),
		"CRLF":                 strings.ReplaceAll(wholeStream, "\n", "\r\n"),
		"no space":             strings.ReplaceAll(wholeStream, "data: ", "data:"),
		"no names":             strings.ReplaceAll(wholeStream, "event: ", "id: "),
		"a byte order mark":    byteOrderMark + wholeStream,
		"comments":             ": hello\n\n" + strings.ReplaceAll(wholeStream, "\ndata", "\n:x\nretry: 5\ndata"),
		"data in lines":        inLines(wholeStream),
		"no blank line at end": strings.TrimSuffix(wholeStream, "\n\n"),
		"one line end at end":  strings.TrimSuffix(wholeStream, "\n"),
	} {
		for _, step := range []int{1, 2, 7, 1 << 30} {
			m := &meter{}
			for rest := []byte(in); len(rest) > 0; rest = rest[min(step, len(rest)):] {
				m.feed(rest[:min(step, len(rest))])
			}
			m.finish()
			if m.tokens != whole || !m.complete || !m.stopped || m.events < 4 {
				t.Errorf("%s in steps of %d: %+v", name, step, m)
			}
		}
	}
}

// inLines splits the data of each event into several lines.
func inLines(stream string) string {
	var out strings.Builder
	for line := range strings.Lines(stream) {
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			out.WriteString(line)
			continue
		}
		var pretty bytes.Buffer
		if json.Indent(&pretty, []byte(strings.TrimSpace(data)), "", " ") != nil {
			panic(line)
		}
		for l := range strings.Lines(pretty.String()) {
			out.WriteString("data: " + strings.TrimSuffix(l, "\n") + "\n")
		}
	}
	return out.String()
}

func packed(t *testing.T, s string, open func(io.Writer) io.WriteCloser) string {
	var b bytes.Buffer
	w := open(&b)
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return b.String()
}

func gzipped(t *testing.T, s string) string {
	return packed(t, s, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
}

func TestAnswersThatTheCLIAcceptsAreForwarded(t *testing.T) {
	raw := packed(t, wholeStream, func(w io.Writer) io.WriteCloser { f, _ := flate.NewWriter(w, 5); return f })
	zipped := packed(t, wholeStream, func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) })
	message := `{"id":"m","type":"message","content":[{"type":"text","text":"Done."}],"stop_reason":"end_turn","usage":{"input_tokens":11,"output_tokens":42,"cache_read_input_tokens":5,"cache_creation_input_tokens":3}}`
	for name, tc := range map[string]struct {
		header []string
		body   string
		want   string // wholeStream if ""
	}{
		"no content type":    {[]string{"Content-Type", ""}, wholeStream, ""},
		"plain text":         {[]string{"Content-Type", "text/plain; charset=utf-8"}, wholeStream, ""},
		"JSON's name":        {[]string{"Content-Type", "application/json"}, wholeStream, ""},
		"bytes":              {[]string{"Content-Type", "application/octet-stream"}, wholeStream, ""},
		"upper case":         {[]string{"Content-Type", "TEXT/EVENT-STREAM"}, wholeStream, ""},
		"a bad parameter":    {[]string{"Content-Type", "text/event-stream; charset"}, wholeStream, ""},
		"several lines":      {nil, inLines(wholeStream), inLines(wholeStream)},
		"CRLF":               {nil, strings.ReplaceAll(wholeStream, "\n", "\r\n"), strings.ReplaceAll(wholeStream, "\n", "\r\n")},
		"a byte order mark":  {[]string{"Content-Type", ""}, byteOrderMark + wholeStream, byteOrderMark + wholeStream},
		"gzip":               {[]string{"Content-Encoding", "gzip"}, gzipped(t, wholeStream), ""},
		"gzip in two parts":  {[]string{"Content-Encoding", "X-GZIP"}, gzipped(t, eventStart) + gzipped(t, eventText+eventDelta+eventStop), ""},
		"gzip and padding":   {[]string{"Content-Encoding", "identity, gzip"}, gzipped(t, wholeStream) + "\x00\x00", ""},
		"deflate":            {[]string{"Content-Encoding", "deflate"}, zipped, ""},
		"deflate, raw":       {[]string{"Content-Encoding", "deflate"}, raw, ""},
		"gzip twice":         {[]string{"Content-Encoding", "gzip, gzip"}, gzipped(t, gzipped(t, wholeStream)), ""},
		"identity":           {[]string{"Content-Encoding", "identity"}, wholeStream, ""},
		"a message":          {[]string{"Content-Type", "application/json"}, message, string(messageEvents([]byte(message)))},
		"a message, gzip":    {[]string{"Content-Type", "application/json", "Content-Encoding", "gzip"}, gzipped(t, message), string(messageEvents([]byte(message)))},
		"a message, no type": {[]string{"Content-Type", ""}, " " + message, string(messageEvents([]byte(message)))},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				for i := 0; i < len(tc.header); i += 2 {
					w.Header()[tc.header[i]] = []string{tc.header[i+1]}
					if tc.header[i+1] == "" {
						w.Header()[tc.header[i]] = nil
					}
				}
				for i := range len(tc.body) { // in small pieces
					if i%50 == 0 {
						send(w, tc.body[i:min(i+50, len(tc.body))])
					}
				}
			})
			a := r.post(testBody)
			if tc.want == "" {
				tc.want = wholeStream
			}
			if a.status != 200 || a.err != nil || a.body != tc.want || !strings.HasPrefix(strings.ToLower(a.header.Get("Content-Type")), eventsType) || a.header.Get("Content-Encoding") != "" {
				t.Errorf("%v\n%s", a, r.log)
			}
			wantFailure(t, r, "")
			r.grant.Revoke()
			if got := r.grant.Usage().Tokens; got != (dreamcore.Tokens{Input: 11, Output: 42, CacheWrite: 3, CacheRead: 5}) {
				t.Errorf("usage %+v", got)
			}
		})
	}
}

func TestDecodedAnswerIsBounded(t *testing.T) {
	bomb := gzipped(t, eventStart+strings.Repeat(eventText, 100_000))
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		beginStream(w)
		send(w, bomb)
	}, func(c *Config) { c.MaxResponse = 1 << 20 })
	if a := r.post(testBody); a.err == nil || len(a.body) > 1<<20 {
		t.Errorf("%d bytes, %v", len(a.body), a.err)
	}
	wantFailure(t, r, dreamcore.FailNetwork)
	r = newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(400)
		send(w, bomb)
	})
	if a := r.post(testBody); a.status != 400 || len(a.body) > 1000 {
		t.Errorf("%v", a)
	}
	// The decoded body is searched for the key too.
	r = newRig(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		beginStream(w)
		send(w, gzipped(t, eventStart+"event: x\ndata: "+req.Header.Get("X-Api-Key")+"\n\n"+eventDelta+eventStop))
	})
	if a := r.post(testBody); a.err != nil || !strings.Contains(a.body, "****") {
		t.Errorf("%v", a)
	}
}

func TestRejectedAnswersAreLoggedWithTheirKind(t *testing.T) {
	for name, tc := range map[string]struct {
		header [2]string
		body   string
		want   string
	}{
		"brotli":           {[2]string{"Content-Encoding", "br"}, "\x8b\x02", "content_encoding=br"},
		"zstd":             {[2]string{"Content-Encoding", "gzip, zstd"}, "x", `content_encoding="gzip, zstd"`},
		"login page":       {[2]string{"Content-Type", "text/html"}, "<!doctype html><title>Log in</title>", "a page of HTML"},
		"page as a stream": {[2]string{"Content-Type", "text/event-stream"}, "\n<html>", "a page of HTML"},
		"page as JSON":     {[2]string{"Content-Type", "application/json"}, "<html>", "a page of HTML"},
		"words":            {[2]string{"Content-Type", "text/plain"}, "upstream connect error", "neither events nor a JSON object"},
		"a list":           {[2]string{"Content-Type", "application/json"}, "[1]", "neither events nor a JSON object"},
	} {
		var n noting
		r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(tc.header[0], tc.header[1])
			send(w, tc.body)
		})
		gr := r.socket.Grant(GrantOptions{Meter: &n})
		a := r.do(r.request(testBody, func(req *http.Request) { req.Header.Set("X-Api-Key", gr.Token()) }))
		if a.status != 502 || a.err != nil || !strings.Contains(r.log.String(), tc.want) || gr.Failure() != dreamcore.FailNetwork {
			t.Errorf("%s: %v %s\n%s", name, a, gr.Failure(), r.log)
		}
		gr.Revoke()
		if n.spent.Tokens != (dreamcore.Tokens{}) {
			t.Errorf("%s: %+v was charged", name, n.spent.Tokens)
		}
	}
}

func TestMissingEndIsSupplied(t *testing.T) {
	most := eventStart + eventText + eventDelta
	for name, tc := range map[string]struct{ sent, want string }{
		"after the stop_reason":       {most, most + string(stopEvent)},
		"within message_stop":         {most + "event: message_stop\nda", most + string(stopEvent)},
		"within its data":             {most + "event: message_stop\ndata: {\"type\":", most + string(stopEvent)},
		"before the blank line":       {strings.TrimSuffix(wholeStream, "\n"), wholeStream + "\n"},
		"before the end of the line":  {strings.TrimSuffix(wholeStream, "\n\n"), wholeStream},
		"before the stop_reason ends": {strings.TrimSuffix(most, "\n\n"), most + string(stopEvent)},
		"after pings":                 {most + "event: ping\ndata: {}\n\n", most + "event: ping\ndata: {}\n\n" + string(stopEvent)},
	} {
		for _, how := range []string{"end", "cut", "open"} {
			if how != "end" && name == "before the stop_reason ends" {
				continue // an answer interrupted there may be anything
			}
			r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body)
				beginStream(w)
				for i := 0; i < len(tc.sent); i += 100 {
					send(w, tc.sent[i:min(i+100, len(tc.sent))])
				}
				switch how {
				case "cut":
					panic(http.ErrAbortHandler)
				case "open":
					<-req.Context().Done()
				}
			}, func(c *Config) { c.StopLimit = 300 * time.Millisecond })
			a := r.post(testBody)
			if a.err != nil || a.body != tc.want {
				t.Errorf("%s, %s: %v", name, how, a)
			}
			wantFailure(t, r, "")
			r.grant.Revoke()
			if u := r.grant.Usage().Tokens; u.Input != 11 || u.Output != 42 {
				t.Errorf("%s, %s: %+v", name, how, u)
			}
		}
	}
}

// Pings, or anything else, do not keep a complete answer open.
func TestCompleteAnswerThatStaysOpenIsEnded(t *testing.T) {
	for name, tc := range map[string]struct{ sent, want string }{
		"after message_stop": {wholeStream, wholeStream},
		"after stop_reason":  {eventStart + eventDelta, eventStart + eventDelta},
	} {
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body)
			beginStream(w)
			send(w, tc.sent)
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					send(w, "event: ping\ndata: {\"type\": \"ping\"}\n\n")
				case <-req.Context().Done():
					return
				}
			}
		}, func(c *Config) { c.StopLimit = 300 * time.Millisecond })
		begun := time.Now()
		a := r.post(testBody)
		if a.err != nil || !strings.HasPrefix(a.body, tc.want) || !strings.HasSuffix(a.body, string(stopEvent)) || time.Since(begun) > patience/2 {
			t.Errorf("%s: %v after %v", name, a, time.Since(begun))
		}
		if name == "after message_stop" && a.body != wholeStream {
			t.Errorf("something followed message_stop: %q", a.body)
		}
		wantFailure(t, r, "")
	}
}

func TestUsageAfterMessageStopCounts(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		beginStream(w)
		send(w, "data: {\"type\":\"message_start\"}\n\n"+eventText+eventStop)
		send(w, "data: {\"type\":\"usage\",\"usage\":{\"input_tokens\":70.0,\"output_tokens\":\"8\"}}\n\n")
	})
	if a := r.post(testBody); a.err != nil || strings.Contains(a.body, "70.0") {
		t.Errorf("%v", a)
	}
	r.grant.Revoke()
	if u := r.grant.Usage().Tokens; u.Input != 70 || u.Output != 8 {
		t.Errorf("%+v", u)
	}
}

func TestMessageIsConvertedToStream(t *testing.T) {
	in := `{"type":"message","id":"m","role":"assistant","model":"x","extra":[1.50],"stop_reason":"tool_use","stop_sequence":null,
		"content":[{"type":"thinking","thinking":"hm","signature":"s=="},{"type":"text","text":"a<b","citations":null},{"type":"tool_use","id":"t","name":"Write","input":{"a":1.0}},{"type":"other","x":1},7],
		"usage":{"input_tokens":4,"output_tokens":5.0}}`
	got := string(messageEvents([]byte(in)))
	for _, want := range []string{
		`"content":[]`, `"extra":[1.50]`, `"stop_reason":null`, `{"thinking":"hm","type":"thinking_delta"}`, `{"signature":"s==","type":"signature_delta"}`,
		`"content_block":{"citations":null,"text":"","type":"text"}`, `"partial_json":"{\"a\":1.0}"`, `"content_block":{"type":"other","x":1}`, `"content_block":7`,
		`"delta":{"stop_reason":"tool_use","stop_sequence":null}`, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	m := &meter{}
	m.feed([]byte(got))
	if !m.complete || !m.stopped || m.tokens != (tokens{Input: 4, Output: 5}) {
		t.Errorf("%+v", m)
	}
	for _, in := range []string{`{}`, `{"type":"message"}`, `{"type":"message","content":"x"}`, `{"type":"error","content":[]}`, `[]`, ``} {
		if got := messageEvents([]byte(in)); got != nil {
			t.Errorf("%s became %s", in, got)
		}
	}
}

// FuzzMessageEvents checks that any message is converted to a stream that the
// meter understands.
func FuzzMessageEvents(f *testing.F) {
	f.Add([]byte(`{"type":"message","content":[{"type":"text","text":"x"},{"type":"tool_use","input":{}}],"usage":{"output_tokens":1}}`))
	f.Add([]byte(`{"type":"message","content":[null,{"type":"thinking"}],"stop_reason":7}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		events := messageEvents(b)
		if events == nil {
			return
		}
		m := &meter{}
		m.feed(events)
		// Messages longer than the meter keeps are forwarded too.
		if !m.complete && len(events) < maxMeterLine || m.failed || !m.boundary {
			t.Fatalf("%q became %q: %+v", b, events, m)
		}
	})
}

func TestAnswerWithTooManyEncodingsIsNotDecoded(t *testing.T) {
	for _, n := range []int{maxCodings, maxCodings + 1, 10_000} {
		resp := &http.Response{
			Header: http.Header{"Content-Encoding": {"", strings.Repeat("gzip,", n-2) + "gzip"}}, // the empty value counts
			Body:   io.NopCloser(strings.NewReader(gzipped(t, gzipped(t, gzipped(t, "x"))))),
		}
		decode(resp)
		_, done := resp.Body.(*decoder)
		if left := resp.Header.Get("Content-Encoding"); done != (n == maxCodings) || (left == "") != done {
			t.Errorf("%d encodings: unpacked %v, %d bytes of header left", n, done, len(left))
		}
		if text, err := io.ReadAll(resp.Body); done && (err != nil || string(text) != "x") {
			t.Errorf("%d encodings: %q, %v", n, text, err)
		}
	}
}

// FuzzDecode checks that any encoded answer results in bytes or an error.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("\x1f\x8b\x08"), "gzip")
	f.Add([]byte{0x78, 0x9c, 3, 0, 0, 0, 0, 1}, "deflate")
	f.Fuzz(func(t *testing.T, b []byte, encoding string) {
		resp := &http.Response{Header: http.Header{"Content-Encoding": {encoding}}, Body: io.NopCloser(bytes.NewReader(b))}
		decode(resp)
		n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
		if n < 0 || err != nil && n > 1<<20 {
			t.Fatal(n, err)
		}
	})
}

func TestRetryAfterInAnyForm(t *testing.T) {
	now := time.Date(2026, 10, 21, 7, 28, 0, 0, time.UTC)
	at := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for text, want := range map[string]string{
		"7": "7", "0.5": "1", "999999": "60", "1e999": "60", "-1": "", "0": "", "NaN": "", "": "", "soon": "", " 3 ": "3",
		at(9 * time.Second): "9", at(-time.Hour): "", at(time.Hour): "60",
		now.Add(5 * time.Second).Format(time.RFC850): "5", now.Add(5 * time.Second).Format(time.ANSIC): "5",
	} {
		if got := seconds(RetryAfter(http.Header{"Retry-After": {text}}, now)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	h := http.Header{"Retry-After": {at(9 * time.Second)}, "Date": {at(4 * time.Second)}}
	if got := RetryAfter(h, now.Add(time.Hour)); got != 5*time.Second {
		t.Errorf("by its own clock: %v", got)
	}
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		status(429, "Retry-After", time.Now().Add(30*time.Second).UTC().Format(http.TimeFormat))(w, req)
	})
	if a := r.post(testBody); !strings.Contains("28 29 30 31", a.header.Get("Retry-After")) || a.header.Get("Retry-After") == "" {
		t.Errorf("%v", a)
	}
}

func fmtStatus(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasPrefix(body, "<") {
			w.Header().Set("Content-Type", "text/html")
		}
		if strings.HasPrefix(body, "data:") {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, body)
	}
}
