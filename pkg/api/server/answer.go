package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// codeMethod is an error code of HTTP alone.
const codeMethod dreamcore.Code = "METHOD_NOT_ALLOWED"

// internalMessage is all that a client learns of a fault that is ours.
const internalMessage = "Internal server error"

// How long a client should wait before it tries again.
const (
	retryConflict = 5 * time.Second  // the user's other generation is about to end, perhaps
	retryBusy     = 10 * time.Second // a place in the queue, or of a check
)

// lingerLimit is how long the rest of a refused body is still taken from the
// connection, so that the client can read the answer before it is closed.
const lingerLimit = time.Second

// answer writes v as JSON.
func (x *exchange) answer(status int, v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // values of ours only: strings, numbers, booleans
	}
	h := x.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	x.WriteHeader(status)
	if _, err := x.Write(b.Bytes()); err != nil {
		x.log.Debug("the answer could not be sent", "error", err)
	}
}

// errorBody is what a client sees of an error. The contract promises Error.
type errorBody struct {
	Error string         `json:"error"`
	Code  dreamcore.Code `json:"code,omitempty"`
	Hint  string         `json:"hint,omitempty"`
}

// fail answers with an error: message and hint where they are the client's
// business, the cause to the log.
func (x *exchange) fail(err error) {
	status, body := describe(err)
	switch body.Code {
	case dreamcore.CodeConflict:
		x.retryAfter(retryConflict)
	case dreamcore.CodeBusy:
		x.retryAfter(retryBusy)
	case dreamcore.CodeUnauthorized:
		// The contract shows this answer in full.
		body = errorBody{Error: body.Error}
	}
	x.err = err
	x.answer(status, body)
}

// refuse is fail for a request whose body was not read, or not to its end. The
// connection is closed, because the rest of the body stands between it and the
// next request, and it may be long.
func (x *exchange) refuse(r *http.Request, err error) {
	x.leaveBody(r)
	x.fail(err)
}

// leaveBody prepares an answer before the end of the body.
func (x *exchange) leaveBody(r *http.Request) {
	if r.ContentLength != 0 {
		x.Header().Set("Connection", "close")
		_ = x.control.SetReadDeadline(time.Now().Add(lingerLimit))
	}
}

func (x *exchange) retryAfter(d time.Duration) {
	x.Header().Set("Retry-After", strconv.Itoa(int(d.Seconds())))
}

// describe tells the status and the body of an error. Only an error whose code
// says that the client can do something about it shows its text; all others
// may name paths and states of the machine.
func describe(err error) (int, errorBody) {
	status := http.StatusInternalServerError
	e, ok := errors.AsType[*dreamcore.Error](err)
	if ok {
		status = statusOf(e.Code)
	}
	if status == http.StatusInternalServerError {
		return status, errorBody{Error: internalMessage, Code: dreamcore.CodeInternal}
	}
	return status, errorBody{Error: e.Message, Code: e.Code, Hint: e.Hint}
}

func statusOf(code dreamcore.Code) int {
	switch code {
	case dreamcore.CodeInvalid:
		return http.StatusBadRequest
	case dreamcore.CodeUnauthorized:
		return http.StatusUnauthorized
	case dreamcore.CodeNotFound:
		return http.StatusNotFound
	case codeMethod:
		return http.StatusMethodNotAllowed
	case codeEncoding:
		return http.StatusUnsupportedMediaType
	case codeSlow:
		return http.StatusRequestTimeout
	case dreamcore.CodeConflict:
		return http.StatusConflict
	case dreamcore.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case dreamcore.CodeBusy:
		return http.StatusTooManyRequests
	}
	return http.StatusInternalServerError
}
