package e2e

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

var aShape = regexp.MustCompile(`SHAPE-([a-z0-9-]+)`)

// hostileUpstream is a model API whose answer is selected by the first SHAPE-… of a
// request: in the name of the model, or in a prompt.
func hostileUpstream(w http.ResponseWriter, r *http.Request) {
	head, _ := io.ReadAll(io.LimitReader(r.Body, 256<<10))
	shape := "hello"
	if m := aShape.FindSubmatch(head); m != nil {
		shape = string(m[1])
	}
	_, _ = io.Copy(io.Discard, r.Body)
	stream := bytes.Contains(head, []byte(`"stream":true`)) || bytes.Contains(head, []byte(`"stream": true`))
	status, failing := strings.CutPrefix(shape, "error-")
	switch answer, ok := hostileAnswers[shape]; {
	case failing:
		code, _ := strconv.Atoi(status)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, `{"type":"error","error":{"type":"overloaded_error","message":"`)
		repeat(w, 64)
	case ok:
		answer(w, r, stream)
	default:
		speak(w, stream, "hello")
	}
}

const (
	streamStart = `event: message_start` + "\n" + `data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"usage":{"input_tokens":5,"output_tokens":1}}}` + "\n\n"
	blockStart  = `event: content_block_start` + "\n" + `data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}` + "\n\n"
	streamEnd   = `event: message_delta` + "\n" + `data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}` + "\n\n" + `event: message_stop` + "\n" + `data: {"type":"message_stop"}` + "\n\n"
	textDelta   = `event: content_block_delta` + "\n" + `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}` + "\n\n"
)

// speak answers with a text as the API does.
func speak(w http.ResponseWriter, stream bool, text string) {
	if begin(w, stream) {
		fmt.Fprint(w, streamStart, blockStart)
		fmt.Fprintf(w, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":%q}}\n\n", text)
		fmt.Fprint(w, streamEnd)
		return
	}
	message(w, text, `{"input_tokens":1,"output_tokens":1}`)
}

// begin sets the type of an answer and returns whether it is a stream.
func begin(w http.ResponseWriter, stream bool) bool {
	w.Header().Set("Content-Type", map[bool]string{true: "text/event-stream", false: "application/json"}[stream])
	return stream
}

func message(w io.Writer, text, usage string) {
	fmt.Fprintf(w, `{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"%s"}],"stop_reason":"end_turn","usage":%s}`, text, usage)
}

var aMebibyte = bytes.Repeat([]byte("x"), 1<<20)

// repeat writes a number of mebibytes, or until the reader stops.
func repeat(w io.Writer, mib int) {
	for range mib {
		if _, err := w.Write(aMebibyte); err != nil {
			return
		}
	}
}

// zeros are 2 GiB of text, compressed once.
var zeros = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	repeat(z, 2048)
	_ = z.Close()
	return b.Bytes()
})

type hostileAnswer func(w http.ResponseWriter, r *http.Request, stream bool)

func compressed(w http.ResponseWriter, stream bool, encoding string, body []byte) {
	begin(w, stream)
	w.Header().Set("Content-Encoding", encoding)
	_, _ = w.Write(body)
}

var hostileAnswers = map[string]hostileAnswer{
	"slow": func(w http.ResponseWriter, r *http.Request, stream bool) {
		select {
		case <-r.Context().Done():
		case <-time.After(5 * time.Second):
		}
		speak(w, stream, "late")
	},
	"gzip": func(w http.ResponseWriter, _ *http.Request, stream bool) { compressed(w, stream, "gzip", zeros()) },
	"gzip-twice": func(w http.ResponseWriter, _ *http.Request, stream bool) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(zeros())
		_ = z.Close()
		compressed(w, stream, "gzip, gzip", b.Bytes())
	},
	"deflate": func(w http.ResponseWriter, _ *http.Request, stream bool) {
		begin(w, stream)
		w.Header().Set("Content-Encoding", "deflate")
		z, _ := flate.NewWriter(w, flate.BestSpeed)
		repeat(z, 512)
		_ = z.Close()
	},
	"line": func(w http.ResponseWriter, _ *http.Request, _ bool) {
		begin(w, true)
		_, _ = io.WriteString(w, streamStart+"data: {\"type\":\"")
		repeat(w, 128)
	},
	"events": func(w http.ResponseWriter, _ *http.Request, _ bool) {
		begin(w, true)
		_, _ = io.WriteString(w, streamStart+blockStart)
		for chunk, n := []byte(strings.Repeat(textDelta, 1000)), 0; n < 1000; n++ {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
		_, _ = io.WriteString(w, streamEnd)
	},
	"deep": func(w http.ResponseWriter, _ *http.Request, stream bool) {
		if begin(w, stream) {
			_, _ = io.WriteString(w, streamStart+"data: {\"type\":\"content_block_delta\",\"index\":"+strings.Repeat("[", 30000)+strings.Repeat("]", 30000)+"}\n\n")
		}
		_, _ = io.WriteString(w, `{"content":`)
		for range 16 {
			if _, err := w.Write(bytes.Repeat([]byte("["), 1<<20)); err != nil {
				return
			}
		}
	},
	"long": func(w http.ResponseWriter, _ *http.Request, stream bool) {
		begin(w, stream)
		_, _ = io.WriteString(w, `{"id":"msg_1","type":"message","role":"assistant","content":[{"type":"text","text":"`)
		repeat(w, 300)
	},
	"lies": func(w http.ResponseWriter, _ *http.Request, stream bool) {
		begin(w, stream)
		w.Header().Set("Content-Length", "9223372036854775807")
		repeat(w, 20)
	},
	"headers": func(w http.ResponseWriter, _ *http.Request, stream bool) {
		for i := range 20000 {
			w.Header().Set(fmt.Sprintf("X-Header-%d", i), strings.Repeat("h", 50))
		}
		speak(w, stream, "headers")
	},
	"usage": func(w http.ResponseWriter, _ *http.Request, stream bool) {
		usages := []string{
			`{"input_tokens":-1,"output_tokens":1e308}`, `{"input_tokens":"many","output_tokens":[[[[]]]]}`, `{"input_tokens":1e999}`,
			`{"input_tokens":9223372036854775807,"output_tokens":9223372036854775807,"cache_read_input_tokens":9223372036854775807}`,
			`{"iterations":[` + strings.Repeat(`{"input_tokens":9223372036854775807},`, 50000) + `{}],"input_tokens":1}`,
			`{"cache_creation":{` + strings.Repeat(`"ephemeral_5m_input_tokens":1,`, 50000) + `"x":1}}`, `null`, `"usage"`, `[]`, `{` + strings.Repeat(`"a":{`, 9000) + strings.Repeat("}", 9000) + `}`,
		}
		if begin(w, stream) {
			_, _ = io.WriteString(w, streamStart)
			for _, u := range usages {
				fmt.Fprintf(w, "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"usage\":%s}\n\n", u)
			}
			_, _ = io.WriteString(w, streamEnd)
			return
		}
		message(w, "usage", usages[time.Now().UnixNano()%int64(len(usages))])
	},
	"blocks": func(w http.ResponseWriter, _ *http.Request, _ bool) {
		begin(w, true)
		_, _ = io.WriteString(w, streamStart)
		for i := range 100_000 {
			if _, err := fmt.Fprintf(w, "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":%d,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t%d\",\"name\":\"Write\",\"input\":{}}}\n\n", i*i*i, i); err != nil {
				return
			}
		}
		_, _ = io.WriteString(w, streamEnd)
	},
	"trickle": func(w http.ResponseWriter, r *http.Request, _ bool) {
		begin(w, true)
		for i := 0; i < 400 && r.Context().Err() == nil; i++ {
			_, _ = w.Write([]byte{streamStart[i%len(streamStart)]})
			_ = http.NewResponseController(w).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	},
	"cut": func(w http.ResponseWriter, _ *http.Request, _ bool) {
		begin(w, true)
		_, _ = io.WriteString(w, streamStart+blockStart+"data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"\xe3\x81")
	},
	"break": func(w http.ResponseWriter, _ *http.Request, _ bool) {
		begin(w, true)
		_, _ = io.WriteString(w, streamStart)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	},
	"redirect": func(w http.ResponseWriter, r *http.Request, _ bool) {
		http.Redirect(w, r, r.URL.String(), http.StatusTemporaryRedirect)
	},
	"status": func(w http.ResponseWriter, _ *http.Request, _ bool) {
		w.WriteHeader(799)
		repeat(w, 16)
	},
	// Well-formed answers, for prompt endpoints, which parse them.
	"answer-long": func(w http.ResponseWriter, _ *http.Request, stream bool) {
		speak(w, stream, strings.Repeat("{", 3<<20))
	},
	"answer-deep": func(w http.ResponseWriter, _ *http.Request, stream bool) {
		speak(w, stream, `{\"files\":`+strings.Repeat("[", 1<<20)+strings.Repeat("]", 1<<20)+"}")
	},
	"answer-fences": func(w http.ResponseWriter, _ *http.Request, stream bool) {
		speak(w, stream, strings.Repeat("```json\\n{\\\"a\\\":\\n```\\n", 100_000))
	},
	"answer-files": func(w http.ResponseWriter, _ *http.Request, stream bool) {
		speak(w, stream, `{\"files\":[`+strings.Repeat(`{\"path\":\"index.html\",\"content\":\"x\"},`, 50_000)+`{}]}`)
	},
}
