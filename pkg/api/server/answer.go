package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// codeMethod is an error code used only in HTTP responses.
const codeMethod dreamcore.Code = "METHOD_NOT_ALLOWED"

// codeDisk is an error code of HTTP responses, and of the last event of a job: the
// machine has no space for what the request would write.
const codeDisk = dreamcore.Code(dreamcore.FailDisk)

// internalMessage is all that a client learns about an internal error.
const internalMessage = "Internal server error"

// How long a client should wait before it tries again.
const (
	retryConflict = 5 * time.Second  // the user's other generation may end soon
	retryStopping = 5 * time.Second  // the next process may serve soon
	retryMoving   = time.Second      // a small user moves in less
	retryBusy     = 10 * time.Second // a slot in the queue, or for a check
	retryDisk     = 30 * time.Second // an operator has to free space
)

// MovingHeader is set in the answer of a cell that has done nothing, because the user
// is being moved or lives in another cell. The router asks again.
const MovingHeader = "X-Dreamcore-Moving"

// lingerLimit is how long the rest of a refused body is still read, so that the
// client can read the response before the connection is closed.
const lingerLimit = time.Second

// answer writes v as JSON.
func (x *exchange) answer(status int, v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // only for unencodable types, which the service never sends
	}
	h := x.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	x.WriteHeader(status)
	if _, err := x.Write(b.Bytes()); err != nil {
		x.log.Debug("cannot send the response", "error", err)
	}
}

// errorBody is the body of an error response. The contract specifies Error.
type errorBody struct {
	Error string         `json:"error"`
	Code  dreamcore.Code `json:"code,omitempty"`
	Hint  string         `json:"hint,omitempty"`
	// UserMessage is a sentence for the player, if the error concerns the player.
	UserMessage string `json:"userMessage,omitempty"`
}

// fail responds with an error. The client gets its message and hint if the error
// concerns the client; the cause is only logged.
func (x *exchange) fail(err error) {
	status, body := describe(err)
	switch body.Code {
	case dreamcore.CodeConflict:
		x.retryAfter(retryConflict)
	case dreamcore.CodeBusy:
		x.retryAfter(retryBusy)
	case codeStopping:
		x.retryAfter(retryStopping)
	case dreamcore.CodeMoving:
		x.retryAfter(retryMoving)
		x.Header().Set(MovingHeader, "true")
	case codeDisk:
		x.retryAfter(retryDisk)
		body.UserMessage = dreamcore.Failure{Code: dreamcore.FailDisk}.UserMessage(x.lang())
	case dreamcore.CodeBlocked:
		body.UserMessage = dreamcore.BlockedMessage(x.lang())
	case dreamcore.CodeUnauthorized:
		// The contract specifies this body exactly.
		body = errorBody{Error: body.Error}
	}
	x.err = err
	x.answer(status, body)
}

// refuse is fail for a request whose body was not read completely. It closes the
// connection, because the rest of the body, which may be long, precedes the next
// request.
func (x *exchange) refuse(r *http.Request, err error) {
	x.leaveBody(r)
	x.fail(err)
}

// leaveBody prepares a response that is sent before the body was read.
func (x *exchange) leaveBody(r *http.Request) {
	if r.ContentLength != 0 {
		x.Header().Set("Connection", "close")
		_ = x.Control.SetReadDeadline(time.Now().Add(lingerLimit))
	}
}

func (x *exchange) retryAfter(d time.Duration) {
	x.Header().Set("Retry-After", strconv.Itoa(int(d.Seconds())))
}

// describe returns the status and the body for an error. Only errors that the
// client can act on, according to their code, keep their text; others may
// contain paths and internal state.
func describe(err error) (int, errorBody) {
	status := http.StatusInternalServerError
	e, ok := errors.AsType[*dreamcore.Error](err)
	if ok {
		status = statusOf(e.Code)
	}
	switch {
	case status == http.StatusInternalServerError && statefile.IsFull(err):
		return http.StatusServiceUnavailable, errorBody{
			Error: "The disk of the service is full", Code: codeDisk,
			Hint: "send the request again later; the operator has to free space on the disk of the state directory",
		}
	case status == http.StatusInternalServerError:
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
	case codeOrigin, dreamcore.CodeBlocked:
		return http.StatusForbidden
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
	case codeExpired:
		return http.StatusGone
	case codeKeyReused:
		return http.StatusUnprocessableEntity
	case dreamcore.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case dreamcore.CodeBusy:
		return http.StatusTooManyRequests
	case codeStopping, dreamcore.CodeMoving:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
