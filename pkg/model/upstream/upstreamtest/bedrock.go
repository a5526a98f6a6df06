package upstreamtest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
)

// Bedrock simulates the part of Bedrock that runs models.
type Bedrock struct {
	*Cloud
	Keys  Keys
	Ahead time.Duration // of its clock
}

// NewBedrock starts the server of one region.
func NewBedrock(t *testing.T, region string, keys Keys, model http.Handler) *Bedrock {
	t.Helper()
	b := &Bedrock{Keys: keys}
	b.Cloud = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.invoke(w, r, region, model) }))
	return b
}

var action = regexp.MustCompile(`^/model/([^/]+)/(invoke|invoke-with-response-stream|count-tokens)$`)

func (b *Bedrock) invoke(w http.ResponseWriter, r *http.Request, region string, model http.Handler) {
	raw, body, err := object(r)
	if err := CheckSigV4(r, raw, b.Keys, region, "bedrock", time.Now().Add(b.Ahead)); err != nil {
		name, message, _ := strings.Cut(err.Error(), ": ")
		b.fail(w, http.StatusForbidden, name+"Exception", message)
		return
	}
	m := action.FindStringSubmatch(r.URL.EscapedPath())
	if err != nil || r.Method != http.MethodPost || m == nil {
		b.fail(w, http.StatusNotFound, "UnknownOperationException", r.URL.Path)
		return
	}
	name, err := url.PathUnescape(m[1])
	if err != nil {
		b.fail(w, http.StatusBadRequest, "ValidationException", "modelId")
		return
	}
	path := "/v1/messages"
	if m[2] == "count-tokens" {
		path = "/v1/messages/count_tokens"
		var in struct{ InvokeModel struct{ Body []byte } }
		if json.Unmarshal(body["input"], &in) != nil || json.Unmarshal(in.InvokeModel.Body, &body) != nil {
			b.fail(w, http.StatusBadRequest, "ValidationException", "input")
			return
		}
		delete(body, "input")
	}
	for _, extra := range []string{"model", "stream"} {
		if _, ok := body[extra]; ok {
			b.fail(w, http.StatusBadRequest, "ValidationException", extra+": Extra inputs are not permitted")
			return
		}
	}
	if text(body["anthropic_version"]) != "bedrock-2023-05-31" || body["max_tokens"] == nil {
		b.fail(w, http.StatusBadRequest, "ValidationException", "anthropic_version and max_tokens are required")
		return
	}
	delete(body, "anthropic_version")
	body["model"], _ = json.Marshal(name)
	if m[2] == "invoke-with-response-stream" {
		body["stream"] = json.RawMessage("true")
	}
	b.ask(model, &bedrockWriter{to: w, rc: http.NewResponseController(w), count: m[2] == "count-tokens"}, r, path, body)
}

func (b *Bedrock) fail(w http.ResponseWriter, status int, exception, message string) {
	b.refuse(exception + ": " + message)
	w.Header().Set("X-Amzn-Errortype", exception+":http://internal.amazon.com/coral/")
	writeJSON(w, status, map[string]string{"message": message})
}

// bedrockWriter converts the answer of the Messages API to Bedrock's.
type bedrockWriter struct {
	to      http.ResponseWriter
	rc      *http.ResponseController
	count   bool
	header  http.Header
	status  int
	pending []byte
}

func (w *bedrockWriter) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}

var names = map[int]string{400: "ValidationException", 403: "AccessDeniedException", 429: "ThrottlingException", 500: "InternalServerException", 529: "ServiceUnavailableException"}

func (w *bedrockWriter) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	h := w.to.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Amzn-Requestid", "11111111-2222-4333-8444-555555555555")
	switch {
	case status >= 400:
		h.Set("X-Amzn-Errortype", names[status])
		if status == 529 {
			status = 503
		}
	case w.stream():
		h.Set("Content-Type", "application/vnd.amazon.eventstream")
	}
	w.to.WriteHeader(status)
}

func (w *bedrockWriter) stream() bool {
	return strings.HasPrefix(w.Header().Get("Content-Type"), "text/event-stream")
}

func (w *bedrockWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	switch {
	case w.status >= 400:
		var v struct{ Error struct{ Message string } }
		_ = json.Unmarshal(p, &v)
		return len(p), json.NewEncoder(w.to).Encode(map[string]string{"message": v.Error.Message})
	case w.count:
		var v map[string]int
		_ = json.Unmarshal(p, &v)
		return len(p), json.NewEncoder(w.to).Encode(map[string]int{"inputTokens": v["input_tokens"]})
	case !w.stream():
		return w.to.Write(p)
	}
	w.pending = append(w.pending, p...)
	for {
		event, rest, ok := bytes.Cut(w.pending, []byte("\n\n"))
		if !ok {
			return len(p), nil
		}
		w.pending = rest
		if _, data, ok := bytes.Cut(event, []byte("data: ")); ok {
			if _, err := w.to.Write(Chunk(data)); err != nil {
				return 0, err
			}
		}
	}
}

func (w *bedrockWriter) Flush() {
	w.WriteHeader(http.StatusOK)
	_ = w.rc.Flush()
}

// Chunk returns a frame of Bedrock's stream with an event of the Messages API.
func Chunk(data []byte) []byte {
	payload, _ := json.Marshal(map[string]string{"bytes": base64.StdEncoding.EncodeToString(data), "p": "abcdefghij"})
	return Frame(payload, ":event-type", "chunk", ":content-type", "application/json", ":message-type", "event")
}

// Frame returns a frame; headers are alternating names and values.
func Frame(payload []byte, headers ...string) []byte {
	m := eventstream.Message{Payload: payload}
	for i := 0; i < len(headers); i += 2 {
		m.Headers.Set(headers[i], eventstream.StringValue(headers[i+1]))
	}
	var out bytes.Buffer
	if err := eventstream.NewEncoder().Encode(&out, m); err != nil {
		panic(err)
	}
	return out.Bytes()
}
