package gateway

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

// upstreamError is the content of an error of the API, in any known form.
type upstreamError struct {
	kind    string // the API's error type; "" if the body does not have its form
	message string
	status  int  // named in the body itself; 0 if none
	page    bool // the body is HTML: it is from something in front of the API
}

// Bounds of the parts of an error that are forwarded or logged.
const (
	maxErrorMessage = 4 << 10
	maxErrorKind    = 64
)

// isError reports whether a JSON object with status 200 is an error.
func isError(body []byte) bool {
	v := members(body)
	if _, ok := v["content"]; ok {
		return false
	}
	e := v["error"]
	return textOf(v["type"]) == "error" || len(e) > 0 && (e[0] == '{' || e[0] == '"')
}

// parseUpstreamError reads the API's form, and those of the clouds and of
// common proxies: the member error may be a string, or missing.
func parseUpstreamError(body []byte) (e upstreamError) {
	body = bytes.TrimSpace(body)
	if bytes.HasPrefix(body, []byte("<")) {
		e.page = true
		return e
	}
	var list []json.RawMessage
	if bytes.HasPrefix(body, []byte("[")) && json.Unmarshal(body, &list) == nil && len(list) > 0 {
		body = list[0] // Google's form in a stream
	}
	top := members(body)
	inner := members(top["error"])
	e.kind = cmp.Or(textOf(inner["type"]), textOf(inner["status"]), textOf(inner["code"]), textOf(top["__type"]))
	if inner == nil && e.kind == "" && textOf(top["type"]) != "error" {
		e.kind = textOf(top["type"])
	}
	if len(e.kind) > maxErrorKind {
		e.kind = ""
	}
	e.message = truncate(cmp.Or(textOf(inner["message"]), textOf(top["error"]), textOf(top["message"]), textOf(top["Message"]), textOf(top["detail"])), maxErrorMessage)
	for _, raw := range []json.RawMessage{inner["code"], inner["status"], top["code"], top["status"], top["statusCode"]} {
		if n := numberOf(raw); e.status == 0 && n >= 400 && n < 600 {
			e.status = int(n)
		}
	}
	return e
}

// kinds maps error types to statuses: the types of the API, of Google, of Amazon
// (without their suffix "Exception") and of common proxies, in lower case.
var kinds = map[string]int{
	"invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
	"not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "timeout_error": 504,
	"overloaded_error": statusOverloaded,

	"invalid_argument": 400, "failed_precondition": 400, "unauthenticated": 401, "permission_denied": 403, "not_found": 404,
	"resource_exhausted": 429, "internal": 500, "unavailable": 503, "deadline_exceeded": 504,

	"validation": 400, "unrecognizedclient": 401, "expiredtoken": 401, "requestexpired": 401, "invalidclienttokenid": 401,
	"invalidsignature": 401, "incompletesignature": 401, "missingauthenticationtoken": 401, "accessdenied": 403,
	"resourcenotfound": 404, "throttling": 429, "servicequotaexceeded": 429, "modelnotready": 429, "internalserver": 500,
	"modelerror": 500, "modelstreamerror": 500, "modeltimeout": 504, "serviceunavailable": statusOverloaded,

	"rate_limit_exceeded": 429, "too_many_requests": 429, "insufficient_quota": 402, "server_error": 500, "overloaded": statusOverloaded,
}

// KindStatus returns the API's status for an error type, or status if it is
// unknown. Around Amazon's types there may be a namespace and a URL.
func KindStatus(kind string, status int) int {
	kind, _, _ = strings.Cut(kind, ":")
	kind = kind[strings.LastIndexByte(kind, '#')+1:]
	if s, ok := kinds[strings.TrimSuffix(strings.ToLower(kind), "exception")]; ok {
		return s
	}
	return status
}

var busy = pattern.New(`(?i)overload|too many requests|rate.?limit|over capacity|at capacity|throttl|resource.?exhausted|temporarily unavailable`)

// statusOr returns the status of an error that came without one, such as an
// event of a stream; status is the default.
func (e upstreamError) statusOr(status int) int {
	if s := KindStatus(e.kind, http.StatusInternalServerError); s != http.StatusInternalServerError {
		return s
	}
	if e.status == 0 && busy().MatchString(e.message) {
		return statusOverloaded
	}
	if e.status != 0 {
		return e.status
	}
	return status
}

// fault is the cause of a failed answer, and what the sandbox and the operator
// see of it.
type fault struct {
	code    dreamcore.FailureCode // "" if the request itself is the cause
	message string                // for the sandbox
	tooLong bool                  // the request is longer than the model accepts
	alarm   string                // for the operator, if only the operator can fix it: the setting and what to do
	attrs   []any
	noModel bool // with an alarm: another model may work
}

// Patterns that distinguish errors with the same status. They match the texts of
// the vendor, the clouds and common proxies.
var (
	saysNoCredit = pattern.New(`(?i)credit balance is too low|insufficient.(quota|credit|funds|balance)|billing|reached your specified (workspace )?(api )?usage limit|organization has been disabled|payment required`)
	saysNoModel  = pattern.New(`(?i)^model: |\bmodel.?(identifier|id|name)s?\b.{0,200}\b(is )?(invalid|not valid|not found|unknown)` +
		`|\b(invalid|unknown|unrecognized|unsupported|no such) model\b|on-demand throughput isn|access to the model` +
		`|\bmodel\b.{0,200}\b(was not found|is not found|not found|does not exist|doesn't exist|end of its life|is not available|(is|has been) (deprecated|retired))`)
	saysTooLong = pattern.New(`(?i)(prompt|input|request|context) (is|are) too (long|large)|exceeds? (the )?(model's )?(context|maximum)|too many (input )?tokens|context (length|window|limit)`)
	saysBeta    = pattern.New(`(?i)invalid beta flag|anthropic-beta|extra inputs are not permitted|extraneous key`)
)

// noCredit reports whether the account of the key has no credit left.
func noCredit(status int, reported upstreamError) bool {
	return status == http.StatusPaymentRequired || reported.kind == "billing_error" || strings.EqualFold(reported.kind, "insufficient_quota") ||
		(status == 400 || status == 403 || status == 429) && saysNoCredit().MatchString(reported.message)
}

// NoCredit reports whether an error answer means that the account of the key
// has no credit left.
func NoCredit(status int, body []byte) bool { return noCredit(status, parseUpstreamError(body)) }

// faultOf classifies an error of the API. answer is nil if it came in a stream.
func (x *exchange) faultOf(answer *Answer, status int, reported upstreamError) *fault {
	key, own := defaultRepair, false
	if answer != nil {
		key, own = cmp.Or(answer.Repair, defaultRepair), answer.Own
	}
	is := func(code dreamcore.FailureCode, message string) *fault { return &fault{code: code, message: message} }
	switch {
	case noCredit(status, reported):
		return &fault{alarm: "the model API refuses to work for this account: check its credit and billing, or " + key}
	case reported.page && status != 408 && status != 413 && status != 429 && status < 500:
		return &fault{alarm: "something in front of the model API (a firewall, a proxy, a login) rejects requests with a page of HTML: check the address in the setting upstream (or base_url in upstreams) and HTTPS_PROXY"}
	case status == 407:
		return &fault{alarm: "the outgoing proxy requires a login: check HTTPS_PROXY"}
	case !x.counts && (status == 404 || status == 405 || status == 501):
		return is("", "The model API does not count tokens.") // true of many proxies; the CLI continues without it
	case own || status == 404 || status == 400 && saysNoModel().MatchString(reported.message) || status == 403 && strings.Contains(reported.message, "access to the model"):
		return x.noModel(status, reported, own)
	case status == 401 || status == 403:
		return &fault{alarm: "the model API refuses the key: " + key}
	case status == 405:
		return &fault{alarm: "the address of the model API does not accept messages: check the setting upstream (or base_url in upstreams)"}
	case status == 400 && saysBeta().MatchString(reported.message) && !strings.HasPrefix(reported.message, "messages."): // those are of the conversation
		return &fault{alarm: "the model API does not know a beta flag or a field that the agent sends: use an upstream that supports the agent's version of the Messages API, or kind bedrock or vertex for those clouds (setting upstreams)"}
	case status == 429 || status == statusOverloaded || status == 503 || status >= 500 && reported.statusOr(status) == statusOverloaded:
		return is(dreamcore.FailRateLimit, "The model API is busy.")
	case status == 408 || status == 504 || status == 524:
		return is(dreamcore.FailAPITimeout, "The model API took too long to answer.")
	case status >= 500:
		return is(dreamcore.FailNetwork, "The model API has a problem.")
	}
	f := is("", reported.message)
	if f.message == "" {
		f.message = "The model API refused the request."
	}
	f.tooLong = status == 413 || status == 400 && saysTooLong().MatchString(reported.message)
	return f
}

// noModel returns the fault of a model name that the upstream does not have.
func (x *exchange) noModel(status int, reported upstreamError, own bool) *fault {
	asked, answered, up := x.model, x.use.spent.Model, x.use.spent.Upstream
	f := &fault{noModel: true, attrs: []any{"model", truncate(asked, 128)}}
	switch {
	case answered != "":
		f.attrs = append(f.attrs, "asked_as", truncate(answered, 256), "setting", "upstreams."+up+".models")
		f.alarm = "the upstream does not have the model that its models name: correct the entry for " + truncate(asked, 128) + " in the setting upstreams." + up + ".models"
	case own || status != 404:
		f.attrs = append(f.attrs, "setting", "model, upstreams."+up+".models")
		f.alarm = "the upstream does not have the model that the agent requests: set model to one that it has, or add an entry for it to its models (settings model and upstreams." + up + ".models)"
	case saysNoModel().MatchString(reported.message) || strings.Contains(strings.ToLower(reported.message), "model"):
		f.attrs = append(f.attrs, "setting", "model")
		f.alarm = "the model API does not have the model that the agent requests: set model to one that it has (setting model; for an upstream that uses other names, its models in upstreams)"
	default:
		f.attrs = append(f.attrs, "setting", "upstream, model")
		f.alarm = "the model API does not have this address or model: check the settings upstream (or base_url in upstreams) and model"
	}
	return f
}

// maxRetryAfter bounds the wait that an upstream may request.
const maxRetryAfter = time.Minute

// RetryAfter returns the wait that an answer requests in its Retry-After header:
// a number of seconds or a date. It is 0 if the header is missing, and at most a
// minute.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	bound := func(d time.Duration) time.Duration { return min(max(d, 0), maxRetryAfter) }
	text := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseFloat(text, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		if !(n > 0) {
			return 0
		}
		return bound(time.Duration(min(n, maxRetryAfter.Seconds()) * float64(time.Second)))
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	if sent, err := http.ParseTime(h.Get("Date")); err == nil {
		now = sent // the upstream's clock may differ from ours
	}
	return bound(at.Sub(now))
}

// seconds formats d as a number of seconds, the only form of Retry-After that
// the CLI reads. It returns "" for 0.
func seconds(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return strconv.FormatInt(int64(math.Ceil(d.Seconds())), 10)
}
