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
}

// Upstream answers calls.
//
// Send returns when the answer's status and header are there; the caller
// closes the Body, which then ends everything of the call. Cancelling ctx ends
// the call at any time, reads of the Body included. The error is
// ErrNoCredential, or what went wrong on the way; it never holds a key.
// Redirects are returned, not followed.
type Upstream interface {
	Send(ctx context.Context, call Call) (*http.Response, error)
}

// ErrNoCredential reports that there is no usable key for the model API.
var ErrNoCredential = errors.New("no usable key for the model API")

// noUpstream stands in where none is configured, so that it fails closed.
type noUpstream struct{}

func (noUpstream) Send(context.Context, Call) (*http.Response, error) {
	return nil, ErrNoCredential
}
