package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
)

// noModel answers a request for a model whose name cannot be one there: the
// next upstream may have it.
var noModel = &gateway.Refusal{Status: http.StatusNotFound, Message: "This model is not available here."}

// post makes the request to a cloud. Of the sandbox's headers only its name
// goes there: what the API has in headers, clouds have in the body.
func post(ctx context.Context, target string, body []byte, from http.Header) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("build the request for the cloud") // the cause quotes the address
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", from.Get("User-Agent"))
	return req, nil
}

// errorText reads the body of an error answer, which is in memory, and puts it
// back. ok tells whether it is in need of translation.
func errorText(resp *http.Response) (text []byte, ok bool) {
	text, _ = io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(text))
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("<")) {
		return text, false // a page of something in front of the cloud: seen as what it is
	}
	return text, !bytes.Contains(text, []byte(`"type":"error"`)) && !bytes.Contains(text, []byte(`"type": "error"`))
}
