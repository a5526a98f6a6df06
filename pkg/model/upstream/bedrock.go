package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

const (
	bedrockVersion = `"bedrock-2023-05-31"`
	bedrockService = "bedrock" // the service name in signatures, although the host is bedrock-runtime
	betaMember     = "anthropic_beta"

	eventStreamType = "application/vnd.amazon.eventstream"
)

// bedrockModel matches the name of a model at Bedrock. A name chosen by a sandbox
// must match: an ARN could belong to any account. The operator may map names to
// ARNs.
var bedrockModel = pattern.New(`^[a-zA-Z0-9][a-zA-Z0-9._-]*(:[0-9]+[a-z0-9]*)*$`)

// bedrockDialect is Amazon Bedrock's variant of the Messages API: the model is in
// the path, version and betas are in the body, requests are signed, and streams
// consist of frames.
type bedrockDialect struct {
	entry       Entry
	credentials func() (aws.Credentials, error)
	now         func() time.Time
	dropped     dropLog
}

func (d *bedrockDialect) Request(ctx context.Context, base string, call gateway.Call) (*http.Request, []string, error) {
	if len(call.Model) > maxModelName || !bedrockModel().MatchString(call.Model) && !d.maps(call.Model) {
		return nil, nil, gateway.ErrNoModel
	}
	keys, err := d.credentials()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", gateway.ErrNoCredential, err)
	}
	call, dropped := bedrockKnows.filter(call)
	d.dropped.log(dropped)
	body := bedrockBody(call)
	action := "/invoke"
	switch {
	case call.Path == countTokensPath:
		action, body = "/count-tokens", countBody(body)
	case call.Stream:
		action = "/invoke-with-response-stream"
	}
	req, err := post(ctx, base+"/model/"+escapeModel(call.Model)+action, body, call.Header)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(body)
	signer := v4.NewSigner()
	if err := signer.SignHTTP(ctx, keys, req, hex.EncodeToString(sum[:]), bedrockService, d.entry.Region, d.now()); err != nil {
		return nil, nil, fmt.Errorf("sign the request for Bedrock: %w", err)
	}
	secrets := []string{keys.SecretAccessKey}
	if keys.SessionToken != "" {
		secrets = append(secrets, keys.SessionToken)
	}
	return req, secrets, nil
}

// maps reports whether the operator mapped a model to name.
func (d *bedrockDialect) maps(name string) bool {
	return slices.Contains(slices.Collect(maps.Values(d.entry.Models)), name)
}

// escapeModel escapes a name for one segment of a path: an ARN contains colons
// and slashes.
func escapeModel(name string) string {
	return strings.ReplaceAll(url.PathEscape(name), ":", "%3A")
}

func bedrockBody(call gateway.Call) []byte {
	set := map[string][]byte{versionMember: []byte(bedrockVersion)}
	betas, _ := bedrockKnows.split(call.Header)
	if len(betas) > 0 {
		set[betaMember] = quote(betas)
	}
	return without(call.Body, []string{"model", "stream", betaMember}, set)
}

// countBody wraps a body for CountTokens, which takes the body of InvokeModel.
// That requires max_tokens.
func countBody(body []byte) []byte {
	has := false
	for m := range gateway.Members(body) {
		has = has || m.Name == "max_tokens"
	}
	if !has {
		body = without(body, nil, map[string][]byte{"max_tokens": []byte("1")})
	}
	return []byte(`{"input":{"invokeModel":{"body":"` + base64.StdEncoding.EncodeToString(body) + `"}}}`)
}

// Regional reports whether the model is not a global inference profile. An ARN
// counts as regional, since it does not tell.
func (d *bedrockDialect) Regional(call gateway.Call) bool {
	return !strings.HasPrefix(call.Model, "global.")
}

// Answer converts Bedrock's answer to the API's.
func (d *bedrockDialect) Answer(call gateway.Call, resp *http.Response) {
	if id := resp.Header.Get("X-Amzn-Requestid"); id != "" && resp.Header.Get("Request-Id") == "" {
		resp.Header.Set("Request-Id", id)
	}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode >= 400:
		gateway.TranslateError(resp, resp.Header.Get("X-Amzn-Errortype"))
	case resp.StatusCode != http.StatusOK:
	case media == eventStreamType:
		resp.Body = newEvents(resp.Body)
		resp.ContentLength = -1
		resp.Header.Set("Content-Type", "text/event-stream; charset=utf-8")
		resp.Header.Del("Content-Length")
	case call.Path == countTokensPath:
		bedrockCount(resp)
	}
}

// maxCount bounds the answer of CountTokens, which contains one number.
const maxCount = 4 << 10

func bedrockCount(resp *http.Response) {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxCount))
	resp.Body.Close()
	var v struct {
		Tokens any `json:"inputTokens"`
	}
	_ = json.Unmarshal(raw, &v) // a body in another form has no number
	// Proxies use several notations of numbers.
	n, numErr := strconv.ParseFloat(fmt.Sprint(v.Tokens), 64)
	if err != nil || numErr != nil || !(n >= 0 && n < 1<<40) {
		gateway.SetError(resp, http.StatusBadGateway, "The number of tokens in the answer is invalid.")
		return
	}
	gateway.SetBody(resp, fmt.Appendf(nil, `{"input_tokens":%d}`, int64(n)))
	resp.Header.Set("Content-Type", "application/json")
}
