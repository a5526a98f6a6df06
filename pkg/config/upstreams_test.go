package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/model/upstream"
)

func TestUpstreamsAreRead(t *testing.T) {
	want := []upstream.Entry{
		{Name: "vertex", Kind: "vertex", Region: "us-east5", Project: "p", ServiceAccount: "sa/JSON", HeaderTimeout: 5 * time.Second, Models: map[string]string{"claude-4.5": "claude@1", "*": "x"}},
		{Name: "local", Kind: "anthropic", BaseURL: "http://10.0.0.5:4000", APIKey: "none"},
	}
	file := `
upstreams:
  - {name: vertex, kind: vertex, region: us-east5, project: p, service_account: sa/JSON, header_timeout: 5s, models: {claude-4.5: claude@1, "*": x}}
  - name: local
    kind: anthropic
    base_url: http://10.0.0.5:4000
    api_key: none
`
	c, err := load(t, file, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, c.Upstreams); diff != "" {
		t.Errorf("from a file: %s", diff)
	}
	json := `[{"name":"vertex","kind":"vertex","region":"us-east5","project":"p","service_account":"sa/JSON","header_timeout":"5s","models":{"claude-4.5":"claude@1","*":"x"}},` +
		`{"name":"local","kind":"anthropic","base_url":"http://10.0.0.5:4000","api_key":"none"}]`
	c, err = load(t, "upstreams: []", []string{"DREAMCORE_UPSTREAMS=" + json}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, c.Upstreams); diff != "" {
		t.Errorf("from the environment: %s", diff)
	}
}

func TestUpstreamsWithFaultsAreRefused(t *testing.T) {
	for file, want := range map[string][]string{
		"upstreams: x":                                              {"list"},
		"upstreams: {name: x}":                                      {"list"},
		"upstreams: [x]":                                            {"number 1:"},
		"upstreams: [{nme: x, api_key: 7}]":                         {"number 1:", "nme", "api_key"},
		"upstreams: [{name: x, KIND: vertex}]":                      {"KIND"},
		"upstreams: [{name: x, header_timeout: 5}]":                 {"header_timeout", "at least 1s"},
		"upstreams: [{name: A, kind: b}, {name: c, kind: bedrock}]": {"upstreams[0].name", "upstreams[0].kind", "upstreams.c.region", "upstreams.c.aws_credentials"},
		"upstream: https://x.example.com\nupstreams: [{name: a, kind: anthropic, api_key: none}]": {"upstream (ANTHROPIC_BASE_URL) and upstreams"},
	} {
		_, err := load(t, file, nil, nil)
		if err == nil {
			t.Errorf("%s: taken", file)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v; want %q", file, err, w)
			}
		}
	}
}
