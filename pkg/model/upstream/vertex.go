package upstream

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
)

const (
	messagesPath    = "/v1/messages"
	countTokensPath = "/v1/messages/count_tokens"

	vertexVersion = `"vertex-2023-10-16"`
	versionMember = "anthropic_version"
)

// vertexModel is a model's name there. It comes from the sandbox where no line
// maps it, and becomes a part of a path.
var vertexModel = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._@-]*$`)

// vertexDialect is the Messages API as Google Vertex AI has it: the model and
// the kind of answer are in the path, the version is in the body.
type vertexDialect struct {
	entry   Entry
	tokens  *tokens
	dropped dropLog
}

func (d *vertexDialect) Request(ctx context.Context, base string, call gateway.Call) (*http.Request, []string, error) {
	if !vertexModel.MatchString(call.Model) || len(call.Model) > maxModelName {
		return nil, nil, noModel
	}
	token, err := d.tokens.get(ctx)
	if err != nil {
		return nil, nil, err
	}
	call, dropped := vertexKnows.filter(call)
	d.dropped.tell(dropped)
	models := base + "/v1/projects/" + url.PathEscape(d.entry.Project) + "/locations/" + d.entry.Region + "/publishers/anthropic/models/"
	set := map[string][]byte{versionMember: []byte(vertexVersion)}
	drop := []string{"model"}
	target := models + url.PathEscape(call.Model) + ":rawPredict"
	switch {
	case call.Path == countTokensPath:
		// One address counts for all models, so the body names it.
		target = models + "count-tokens:rawPredict"
		set["model"] = quote(call.Model)
	case call.Stream:
		target = models + url.PathEscape(call.Model) + ":streamRawPredict"
	}
	req, err := post(ctx, target, without(call.Body, drop, set), call.Header)
	if err != nil {
		return nil, nil, err
	}
	if betas := call.Header.Values("Anthropic-Beta"); len(betas) > 0 {
		req.Header["Anthropic-Beta"] = betas
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return req, []string{token}, nil
}

// Regional reports whether the location is any but the global one.
func (d *vertexDialect) Regional(gateway.Call) bool { return d.entry.Region != "global" }

// Answer turns Google's own errors into the API's. What the model's vendor
// answers passes through Vertex as it is.
func (d *vertexDialect) Answer(_ gateway.Call, resp *http.Response) {
	if resp.StatusCode == http.StatusUnauthorized {
		d.tokens.forget()
	}
	if resp.StatusCode < 400 {
		return
	}
	text, ok := errorText(resp)
	if !ok {
		return
	}
	type googleError struct {
		Error struct {
			Message string `json:"message"`
			Status  string `json:"status"`
		} `json:"error"`
	}
	var one googleError
	if json.Unmarshal(text, &one) != nil {
		// A stream's errors come as a list.
		var several []googleError
		if json.Unmarshal(text, &several) == nil && len(several) > 0 {
			one = several[0]
		}
	}
	status := resp.StatusCode
	if one.Error.Status == "RESOURCE_EXHAUSTED" {
		status = http.StatusTooManyRequests
	}
	gateway.ErrorBody(resp, status, "", one.Error.Message)
}
