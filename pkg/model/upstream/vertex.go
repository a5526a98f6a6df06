package upstream

import (
	"context"
	"net/http"
	"net/url"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

const (
	messagesPath    = "/v1/messages"
	countTokensPath = "/v1/messages/count_tokens"

	vertexVersion = `"vertex-2023-10-16"`
	versionMember = "anthropic_version"
)

// vertexModel matches the name of a model at Vertex. It comes from the sandbox
// unless an entry maps it, and becomes part of a path.
var vertexModel = pattern.New(`^[a-zA-Z0-9][a-zA-Z0-9._@-]*$`)

// vertexDialect is Google Vertex AI's variant of the Messages API: the model and
// the kind of answer are in the path, the version is in the body.
type vertexDialect struct {
	entry   Entry
	tokens  *tokens
	dropped dropLog
}

func (d *vertexDialect) Request(ctx context.Context, base string, call gateway.Call) (*http.Request, []string, error) {
	if !vertexModel().MatchString(call.Model) || len(call.Model) > maxModelName {
		return nil, nil, gateway.ErrNoModel
	}
	token, err := d.tokens.get(ctx)
	if err != nil {
		return nil, nil, err
	}
	call, dropped := vertexKnows.filter(call)
	d.dropped.log(dropped)
	models := base + "/v1/projects/" + url.PathEscape(d.entry.Project) + "/locations/" + d.entry.Region + "/publishers/anthropic/models/"
	set := map[string][]byte{versionMember: []byte(vertexVersion)}
	drop := []string{"model"}
	target := models + url.PathEscape(call.Model) + ":rawPredict"
	switch {
	case call.Path == countTokensPath:
		// Counting has one address for all models, so the body names the model.
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

// Regional reports whether the location is not the global one.
func (d *vertexDialect) Regional(gateway.Call) bool { return d.entry.Region != "global" }

// Answer converts Google's own errors to the API's. Vertex forwards answers of
// the model's vendor unchanged.
func (d *vertexDialect) Answer(_ gateway.Call, resp *http.Response) {
	if resp.StatusCode == http.StatusUnauthorized {
		d.tokens.forget()
	}
	if resp.StatusCode >= 400 {
		gateway.TranslateError(resp, "")
	}
}
