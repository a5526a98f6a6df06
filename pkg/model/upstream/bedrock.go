package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
)

const (
	bedrockVersion = `"bedrock-2023-05-31"`
	bedrockService = "bedrock" // for which requests are signed, though the host is bedrock-runtime
	betaMember     = "anthropic_beta"

	eventStreamType = "application/vnd.amazon.eventstream"
)

// bedrockModel is a model's own name there. One that a sandbox chose may be
// nothing else: no ARN, which could be anybody's. A mapped name is the
// operator's choice.
var bedrockModel = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]*(:[0-9]+[a-z0-9]*)*$`)

// bedrockDialect is the Messages API as Amazon Bedrock has it: the model in the
// path, version and betas in the body, requests signed, streams in frames.
type bedrockDialect struct {
	entry       Entry
	credentials func() (aws.Credentials, error)
	now         func() time.Time
	dropped     dropLog
}

func (d *bedrockDialect) Request(ctx context.Context, base string, call gateway.Call) (*http.Request, []string, error) {
	if len(call.Model) > maxModelName || !bedrockModel.MatchString(call.Model) && !d.maps(call.Model) {
		return nil, nil, noModel
	}
	keys, err := d.credentials()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", gateway.ErrNoCredential, err)
	}
	call, dropped := bedrockKnows.filter(call)
	d.dropped.tell(dropped)
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

// maps tells whether name is one that the operator gave.
func (d *bedrockDialect) maps(name string) bool {
	for _, to := range d.entry.Models {
		if to == name {
			return true
		}
	}
	return false
}

// escapeModel makes a name one segment of a path: an ARN has colons and slashes.
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

// countBody wraps a body as CountTokens wants it: as InvokeModel would get it,
// and that needs a bound of the answer.
func countBody(body []byte) []byte {
	if !has(body, "max_tokens") {
		body = without(body, nil, map[string][]byte{"max_tokens": []byte("1")})
	}
	return []byte(`{"input":{"invokeModel":{"body":"` + base64.StdEncoding.EncodeToString(body) + `"}}}`)
}

// Regional reports whether the model is any but a profile for the whole world.
// An ARN does not say.
func (d *bedrockDialect) Regional(call gateway.Call) bool {
	return !strings.HasPrefix(call.Model, "global.")
}

// Answer makes Bedrock's answer the API's.
func (d *bedrockDialect) Answer(call gateway.Call, resp *http.Response) {
	if id := resp.Header.Get("X-Amzn-Requestid"); id != "" && resp.Header.Get("Request-Id") == "" {
		resp.Header.Set("Request-Id", id)
	}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode >= 400:
		bedrockError(resp)
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

// maxCount bounds the answer of CountTokens, which is one number.
const maxCount = 4 << 10

func bedrockCount(resp *http.Response) {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxCount))
	resp.Body.Close()
	var v struct {
		Tokens any `json:"inputTokens"`
	}
	_ = json.Unmarshal(raw, &v) // a body of another form says nothing
	// Proxies write numbers in several ways.
	n, numErr := strconv.ParseFloat(fmt.Sprint(v.Tokens), 64)
	if err != nil || numErr != nil || !(n >= 0 && n < 1<<40) {
		gateway.ErrorBody(resp, http.StatusBadGateway, "", "The count of tokens is not understood.")
		return
	}
	body := fmt.Sprintf(`{"input_tokens":%d}`, int64(n))
	resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	resp.Header.Set("Content-Type", "application/json")
}

// exceptions of Bedrock as the API's statuses, by name without its suffix and
// in lower case: streams begin them with a small letter.
var exceptions = map[string]int{
	"throttling":                 http.StatusTooManyRequests,
	"servicequotaexceeded":       http.StatusTooManyRequests,
	"modelnotready":              http.StatusTooManyRequests,
	"serviceunavailable":         statusOverloaded,
	"internalserver":             http.StatusInternalServerError,
	"modelerror":                 http.StatusInternalServerError,
	"modelstreamerror":           http.StatusInternalServerError,
	"modeltimeout":               http.StatusGatewayTimeout,
	"validation":                 http.StatusBadRequest,
	"resourcenotfound":           http.StatusNotFound,
	"accessdenied":               http.StatusForbidden,
	"unrecognizedclient":         http.StatusUnauthorized,
	"expiredtoken":               http.StatusUnauthorized,
	"invalidsignature":           http.StatusUnauthorized,
	"incompletesignature":        http.StatusUnauthorized,
	"missingauthenticationtoken": http.StatusUnauthorized,
	"invalidclienttokenid":       http.StatusUnauthorized,
	"requestexpired":             http.StatusUnauthorized,
}

// exceptionStatus is the API's status of an exception; a name that is not
// known has the one that came with it.
func exceptionStatus(name string, status int) int {
	name, _, _ = strings.Cut(name, ":") // an address may follow
	if i := strings.LastIndexByte(name, '#'); i >= 0 {
		name = name[i+1:] // and a name space precede
	}
	name = strings.ToLower(name)
	if s, ok := exceptions[strings.TrimSuffix(name, "exception")]; ok {
		return s
	}
	return status
}

// bedrockError turns an exception into an error of the API.
func bedrockError(resp *http.Response) {
	text, ok := errorText(resp)
	if !ok {
		return
	}
	// Members of both spellings are sent; encoding/json folds case.
	var v struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}
	_ = json.Unmarshal(text, &v) // a body of another form says nothing
	name := resp.Header.Get("X-Amzn-Errortype")
	if name == "" {
		name = v.Type
	}
	gateway.ErrorBody(resp, exceptionStatus(name, resp.StatusCode), "", v.Message)
}
