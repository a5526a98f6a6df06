package upstream

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/model/upstream/upstreamtest"
)

func vertexEntry(v *upstreamtest.Vertex) Entry {
	return Entry{Name: "vertex", Kind: Vertex, BaseURL: v.URL, CAFile: v.CAFile, Region: "us-east5", Project: "p", ServiceAccount: "sa", Models: map[string]string{"m-1": "claude-x@20250929"}}
}

func countCall(body string) gateway.Call {
	c := call(body)
	c.Path, c.Query = countTokensPath, ""
	return c
}

func TestVertexLooksLikeTheMessagesAPI(t *testing.T) {
	m := &model{}
	v := upstreamtest.NewVertex(t, "p", "us-east5", m)
	r := newRig(t, secrets{"sa": {"JSON": v.ServiceAccount}}, vertexEntry(v))

	s := r.send(call(testBody))
	if s.err != nil || s.StatusCode != 200 || s.body != wholeStream || s.Model != "claude-x@20250929" || s.Upstream != "vertex" {
		t.Fatalf("%v", s)
	}
	if got := m.last(); !strings.Contains(got, `"model":"claude-x@20250929"`) || !strings.Contains(got, `"x":1.50`) {
		t.Errorf("the model got %s", got)
	}
	if s := r.send(call(strings.Replace(testBody, "true", "false", 1))); s.err != nil || s.body != `{"type":"message","content":[]}` {
		t.Errorf("a complete answer: %v", s)
	}
	if s := r.send(countCall(`{"model":"m-1","messages":[]}`)); s.err != nil || s.body != `{"input_tokens":42}` || !strings.Contains(m.last(), `"model":"claude-x@20250929"`) {
		t.Errorf("a count: %v", s)
	}
	if token := r.members[0].tokens.current; r.hidden.Redact(token) == token {
		t.Error("the token is not kept out of what is printed")
	}
	if v.Tokens() != 1 || len(v.Seen().Refused) != 0 {
		t.Errorf("%d tokens for three requests; refused: %v", v.Tokens(), v.Seen().Refused)
	}
}

func TestTokensAreRefreshedAheadAndReplacedWhenRefused(t *testing.T) {
	v := upstreamtest.NewVertex(t, "p", "us-east5", &model{})
	v.TokenLife = 10 * time.Minute
	r := newRig(t, secrets{"sa": {"JSON": v.ServiceAccount}}, vertexEntry(v))
	source := r.members[0].tokens
	clock := time.Now()
	source.now = func() time.Time { return clock }
	ask := func(want int) {
		t.Helper()
		if s := r.send(call(testBody)); s.err != nil || s.StatusCode != 200 || v.Tokens() != want {
			t.Fatalf("%v; %d tokens, want %d", s, v.Tokens(), want)
		}
	}
	ask(1)
	clock = clock.Add(4 * time.Minute)
	ask(1)
	clock = clock.Add(2 * time.Minute) // four minutes remain
	ask(2)

	v.Forget()
	clock = time.Now()
	if s := r.send(call(testBody)); s.err != nil || s.StatusCode != 401 || !strings.Contains(s.body, `"type":"authentication_error"`) {
		t.Fatalf("a token that the API has forgotten: %v", s)
	}
	ask(3)
}

func TestExpiredTokensAreNotRedactedForever(t *testing.T) {
	v := upstreamtest.NewVertex(t, "p", "us-east5", &model{})
	r := newRig(t, secrets{"sa": {"JSON": v.ServiceAccount}}, vertexEntry(v))
	var tokens []string
	for range hiddenTokens + 3 {
		if s := r.send(call(testBody)); s.err != nil || s.StatusCode != 200 {
			t.Fatalf("%v", s)
		}
		tokens = append(tokens, r.members[0].tokens.current)
		r.members[0].tokens.forget()
	}
	for i, token := range tokens {
		if hidden := r.hidden.Redact(token) != token; hidden != (i >= 3) {
			t.Errorf("token %d of %d: hidden is %v", i, len(tokens), hidden)
		}
	}
}

func TestInvalidServiceAccounts(t *testing.T) {
	v := upstreamtest.NewVertex(t, "p", "us-east5", &model{})
	other := upstreamtest.NewVertex(t, "p", "us-east5", &model{})
	stolen := strings.Replace(other.ServiceAccount, other.URL, v.URL, 1) // the key of another account
	for name, file := range map[string]string{
		"no JSON": "x", "another kind": `{"type":"authorized_user"}`, "no key": `{"type":"service_account","client_email":"a@b"}`,
		"over http":         strings.Replace(v.ServiceAccount, "https://", "http://", 1),
		"the wrong key":     stolen,
		"a key that is cut": strings.Replace(v.ServiceAccount, "MII", "MXX", 1),
	} {
		r := newRig(t, secrets{"sa": {"JSON": file}}, vertexEntry(v))
		s := r.send(call(testBody))
		if !errors.Is(s.err, gateway.ErrNoCredential) || strings.Contains(s.err.Error(), "BEGIN") {
			t.Errorf("%s: %v", name, s)
		}
	}
	if v.Seen().Answered != 0 {
		t.Error("the model was reached")
	}
	if got := strings.Join(v.Seen().Refused, "\n"); !strings.Contains(got, "the signature is wrong") {
		t.Errorf("refused: %s", got)
	}
}

func TestVertexErrorsAreConverted(t *testing.T) {
	v := upstreamtest.NewVertex(t, "p", "us-east5", &model{fails: always(429)})
	e := vertexEntry(v)
	r := newRig(t, secrets{"sa": {"JSON": v.ServiceAccount}}, e)
	if s := r.send(call(testBody)); s.err != nil || s.StatusCode != 429 || !strings.Contains(s.body, `"message":"status 429"`) {
		t.Errorf("the vendor's own error: %v", s)
	}
	e.Region = "europe-west1" // the project is in another region
	r = newRig(t, secrets{"sa": {"JSON": v.ServiceAccount}}, e)
	if s := r.send(call(testBody)); s.err != nil || s.StatusCode != 404 || !strings.HasPrefix(s.body, `{"type":"error","error":{"type":"not_found_error","message":"no such method`) {
		t.Errorf("Google's error: %v", s)
	}
	for _, name := range []string{"..", "a/b", "a:rawPredict", "", "x?y", "%2e"} {
		body := `{"model":` + string(quote(name)) + `,"messages":[]}`
		if s := r.send(call(body)); s.err != nil || s.StatusCode != 404 || !s.Own {
			t.Errorf("model %q: %v", name, s)
		}
	}
}
