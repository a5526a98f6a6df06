package upstream

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
)

func TestFaultsReportsEveryError(t *testing.T) {
	list := []Entry{
		{Name: "Big", Kind: "openai"},
		{Name: "a", Kind: Anthropic, APIKey: "x", Bearer: "y", Region: "r"},
		{Name: "a", Kind: Anthropic, BaseURL: "http://user:TAILTAIL@example.com", APIKey: "No Name", Models: map[string]string{"m": ""}, CAFile: "ca.pem", HeaderTimeout: 1},
		{Name: "v", Kind: Vertex, APIKey: "k", Project: "../x", Region: "a/b"},
		{Name: "b", Kind: Bedrock, Region: "us-east-1", AWSCredentials: "k", AWSFile: "f"},
		{Name: "p", Kind: Bedrock, Region: "us-east-1", AWSCredentials: "k", AWSProfile: "f", ServiceAccount: "s"},
		{Name: "h", Kind: Anthropic, BaseURL: "http://litellm.internal", APIKey: NoKey},
	}
	got := strings.Join(Faults(list), "\n")
	for _, want := range []string{
		"upstreams[0].name: use", `upstreams[0].kind: "openai" must be one of anthropic, vertex, bedrock`,
		"upstreams.a.api_key, bearer:", "upstreams.a.region: is not used by an upstream of kind anthropic",
		"upstreams.a.name: is used by two upstreams", "upstreams.a.base_url: the address of the model API must not have a user",
		`upstreams.a."No Name" is not the name of a secret`, `upstreams.a.models: "m": "" must be`, "upstreams.a.ca_file:", "upstreams.a.header_timeout:",
		"upstreams.v.api_key: is not used by an upstream of kind vertex", "upstreams.v.region:", "upstreams.v.project:", "upstreams.v.service_account: name the secret",
		"upstreams.b.aws_credentials, aws_credentials_file:", `upstreams.b.aws_credentials_file: "f" must be an absolute path`,
		"upstreams.p.aws_profile: requires aws_credentials_file", "upstreams.p.service_account: is not used by an upstream of kind bedrock",
		"upstreams.h.base_url: the address of the model API would send the key in clear text",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no fault %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "TAILTAIL") {
		t.Errorf("a password is quoted:\n%s", got)
	}
}

func TestCloudAddresses(t *testing.T) {
	for want, e := range map[string]Entry{
		"https://api.anthropic.com":                       {Kind: Anthropic},
		"https://us-east5-aiplatform.googleapis.com":      {Kind: Vertex, Region: "us-east5"},
		"https://aiplatform.googleapis.com":               {Kind: Vertex, Region: "global"},
		"https://aiplatform.eu.rep.googleapis.com":        {Kind: Vertex, Region: "eu"},
		"https://bedrock-runtime.us-west-2.amazonaws.com": {Kind: Bedrock, Region: "us-west-2"},
		"http://10.0.0.1:4000":                            {Kind: Anthropic, BaseURL: "http://10.0.0.1:4000"},
	} {
		if got := e.address(); got != want {
			t.Errorf("%+v: %s", e, got)
		}
	}
}

func TestModelNames(t *testing.T) {
	m := &model{}
	e := plainEntry("a", m.serve(t))
	e.APIKey, e.Models = NoKey, map[string]string{"m-1": "qwen3", AnyModel: "rest"}
	r := newRig(t, nil, e)
	for asked, want := range map[string]string{"m-1": "qwen3", "m-2": "rest"} {
		body := strings.Replace(testBody, "m-1", asked, 1)
		s := r.send(call(body))
		if s.err != nil || s.Model != want || m.last() != strings.Replace(body, asked, want, 1) {
			t.Errorf("%s: %v %s", asked, s, m.last())
		}
	}
	if s := r.send(gateway.Call{Path: messagesPath, Body: []byte(`{}`), Header: http.Header{}}); s.err != nil || m.last() != `{}` {
		t.Errorf("no model: %v %s", s, m.last())
	}
}

func TestCheckModel(t *testing.T) {
	mapped := map[string]string{"m-1": "x"}
	for name, tc := range map[string]struct {
		entry Entry
		model string
		want  string // "" if there is no error
	}{
		"an entry":                {Entry{Kind: Bedrock, Models: mapped}, "m-1", ""},
		"another model":           {Entry{Kind: Bedrock, Models: mapped}, "m-2", "the model m-2"},
		"the agent's choice":      {Entry{Kind: Vertex, Models: mapped}, "", "chooses itself"},
		"an alias":                {Entry{Kind: Vertex, Models: mapped}, "sonnet", "substitutes for sonnet"},
		"an entry for all":        {Entry{Kind: Bedrock, Models: map[string]string{"m-1": "x", AnyModel: "y"}}, "", ""},
		"a proxy":                 {Entry{Kind: Anthropic, Models: mapped}, "m-2", "the model m-2"},
		"a proxy without entries": {Entry{Kind: Anthropic}, "", ""},
		"Vertex without entries":  {Entry{Kind: Vertex}, "", ""},
		"Bedrock without entries": {Entry{Kind: Bedrock}, "", "chooses itself"},
		"Bedrock, the vendor's":   {Entry{Kind: Bedrock}, "claude-x", "the model claude-x"},
		"Bedrock, its own name":   {Entry{Kind: Bedrock}, "us.anthropic.claude-x-v1:0", ""},
	} {
		tc.entry.Name = "u"
		err := tc.entry.CheckModel(tc.model)
		if (err == nil) != (tc.want == "") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err != nil && (!strings.Contains(err.Error(), "upstreams.u.models has no entry for ") || !strings.Contains(err.Error(), tc.want) || dreamcore.HintOf(err) == "") {
			t.Errorf("%s: %v (%s)", name, err, dreamcore.HintOf(err))
		}
	}
}

func TestMiswrittenKeyIsRejected(t *testing.T) {
	for _, key := range []string{`"sk-needle-0123456789"`, "ANTHROPIC_API_KEY=sk-needle-0123456789", "Bearer:sk-needle-0123456789"} {
		e := plainEntry("a", "http://127.0.0.1:1")
		s := secrets{"key-a": {"KEY": key}, "aws": {awsKeyID: "AKIDEXAMPLE", awsSecret: key}}
		r := newRig(t, s, e)
		if got := r.send(call(testBody)); !errors.Is(got.err, gateway.ErrNoCredential) {
			t.Errorf("%v", got)
		}
		for _, e := range []Entry{e, {Name: "b", Kind: Bedrock, Region: "us-east-1", AWSCredentials: "aws"}} {
			err := e.Check(s.get)
			if dreamcore.CodeOf(err) != dreamcore.CodeSetup || !strings.Contains(dreamcore.HintOf(err), "replace the secret") || strings.Contains(err.Error(), "needle") {
				t.Errorf("%v (%s)", err, dreamcore.HintOf(err))
			}
		}
	}
}
