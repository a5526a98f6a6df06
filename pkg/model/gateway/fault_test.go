package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func apiErr(kind, message string) string {
	return `{"type":"error","error":{"type":"` + kind + `","message":"` + message + `"}}`
}

// The cause of an error determines the message for the player. Nothing is
// charged, since the model generated no answer.
func TestErrorsAreClassifiedByCause(t *testing.T) {
	const (
		auth    = dreamcore.FailAuth
		rate    = dreamcore.FailRateLimit
		request = dreamcore.FailureCode("")
	)
	for name, tc := range map[string]struct {
		status  int
		body    string
		want    dreamcore.FailureCode
		answers int
		log     string // in an alarm
	}{
		"529":                                 {529, apiErr("overloaded_error", "Overloaded"), rate, 529, ""},
		"529 without a body":                  {529, "", rate, 529, ""},
		"503":                                 {503, "<html>busy</html>", rate, 503, ""},
		"500 that says overloaded":            {500, apiErr("overloaded_error", "Overloaded"), rate, 500, ""},
		"500 in words":                        {500, apiErr("api_error", "The model is Overloaded"), rate, 500, ""},
		"200 and an error":                    {200, apiErr("overloaded_error", "Overloaded"), rate, 529, ""},
		"200 and a rate limit":                {200, apiErr("rate_limit_error", "slow down"), rate, 429, ""},
		"200 and an error as a text":          {200, `{"error":"Overloaded, try again"}`, rate, 529, ""},
		"200 and Google's error":              {200, `{"error":{"code":429,"message":"Quota","status":"RESOURCE_EXHAUSTED"}}`, rate, 429, ""},
		"200 and a list of errors":            {503, `[{"error":{"code":503,"message":"x","status":"UNAVAILABLE"}}]`, rate, 503, ""},
		"200 and Amazon's error":              {200, `{"error":{"message":"slow","code":"ThrottlingException"}}`, rate, 429, ""},
		"200 and nothing":                     {200, "", rate, 529, ""},
		"200 and blanks":                      {200, " \n\n", rate, 529, ""},
		"200 and a ping":                      {200, "data: {\"type\":\"ping\"}\n\n", rate, 529, ""},
		"an error as the first event":         {200, "data: " + apiErr("overloaded_error", "Overloaded") + "\n\n", rate, 529, ""},
		"an error after a ping":               {200, "data: {\"type\":\"ping\"}\n\nevent: error\ndata: " + apiErr("overloaded_error", "x") + "\n\n", rate, 529, ""},
		"an error without its blank line":     {200, "data: " + apiErr("overloaded_error", "Overloaded"), rate, 529, ""},
		"an error event in words":             {200, "data: {\"type\":\"error\",\"error\":\"Overloaded\"}\n\n", rate, 529, ""},
		"an error event without JSON":         {200, "data:x\nevent: error\n\n", dreamcore.FailNetwork, 500, ""},
		"a timeout as the first event":        {200, "data: " + apiErr("timeout_error", "x") + "\n\n", dreamcore.FailAPITimeout, 504, ""},
		"a refused key as the first event":    {200, "data: " + apiErr("authentication_error", "x") + "\n\n", auth, 401, "replace its key"},
		"200 and a problem":                   {200, apiErr("api_error", "Internal"), dreamcore.FailNetwork, 500, ""},
		"200 and a bad request":               {200, apiErr("invalid_request_error", "messages: x"), request, 400, ""},
		"no such model":                       {404, apiErr("not_found_error", "model: claude-sonet-5"), auth, 404, "setting=model"},
		"no such model, another proxy":        {404, `{"error":{"type":"api_error","message":"model 'x' not found, try pulling it first"}}`, auth, 404, "setting=model"},
		"no such address":                     {404, "<html>nginx</html>", auth, 401, "setting upstream"},
		"no such address in JSON":             {404, `{"detail":"Not Found"}`, auth, 404, "upstream"},
		"Bedrock's invalid name":              {400, `{"message":"The provided model identifier is invalid."}`, auth, 404, "models"},
		"Bedrock's inference profile":         {400, apiErr("invalid_request_error", "Invocation of model ID anthropic.claude-x with on-demand throughput isn’t supported."), auth, 404, "models"},
		"Bedrock's access":                    {403, apiErr("permission_error", "You don't have access to the model with the specified model ID."), auth, 404, "models"},
		"Vertex's publisher":                  {404, `{"error":{"code":404,"message":"Publisher Model x was not found","status":"NOT_FOUND"}}`, auth, 404, "setting=model"},
		"an invalid model in a proxy's words": {400, `{"error":{"message":"Invalid model name passed in model=x","type":"None"}}`, auth, 404, "models"},
		"no credit":                           {400, apiErr("invalid_request_error", "Your credit balance is too low to access the API."), auth, 401, "replace its key"},
		"no credit, 402":                      {402, "", auth, 401, "credit"},
		"no credit, 403":                      {403, apiErr("billing_error", "x"), auth, 401, "credit"},
		"Google's billing":                    {403, `{"error":{"code":403,"message":"This API method requires billing to be enabled.","status":"PERMISSION_DENIED"}}`, auth, 401, "credit"},
		"no quota, 429":                       {429, `{"error":{"type":"insufficient_quota","message":"x"}}`, auth, 401, "credit"},
		"a limit of the workspace":            {400, apiErr("invalid_request_error", "You have reached your specified API usage limits. You will regain access on 2026-12-01."), auth, 401, "credit"},
		"an organization that is off":         {400, apiErr("invalid_request_error", "This organization has been disabled."), auth, 401, "credit"},
		"200 and no credit":                   {200, apiErr("billing_error", "x"), auth, 401, "credit"},
		"a refused key":                       {401, apiErr("authentication_error", "x"), auth, 401, "replace its key"},
		"a firewall":                          {403, "<html><title>Attention Required!</title>", auth, 401, "setting upstream"},
		"a firewall with 406":                 {406, "\n<!DOCTYPE html>", auth, 401, "setting upstream"},
		"a proxy that wants a login":          {407, "", auth, 401, "HTTPS_PROXY"},
		"an address for other things":         {405, "", auth, 401, "setting upstream"},
		"a beta":                              {400, apiErr("invalid_request_error", "Unexpected value(s) `x` for the `anthropic-beta` header."), auth, 401, "upstreams"},
		"Bedrock's beta":                      {400, `{"message":"invalid beta flag"}`, auth, 401, "upstreams"},
		"a field":                             {400, apiErr("invalid_request_error", "context_management: Extra inputs are not permitted"), auth, 401, "upstreams"},
		"a field of the conversation":         {400, apiErr("invalid_request_error", "messages.3.content.0.thinking.display: Extra inputs are not permitted"), request, 400, ""},
		"a bad request":                       {400, apiErr("invalid_request_error", "messages.3: tool_use ids without tool_result"), request, 400, ""},
		"a model in a bad request":            {400, apiErr("invalid_request_error", "This model does not support assistant message prefill."), request, 400, ""},
		"too long":                            {400, apiErr("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), request, 400, ""},
		"too long for Bedrock":                {400, `{"message":"Input is too long for requested model."}`, request, 400, ""},
		"too large":                           {413, "<html>413 Request Entity Too Large</html>", request, 413, ""},
		"busy with a page":                    {429, "<html>", rate, 429, ""},
		"a bad gateway":                       {502, "<html>", dreamcore.FailNetwork, 502, ""},
		"a slow server":                       {524, "", dreamcore.FailAPITimeout, 524, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var n noting
			r := newRig(t, fmtStatus(tc.status, tc.body))
			gr := r.socket.Grant(GrantOptions{Meter: &n})
			for _, body := range []string{testBody, `{"model":"m-1"}`} {
				a := r.do(r.request(body, func(req *http.Request) { req.Header.Set("X-Api-Key", gr.Token()) }))
				if a.status != tc.answers || a.err != nil || gr.Failure() != tc.want {
					t.Errorf("%v, failure %q, want %d and %q", a, gr.Failure(), tc.answers, tc.want)
				}
				if tc.want == auth && (a.header.Get("X-Should-Retry") != "false" || strings.Contains(a.body, "credit") || strings.Contains(a.body, "claude")) {
					t.Errorf("%v", a)
				}
			}
			log := r.log.String()
			if alarm := strings.Contains(log, "level=ERROR"); alarm != (tc.want == auth) || !strings.Contains(log, tc.log) {
				t.Errorf("log, want %q:\n%s", tc.log, log)
			}
			refused, tooLong := gr.Refused()
			if refused != (tc.want == request) || tooLong != strings.HasPrefix(name, "too l") {
				t.Errorf("refused %v, too long %v", refused, tooLong)
			}
			gr.Revoke()
			if n.spent.Tokens != (dreamcore.Tokens{}) || gr.Usage().Tokens != (dreamcore.Tokens{}) {
				t.Errorf("%+v was charged", n.spent.Tokens)
			}
		})
	}
}

func TestUsageBeforeErrorIsCharged(t *testing.T) {
	failed := "event: error\ndata: " + apiErr("overloaded_error", "x") + "\n\n"
	text := `data: {"type":"content_block_delta","delta":{"text":"` + strings.Repeat("x", 400) + "\"}}\n\n"
	for name, tc := range map[string]struct {
		sent          string
		input, output bool
	}{
		"reported":     {eventStart + failed, true, true},
		"made":         {"data: {\"type\":\"message_start\"}\n\n" + text + failed, true, true},
		"made, no end": {eventStart + text, true, true},
		"none of both": {"data: {\"type\":\"message_start\"}\n\n" + failed, false, false},
	} {
		r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
			beginStream(w)
			send(w, tc.sent)
		})
		a := r.post(testBody)
		r.grant.Revoke()
		u := r.grant.Usage().Tokens
		if (u.Prompt() > 0) != tc.input || (u.Output > 0) != tc.output || a.status != 200 {
			t.Errorf("%s: %+v, %v", name, u, a)
		}
	}
}

// After a pause the header has been sent: the error is sent as an event.
func TestLateErrorIsAnEvent(t *testing.T) {
	for name, sent := range map[string]string{"error": "event: error\ndata: " + apiErr("overloaded_error", "x") + "\n\n", "nothing": "", "page": "<html>"} {
		header := make(chan struct{})
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			beginStream(w)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-header:
			case <-req.Context().Done():
			}
			send(w, sent)
		})
		resp, err := r.client.Do(r.request(testBody).WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		close(header)
		var b strings.Builder
		if _, err := io.Copy(&b, resp.Body); err != nil || resp.StatusCode != 200 || !strings.HasPrefix(b.String(), "event: error\ndata: {\"type\":\"error\"") {
			t.Errorf("%s: %d %q %v", name, resp.StatusCode, b.String(), err)
		}
		want := dreamcore.FailRateLimit
		if name == "page" {
			want = dreamcore.FailNetwork
		}
		wantFailure(t, r, want)
		r.grant.Revoke()
		if u := r.grant.Usage(); u.Tokens != (dreamcore.Tokens{}) {
			t.Errorf("%s: %+v", name, u)
		}
	}
}

func TestMissingTokenCountIsNotAFailure(t *testing.T) {
	r := newRig(t, fmtStatus(404, `{"detail":"Not Found"}`))
	a := r.do(r.request(testBody, func(req *http.Request) { req.URL.Path += "/count_tokens" }))
	if a.status != 404 || strings.Contains(r.log.String(), "level=ERROR") {
		t.Errorf("%v\n%s", a, r.log)
	}
	wantFailure(t, r, "")
	if refused, _ := r.grant.Refused(); refused {
		t.Error("counting tokens does not affect a refusal")
	}
}

func TestCompleteAnswerClearsRefusal(t *testing.T) {
	n := 0
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if n++; n == 1 {
			fmtStatus(413, "")(w, req)
			return
		}
		goodStream(w, req)
	})
	r.post(testBody)
	if refused, tooLong := r.grant.Refused(); !refused || !tooLong {
		t.Errorf("refused %v, too long %v", refused, tooLong)
	}
	r.post(testBody)
	if refused, tooLong := r.grant.Refused(); refused || tooLong {
		t.Errorf("refused %v, too long %v", refused, tooLong)
	}
}
