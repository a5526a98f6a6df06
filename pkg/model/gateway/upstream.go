package gateway

import (
	"context"
	"errors"
	"net/http"
)

// Call is one request for the model: all that is left of the sandbox's.
type Call struct {
	Path   string      // "/v1/messages" or "/v1/messages/count_tokens"
	Query  string      // "" or "beta=true"
	Header http.Header // headers of the allow-list, no credential among them
	Body   []byte      // one JSON object; the upstream must not change it
	Model  string      // the body's member model
	Stream bool        // the body's member stream
}

// Answer is what an upstream answers, and who that was.
type Answer struct {
	*http.Response
	Upstream string // its name
	Model    string // the name under which it was asked for the model; "" where the call named none
	// Repair is what ends a refusal of the upstream's credential: a command for
	// the operator. "" is that of the vendor's key.
	Repair string
	Own    bool // it was made here, without asking the upstream
	// Regional reports that the model was asked at an endpoint of one region,
	// which costs more than the global one.
	Regional bool
}

// Good tells whether the answer may be one that the Messages API gives to a
// request that it takes: a proxy that wants a login also answers 200. Its bytes
// decide, but they have not been read yet.
func (a *Answer) Good() bool {
	return a.StatusCode == http.StatusOK && a.Header.Get("Content-Encoding") == "" && a.ContentLength != 0 && mediaType(a.Header) != "text/html"
}

// Upstream answers calls.
//
// Send returns when the answer's status and header are there; the caller
// closes the Body, which then ends everything of the call. Cancelling ctx ends
// the call at any time, reads of the Body included. The error is
// ErrNoCredential, or what went wrong on the way; it never holds a key.
// Redirects are returned, not followed.
type Upstream interface {
	Send(ctx context.Context, call Call) (*Answer, error)
}

// ErrNoCredential reports that there is no usable key for the model API.
var ErrNoCredential = errors.New("no usable key for the model API")

// noUpstream stands in where none is configured, so that it fails closed.
type noUpstream struct{}

func (noUpstream) Send(context.Context, Call) (*Answer, error) {
	return nil, ErrNoCredential
}
