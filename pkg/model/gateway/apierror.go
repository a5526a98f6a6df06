package gateway

import (
	"cmp"
	"encoding/json"
	"net/http"
	"strconv"
)

// apiError is an error answer of the gateway itself, in the API's error form.
type apiError struct {
	status  int
	message string
	kind    string // the API's error type; if "", the status determines it
	retry   retry
	after   string // value of the Retry-After header; "" if unset
}

// retry is the value of the x-should-retry header.
type retry int

const (
	retryByStatus retry = iota // no header: the CLI decides by the status
	retryNo
	retryYes
)

// never returns an apiError that must not be retried.
func never(status int, message string) *apiError {
	return &apiError{status: status, message: message, retry: retryNo}
}

const statusOverloaded = 529 // used by the API, not registered

// statusKinds maps statuses to the API's error types, other than the two general
// ones.
var statusKinds = map[int]string{
	http.StatusUnauthorized: "authentication_error", http.StatusPaymentRequired: "billing_error", http.StatusForbidden: "permission_error",
	http.StatusNotFound: "not_found_error", http.StatusRequestEntityTooLarge: "request_too_large", http.StatusTooManyRequests: "rate_limit_error",
	http.StatusGatewayTimeout: "timeout_error", http.StatusRequestTimeout: "timeout_error",
	statusOverloaded: "overloaded_error", http.StatusServiceUnavailable: "overloaded_error",
}

// kindOf returns the API's error type for a status.
func kindOf(status int) string {
	fallback := "api_error"
	if status < 500 {
		fallback = "invalid_request_error"
	}
	return cmp.Or(statusKinds[status], fallback)
}

// body returns e as one line of JSON.
func (e *apiError) body() []byte {
	type inner struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}
	b, err := json.Marshal(struct {
		Type  string `json:"type"`
		Error inner  `json:"error"`
	}{"error", inner{cmp.Or(e.kind, kindOf(e.status)), e.message}})
	if err != nil {
		panic("gateway: encode error: " + err.Error()) // two strings
	}
	return b
}

// event returns e as an event of a stream.
func (e *apiError) event() []byte {
	return append(append([]byte("event: error\ndata: "), e.body()...), "\n\n"...)
}

// write sends e as a complete answer. It is not an error if the client has
// disconnected.
func (e *apiError) write(w http.ResponseWriter) {
	b, h := e.body(), w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	switch e.retry {
	case retryNo:
		h.Set("X-Should-Retry", "false")
	case retryYes:
		h.Set("X-Should-Retry", "true")
	}
	if e.after != "" {
		h.Set("Retry-After", e.after)
	}
	w.WriteHeader(e.status)
	_, _ = w.Write(b)
}

func truncate(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
