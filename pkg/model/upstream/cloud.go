package upstream

import (
	"bytes"
	"context"
	"errors"
	"net/http"
)

// post returns the request to a cloud. Of the sandbox's headers, only the
// User-Agent is sent: what the API has in headers, clouds have in the body.
func post(ctx context.Context, target string, body []byte, from http.Header) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("build the request for the cloud") // the cause contains the address
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", from.Get("User-Agent"))
	return req, nil
}
