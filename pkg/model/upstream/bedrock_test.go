package upstream

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/model/upstream/upstreamtest"
)

var (
	testKeys   = upstreamtest.Keys{ID: "AKIDEXAMPLE", Secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", Session: "session-token-0123456789+/="}
	awsSecrets = secrets{"aws": {awsKeyID: testKeys.ID, awsSecret: testKeys.Secret, awsSession: testKeys.Session}}
)

const bedrockName = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-x-v1:0"

func bedrockEntry(b *upstreamtest.Bedrock) Entry {
	return Entry{Name: "bedrock", Kind: Bedrock, BaseURL: b.URL, CAFile: b.CAFile, Region: "us-east-1", AWSCredentials: "aws", Models: map[string]string{"m-1": bedrockName}}
}

func TestBedrockLooksLikeTheMessagesAPI(t *testing.T) {
	m := &model{}
	b := upstreamtest.NewBedrock(t, "us-east-1", testKeys, m)
	r := newRig(t, awsSecrets, bedrockEntry(b))

	s := r.send(call(testBody))
	if s.err != nil || s.StatusCode != 200 || s.body != wholeStream || s.Model != bedrockName || !s.Regional || !s.Good() || s.Header.Get("Request-Id") == "" {
		t.Fatalf("%v\n%v", s, b.Seen().Refused)
	}
	var got struct {
		Model string   `json:"model"`
		Betas []string `json:"anthropic_beta"`
	}
	if err := json.Unmarshal([]byte(m.last()), &got); err != nil || got.Model != bedrockName || strings.Join(got.Betas, " ") != "interleaved-thinking-2025-05-14 context-1m-2025-08-07" || !strings.Contains(m.last(), `"x":1.50`) {
		t.Errorf("the model got %s", m.last())
	}
	if s := r.send(call(strings.Replace(testBody, "true", "false", 1))); s.err != nil || s.body != `{"type":"message","content":[]}` {
		t.Errorf("a complete answer: %v", s)
	}
	if s := r.send(countCall(`{"model":"m-1","messages":[]}`)); s.err != nil || s.body != `{"input_tokens":42}` || !s.Good() || !strings.Contains(m.last(), `"max_tokens":1`) {
		t.Errorf("a count: %v", s)
	}
	for _, name := range []string{"..", "a/b", bedrockName + "x", "", "arn:aws:x", "a%2Fb"} {
		if s := r.send(call(`{"model":` + string(quote(name)) + `,"messages":[]}`)); s.err != nil || s.StatusCode != 404 || !s.Own {
			t.Errorf("model %q: %v", name, s)
		}
	}
	for _, secret := range []string{testKeys.Secret, testKeys.Session} {
		if r.hidden.Redact(secret) == secret {
			t.Error("a credential is not kept out of what is printed")
		}
	}
	if b.Seen().Protocol != "HTTP/2.0" || len(b.Seen().Refused) != 0 {
		t.Errorf("%s, refused %v", b.Seen().Protocol, b.Seen().Refused)
	}
}

func TestBedrockRejectsInvalidSignatures(t *testing.T) {
	b := upstreamtest.NewBedrock(t, "us-east-1", testKeys, &model{})
	wrong := func(key, value string) secrets {
		v := map[string]string{awsKeyID: testKeys.ID, awsSecret: testKeys.Secret, awsSession: testKeys.Session}
		v[key] = value
		return secrets{"aws": v}
	}
	for name, s := range map[string]secrets{
		"another secret": wrong(awsSecret, "another-secret-0123456789"), "another id": wrong(awsKeyID, "AKIDOTHER"), "another session": wrong(awsSession, "stale-session-token"),
	} {
		got := newRig(t, s, bedrockEntry(b)).send(call(testBody))
		if got.err != nil || got.StatusCode != 401 || !strings.HasPrefix(got.body, `{"type":"error","error":{"type":"authentication_error"`) {
			t.Errorf("%s: %v", name, got)
		}
	}
	r := newRig(t, awsSecrets, bedrockEntry(b))
	b.Ahead = 6 * time.Minute
	if got := r.send(call(testBody)); got.err != nil || got.StatusCode != 401 || !strings.Contains(got.body, "Signature expired") {
		t.Errorf("a clock that is off: %v", got)
	}
	if b.Seen().Answered != 0 {
		t.Error("the model was reached")
	}
}

// Checks the test server's verification of signatures with vectors published by
// AWS and with signatures that it must reject.
func TestVerificationOfSignatures(t *testing.T) {
	at := time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)
	keys := upstreamtest.Keys{ID: "AKIDEXAMPLE", Secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
	for method, signature := range map[string]string{
		"GET":  "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", // get-vanilla
		"POST": "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b", // post-vanilla
	} {
		r, err := http.NewRequest(method, "https://example.amazonaws.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Amz-Date", "20150830T123600Z")
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, Signature="+signature)
		if err := upstreamtest.CheckSigV4(r, nil, keys, "us-east-1", "service", at); err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}

	b := upstreamtest.NewBedrock(t, "us-east-1", testKeys, &model{})
	d := &bedrockDialect{entry: bedrockEntry(b), credentials: credentials{entry: bedrockEntry(b), secret: awsSecrets.get, hide: func(string) {}}.aws, now: time.Now, dropped: dropLog{logger: testLogger(&strings.Builder{})}}
	signed := func() (*http.Request, []byte) {
		c := call(testBody)
		c.Model = bedrockName
		r, _, err := d.Request(context.Background(), b.URL, c)
		if err != nil {
			t.Fatal(err)
		}
		return r, bedrockBody(c)
	}
	for name, change := range map[string]func(r *http.Request, body *[]byte){
		"":                    func(*http.Request, *[]byte) {},
		"body":                func(_ *http.Request, body *[]byte) { *body = append(*body, ' ') },
		"path":                func(r *http.Request, _ *[]byte) { r.URL.Path, r.URL.RawPath = "/model/x/invoke", "" },
		"query":               func(r *http.Request, _ *[]byte) { r.URL.RawQuery = "a=b" },
		"method":              func(r *http.Request, _ *[]byte) { r.Method = "PUT" },
		"host":                func(r *http.Request, _ *[]byte) { r.Host = "other.example.com" },
		"no session":          func(r *http.Request, _ *[]byte) { r.Header.Del("X-Amz-Security-Token") },
		"another content":     func(r *http.Request, _ *[]byte) { r.Header.Set("Content-Type", "text/plain") },
		"an unsigned header":  func(r *http.Request, _ *[]byte) { r.Header.Set("X-Amz-Target", "x") },
		"a signature of none": func(r *http.Request, _ *[]byte) { r.Header.Del("Authorization") },
	} {
		r, body := signed()
		r.Host = r.URL.Host
		change(r, &body)
		if err := upstreamtest.CheckSigV4(r, body, testKeys, "us-east-1", "bedrock", time.Now()); (err == nil) != (name == "") {
			t.Errorf("changed %q: %v", name, err)
		}
	}
	r, body := signed()
	r.Host = r.URL.Host
	for name, err := range map[string]error{
		"another region":  upstreamtest.CheckSigV4(r, body, testKeys, "eu-west-1", "bedrock", time.Now()),
		"another service": upstreamtest.CheckSigV4(r, body, testKeys, "us-east-1", "s3", time.Now()),
		"late":            upstreamtest.CheckSigV4(r, body, testKeys, "us-east-1", "bedrock", time.Now().Add(6*time.Minute)),
	} {
		if err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestBedrockErrorsAreConverted(t *testing.T) {
	for status, want := range map[int]string{429: "rate_limit_error", 529: "overloaded_error", 500: "api_error", 403: "permission_error", 400: "invalid_request_error"} {
		b := upstreamtest.NewBedrock(t, "us-east-1", testKeys, &model{fails: always(status)})
		s := newRig(t, awsSecrets, bedrockEntry(b)).send(call(testBody))
		if s.err != nil || s.StatusCode != status || !strings.HasPrefix(s.body, `{"type":"error","error":{"type":"`+want+`","message":"`) {
			t.Errorf("%d: %v", status, s)
		}
	}
	for name, want := range map[string]int{
		"ThrottlingException:http://x/": 429, "com.amazon.coral.service#ExpiredTokenException": 401, "throttlingException": 429,
		"ModelTimeoutException": 504, "SomethingNewException": 418, "": 418,
	} {
		if got := gateway.KindStatus(name, 418); got != want {
			t.Errorf("%q: %d", name, got)
		}
	}
}

func TestAWSProfiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	text := "# mine\n[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key=" + testKeys.Secret + "\n; x\naws_session_token = " + testKeys.Session +
		"\n\n[profile role]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = default\n[half]\naws_access_key_id = A\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b := upstreamtest.NewBedrock(t, "us-east-1", testKeys, &model{})
	e := bedrockEntry(b)
	e.AWSCredentials, e.AWSFile = "", file
	if s := newRig(t, nil, e).send(call(testBody)); s.err != nil || s.body != wholeStream {
		t.Errorf("%v %v", s, b.Seen().Refused)
	}
	for _, profile := range []string{"role", "half", "missing"} {
		e.AWSProfile = profile
		err := e.Check(secrets{}.get)
		if dreamcore.CodeOf(err) != dreamcore.CodeSetup || dreamcore.HintOf(err) == "" || strings.Contains(err.Error(), testKeys.Secret) {
			t.Errorf("%s: %v", profile, err)
		}
	}
}

func TestTokenCountInAnyNotation(t *testing.T) {
	for body, want := range map[string]string{
		`{"inputTokens":42}`: `{"input_tokens":42}`, `{"inputTokens":42.0,"x":[]}`: `{"input_tokens":42}`, `{"inputTokens":"42"}`: `{"input_tokens":42}`, `{"inputTokens":4e5}`: `{"input_tokens":400000}`,
		`{"inputTokens":-1}`: "", `{"inputTokens":null}`: "", `{"inputTokens":{}}`: "", `{}`: "", `[]`: "", "": "", `{"inputTokens":"NaN"}`: "", `{"inputTokens":1e99}`: "",
	} {
		resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
		bedrockCount(resp)
		got, _ := io.ReadAll(resp.Body)
		if want != "" && (resp.StatusCode != 200 || string(got) != want) || want == "" && resp.StatusCode != 502 {
			t.Errorf("%s: %d %s", body, resp.StatusCode, got)
		}
	}
}
