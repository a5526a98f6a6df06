package gateway

import (
	"context"
	"errors"
	"net/http"
)

// Call is one model request: the parts of the sandbox's request that are sent.
type Call struct {
	Path   string      // "/v1/messages" or "/v1/messages/count_tokens"
	Query  string      // "" or "beta=true"
	Header http.Header // headers of the allow-list, without credentials
	Body   []byte      // one JSON object; the upstream must not change it
	Model  string      // the body's member model
	Stream bool        // the body's member stream
}

// Answer is the answer of an upstream.
type Answer struct {
	*http.Response
	Upstream string // the upstream's name
	Model    string // the upstream's name for the model; "" if the call named none
	// Repair is what the operator does if the upstream refuses its credential,
	// such as "replace the secret anthropic-api-key". If "", a general text.
	Repair string
	Own    bool // created here, without a request to the upstream
	// Regional reports that the endpoint is bound to one region, which costs more
	// than the global one.
	Regional bool
}

// Good reports whether this may be a successful answer of the Messages API: a
// proxy that requires a login answers 200 too. The body, which has not been read
// yet, decides in the end.
func (a *Answer) Good() bool {
	return a.StatusCode == http.StatusOK && a.Header.Get("Content-Encoding") == "" && a.ContentLength != 0 && mediaType(a.Header) != "text/html"
}

// Upstream answers calls.
//
// Send returns when the answer's status and header have arrived. The caller must
// close the Body, which ends the call. Cancelling ctx ends the call at any time,
// including reads of the Body. The error is ErrNoCredential or a failure of the
// connection; it never contains a key. Redirects are returned, not followed.
type Upstream interface {
	Send(ctx context.Context, call Call) (*Answer, error)
}

// ErrNoCredential reports that there is no usable key for the model API.
var ErrNoCredential = errors.New("no usable key for the model API")

// noUpstream replaces a missing upstream and refuses every call.
type noUpstream struct{}

func (noUpstream) Send(context.Context, Call) (*Answer, error) {
	return nil, ErrNoCredential
}
