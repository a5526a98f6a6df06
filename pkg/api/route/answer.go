package route

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Codes of errors that only a router has. Clients see whose fault it is: nothing has
// been done, except perhaps with codeLost.
const (
	codeAway   dreamcore.Code = "CELL_AWAY"          // the cell does not answer: 503
	codeMoving                = dreamcore.CodeMoving // the user is being moved: 503
	codeRouter dreamcore.Code = "ROUTER"             // the router has no map, or too much to hold: 503
	codeLost   dreamcore.Code = "CELL_LOST"          // the cell took the request and did not answer: 502
	codeSlow   dreamcore.Code = "REQUEST_TIMEOUT"
	codeMethod dreamcore.Code = "METHOD_NOT_ALLOWED"
)

// retryAfter is when a client should come back.
const retryAfter = 5 * time.Second

// fault is why no cell can be asked.
type fault string

const (
	faultNoMap  fault = "no_map"
	faultNoCell fault = "no_cell"
	faultAway   fault = "away"
	faultMoving fault = "moving"
	faultFull   fault = "full" // too many requests are held
)

// errFault returns the error for a request that could not be held any longer.
func errFault(f fault, cell string) error {
	e := &dreamcore.Error{Code: codeAway, Message: "The service does not answer at the moment", Hint: "send the request again after the time in Retry-After"}
	switch {
	case f == faultNoMap:
		e.Code, e.Message = codeRouter, "The router does not know its cells yet"
	case f == faultAway && cell != "":
		e.Message = "The cell " + cell + " does not answer at the moment"
	case f == faultMoving:
		e.Code, e.Message = codeMoving, "The user is being moved to another cell"
	case f == faultFull:
		e.Code, e.Message = codeRouter, "The router holds too many requests for cells that do not answer"
	}
	return e
}

func errLost(cell string, cause error) error {
	if cell == "" {
		cell = "of the user"
	}
	return &dreamcore.Error{
		Code: codeLost, Message: "The cell " + cell + " has ended before it answered", Err: cause,
		Hint: "the request may have been carried out: look before you send it again, or repeat it with the same Idempotency-Key",
	}
}

func errTooLarge(limit int64) error {
	return &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: "Request body too large", Hint: fmt.Sprintf("send at most %d bytes", limit)}
}

func statusOf(code dreamcore.Code) int {
	switch code {
	case dreamcore.CodeInvalid:
		return http.StatusBadRequest
	case dreamcore.CodeNotFound:
		return http.StatusNotFound
	case codeMethod:
		return http.StatusMethodNotAllowed
	case codeSlow:
		return http.StatusRequestTimeout
	case dreamcore.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case codeAway, codeMoving, codeRouter:
		return http.StatusServiceUnavailable
	case codeLost:
		return http.StatusBadGateway
	}
	return http.StatusInternalServerError
}

// errorBody is the body of an error, as the servers write it.
type errorBody struct {
	Error string         `json:"error"`
	Code  dreamcore.Code `json:"code"`
	Hint  string         `json:"hint,omitempty"`
}

// fail answers with an error in the form of the contract.
func (x *exchange) fail(err error) {
	if x.Status() != 0 {
		panic(http.ErrAbortHandler) // the client must not mistake this for the end
	}
	e, ok := errors.AsType[*dreamcore.Error](err)
	if !ok || statusOf(e.Code) == http.StatusInternalServerError {
		x.err = err
		e = &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "Internal server error"}
	}
	status := statusOf(e.Code)
	if status >= http.StatusInternalServerError {
		x.err = err
	}
	if status == http.StatusServiceUnavailable || status == http.StatusBadGateway {
		x.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	}
	if x.r.ContentLength != 0 && !x.bodyRead { // the rest of the body comes before the next request
		x.Header().Set("Connection", "close")
	}
	x.answer(status, errorBody{e.Message, e.Code, e.Hint})
}

// answer answers with JSON.
func (x *exchange) answer(status int, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // only for types that are not sent
	}
	x.send(status, append(raw, '\n'))
}

func (x *exchange) send(status int, body []byte) {
	h := x.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.WriteHeader(status)
	_, _ = x.Write(body) // an error means that the client is gone
}
